"""Every error a person can meet, with its exit code.

    TacoError                          1   something in taco-export itself went wrong
    ├── InputError                     2   wrong usage or input
    │   ├── TaskError                  2   the pictures or their labels
    │   │   └── UnreadableImageError   2   one picture cannot be decoded
    │   ├── HeadError                  2   classes cannot be matched to the model's head
    │   ├── WeightsError               2   weights missing, damaged or of another architecture
    │   ├── TargetError                2   an unknown target or a bad target file
    │   ├── BundleError                2   a bundle that is missing, damaged or from a newer version
    │   └── UnsupportedModuleError     2   a layer that cannot be handled
    ├── BudgetInfeasibleError          3   the budget cannot be reached; says what can
    ├── GateError                      4   a check failed, nothing was shipped
    ├── SolverError                    4   a numerical failure, with the layer and a damping to try
    └── MeasurementError               5   a device, runtime or measurement is missing
        └── LinkError                  5   the link to a device cannot be made, or broke

0 is success, 130 an interruption (Ctrl-C). Messages say what is wrong, where, and what to do about it.
"""

from __future__ import annotations

from typing import ClassVar

EXIT_OK = 0
EXIT_INTERRUPTED = 130


class TacoError(Exception):
    """Base of the tree.

    Args:
        what: What is wrong and where, one sentence without a final full stop.
        todo: What the person can do about it, an imperative sentence; empty when there is nothing to add.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, todo: str = "") -> None:
        super().__init__(what, todo)
        self.what = what
        self.todo = todo

    def __str__(self) -> str:
        return f"{self.what}. {self.todo}" if self.todo else self.what


class InputError(TacoError):
    """Wrong usage or input."""

    exit_code = 2


class TaskError(InputError):
    """The pictures or their labels cannot be used."""


class UnreadableImageError(TaskError):
    """One picture cannot be decoded; callers list it and go on."""


class HeadError(InputError):
    """The classes cannot be matched to the model's head."""


class WeightsError(InputError):
    """Weights are missing, damaged, or belong to another architecture."""


class TargetError(InputError):
    """An unknown target, or a target file that does not say what it must."""


class BundleError(InputError):
    """A bundle is missing, damaged, or written by a newer version."""


class UnsupportedModuleError(InputError):
    """A layer that this version cannot handle."""


class BudgetInfeasibleError(TacoError):
    """The asked budget cannot be reached; the message names what can."""

    exit_code = 3


class GateError(TacoError):
    """A check on the result failed; nothing was shipped."""

    exit_code = 4


class SolverError(GateError):
    """A numerical failure in a layer; the message names the layer and a damping to try."""


class MeasurementError(TacoError):
    """A device, a runtime or a measurement is missing."""

    exit_code = 5


class LinkError(MeasurementError):
    """The link to a device cannot be made, or broke; what may be repeated can be tried again."""
