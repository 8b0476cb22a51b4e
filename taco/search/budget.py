"""What is asked of a run: its budget and limits, whether they can be held here, and how widths are then found."""

from __future__ import annotations

import dataclasses
from typing import Literal

from taco.errors import BudgetInfeasibleError, InputError, MeasurementError, UnsupportedModuleError
from taco.exporters.protocol import Exporter
from taco.options import ExportOptions
from taco.targets.loading import Target, list_targets, load_target
from taco.units import UnitMap
from taco.wording import asked_points

#: How widths are found: unit by unit, or with one ratio.
How = Literal["latency", "uniform"]


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """What holds beside the budget; None does not.

    Attributes:
        size_bytes: Of the file that is shipped.
        macs: Multiply-accumulates of one picture.
        memory_bytes: Of activations at a time, as torch runs one picture.
    """

    size_bytes: float | None = None
    macs: float | None = None
    memory_bytes: float | None = None

    def __bool__(self) -> bool:
        return any(limit is not None for limit in (self.size_bytes, self.macs, self.memory_bytes))


@dataclasses.dataclass(frozen=True, slots=True)
class Budget:
    """What decides: a speed-up, milliseconds, a share of the MACs (1 cuts nothing), zeros, points, or given widths.

    `limits` hold beside it; a share of 1 then is no reason to cut nothing.
    `estimated`: no clock here decides on the first two but a table from elsewhere.
    """

    speedup: float | None
    macs: float | None
    sparsity: float | None = None
    latency_ms: float | None = None
    max_drop: float | None = None
    given: bool = False
    limits: Limits = dataclasses.field(default_factory=Limits)
    estimated: bool = False

    @property
    def timed(self) -> bool:
        """Whether a clock decides."""
        return self.speedup is not None or self.latency_ms is not None

    @property
    def words(self) -> str:
        """What chose the widths, for the report."""
        if self.estimated:
            return "an estimate by a latency table from elsewhere, not measured latency"
        if self.timed:
            return "measured latency"
        if self.sparsity is not None:
            return f"{self.sparsity:.1%} of the weights to be zero; widths stay"
        if self.max_drop is not None:
            return f"the accuracy lost on held-out shots, at most {asked_points(self.max_drop)} (--max-drop)"
        if self.given:
            return "a person (--widths)"
        if self.macs == 1 and self.limits:
            return "limits on the model, not measured latency"
        return "nothing was cut (--macs 1)" if self.macs == 1 else "MACs, not measured latency"

    @property
    def cuts(self) -> bool:
        """Whether anything is to become narrower."""
        return self.macs != 1 or bool(self.limits)


def decide_budget(options: ExportOptions, target: Target, *, measurable: bool) -> Budget:
    """Turn the flags into a budget.

    Args:
        options: The flags.
        target: What is aimed at.
        measurable: Whether times can be taken: on this machine, or on an attached device.

    Raises:
        MeasurementError: A speed-up is asked where nothing can be measured, or levels by their measured time are.
        InputError: A table from elsewhere is given where times can be taken.
    """
    estimated = options.latency_table is not None
    if estimated and measurable:
        raise InputError(
            f"--latency-table is for a device that is not at hand, and {target.name} can be timed",
            "Leave it out: the table of this device is measured and kept",
        )
    if options.sparse:
        return Budget(None, 1.0, options.zeros)
    if options.widths is not None:
        return Budget(None, None, given=True)
    if options.max_drop is not None:
        if options.allocation == "latency" and not measurable:
            raise MeasurementError(
                f"--allocation latency needs a measurement on the {target.name}, and none can be taken",
                "Leave --allocation out: --max-drop then looks for the fewest MACs, and says so",
            )
        return Budget(None, None, max_drop=options.max_drop)
    limits = Limits(options.max_bytes, options.max_macs, options.max_memory)
    if options.speedup is None and options.latency_ms is None:
        usual = 1.0 if limits else target.default_macs
        return Budget(None, usual if options.macs is None else options.macs, limits=limits)
    if not measurable and not estimated:
        flag = "--latency-ms" if options.speedup is None else "--speedup"
        raise MeasurementError(
            f"{flag} needs a measurement on the {target.name}, and none that can be timed is attached",
            f"Give --macs SHARE instead (default {target.default_macs:g}); it is chosen by MACs and says so",
        )
    return Budget(options.speedup, None, latency_ms=options.latency_ms, limits=limits, estimated=estimated)


def decide_allocation(options: ExportOptions, budget: Budget) -> How:
    """Return how widths are found: auto is unit by unit where a clock, a table, limits or MACs decide.

    With `--max-drop` it is one ratio: each candidate of that search is recovered, and few are.
    """
    if options.allocation != "auto":
        return options.allocation
    return "uniform" if budget.max_drop is not None else "latency"


def units_or_error(found: UnitMap, budget: Budget, model: str) -> None:
    """Refuse a budget for a model in which nothing can be cut.

    Raises:
        UnsupportedModuleError: There is nothing to cut and a cut was asked.
    """
    if found.within_blocks or not budget.cuts or (budget.speedup is not None and budget.speedup <= 1):
        return
    raise UnsupportedModuleError(
        f"{model} has no inner widths that this version can cut{_why(found)}",
        "Choose another --model, or --macs 1 to export it as it is",
    )


def _why(found: UnitMap) -> str:
    return f": {found.dense[0].name}: {found.dense[0].reason}" if found.dense else ""


def chosen_target(options: ExportOptions) -> Target:
    """Return the target, on the OpenVINO device that was asked.

    Raises:
        TargetError: There is no such target.
        InputError: A device was asked, and the target's runtime is not OpenVINO.
    """
    target = load_target(options.target)
    if options.runtime_device is None:
        return target
    if target.runtime != "ov":
        names = ", ".join(t.name for t in list_targets() if t.runtime == "ov")
        raise InputError(f"--runtime-device is for OpenVINO, and {target.name} has another runtime", f"Aim at {names}")
    return dataclasses.replace(target, provider=options.runtime_device)


def check_size(limits: Limits, size_bytes: int) -> None:
    """Refuse a file that exceeds the limit although its prediction did not.

    Raises:
        BudgetInfeasibleError: It is too large.
    """
    if limits.size_bytes is not None and size_bytes > limits.size_bytes:
        raise BudgetInfeasibleError(
            f"--max-bytes {limits.size_bytes:g}: the exported file takes {size_bytes}",
            f"Ask for --max-bytes {1.02 * size_bytes:.3g}",
        )


def check_runtime(exporter: Exporter, target: Target) -> None:
    """Refuse a local target whose runtime is missing.

    Raises:
        MeasurementError: Says what is missing.
    """
    missing = exporter.check(target) if target.local else []
    if missing:
        raise MeasurementError(
            f"{target.name} cannot be measured here: {'; '.join(missing)}", "Install what is missing"
        )


def check_input(options: ExportOptions) -> None:
    """Refuse an output folder that lies inside the pictures.

    Raises:
        InputError: The bundle would become part of the task.
    """
    task, out = options.task.resolve(), options.out.resolve()
    if task.is_dir() and (out == task or task in out.parents):
        raise InputError(f"--out {options.out} lies inside the pictures {options.task}", "Choose another folder")
