"""Allocations in order, from the dense model to the smallest: what a search for accuracy climbs down."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from taco.allocate import Allocation


@dataclasses.dataclass(frozen=True, slots=True)
class Rung:
    """One allocation.

    Attributes:
        allocation: The widths.
        loop: What the report tells of how the device decided them; None where it did not.
        at: Which of the run's sizes of pictures it is for, see `taco.steps.sizes.Sizes.every`.
    """

    allocation: Allocation
    loop: Mapping[str, Any] | None = None
    at: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Start:
    """The step that a search begins with, by what a run for another device took.

    Attributes:
        at: The step.
        taken: What the report tells where the step has the very widths of that run: nothing needs to be searched if
            they lose little enough. None where the step is only expected to lose as much.
    """

    at: int
    taken: Mapping[str, Any] | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Ladder:
    """All of them; a rung may take long to make, so it is made when it is asked for.

    Attributes:
        harms: What each is expected to lose before recovery, rising from 0 of the dense model; in any unit.
        rung: Index -> the rung; 0 is the dense model.
        start: Where to begin; None where nothing tells.
    """

    harms: Sequence[float]
    rung: Callable[[int], Rung]
    start: Start | None = None
