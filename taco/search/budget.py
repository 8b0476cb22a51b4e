"""Find the widths: on measured latency where the target is this machine, on MACs where it is not."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from torch import nn

from taco.allocate import MARGIN, Allocation, by_macs, by_speedup, candidates, uniform
from taco.attached.ondevice import Device
from taco.compress import UnitSolution, stitch
from taco.errors import BudgetInfeasibleError, InputError, MeasurementError, UnsupportedModuleError
from taco.exporters.protocol import Artifact, Exporter
from taco.options import ExportOptions
from taco.progress import Advance
from taco.rundir import RunDir
from taco.surgery.size import count_macs
from taco.targets.loading import Target, list_targets, load_target
from taco.timing.measure import MeasureOptions, measure
from taco.timing.stability import steady
from taco.timing.timings import BenchResult, Ratio, pooled
from taco.transport import LocalTransport
from taco.units import WITHIN_BLOCKS, UnitMap, steps_of

log = logging.getLogger(__name__)

#: How widths are found: unit by unit, or with one ratio.
How = Literal["latency", "uniform"]

_TRIAL_ROUNDS = 15
_REPEATS = 4
#: A target's time limit is meant for a run of so many models.
_USUAL_MODELS = 4


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
            return f"the accuracy lost on the select pictures, at most {self.max_drop:g} points (--max-drop)"
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
            "Leave it out, and give --allocation latency: the table of this device is measured and kept",
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
    """Return how widths are found: auto is one ratio, and unit by unit where limits hold or a table is given."""
    if options.allocation != "auto":
        return options.allocation
    return "latency" if budget.limits or budget.estimated else "uniform"


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


def measurable(target: Target, device: Device | None) -> bool:
    """Whether times can be taken: on this machine, or on a real device that is attached."""
    return target.local if device is None else device.emulated is None


@dataclasses.dataclass(frozen=True, slots=True)
class Bench:
    """Where and how this run measures: the target's protocol on this machine or a device, through the device agent."""

    target: Target
    threads: int | None
    folder: Path
    device: Device | None = None

    @property
    def measurable(self) -> bool:
        """Whether times can be taken; those of an emulated device mean nothing and are not."""
        return measurable(self.target, self.device)

    def key(self) -> dict[str, Any]:
        """Return what a measurement depends on beside the models, as JSON values."""
        key = {**dataclasses.asdict(self.target), "run_threads": self.threads}
        return key if self.device is None else {**key, "device": self.device.key(self.target.runtime)}

    def time(self, models: Mapping[str, Path], rounds: int | None = None) -> BenchResult:
        """Time models against each other, each in its own process, interleaved."""
        return self._measure(models, self._options(rounds))

    def together(self, models: Mapping[str, Path], providers: Mapping[str, str]) -> BenchResult:
        """Time many models, also of several runtimes, in one interleaved run; the time limit grows with their number.

        Args:
            models: Name -> file.
            providers: Name -> ONNX Runtime provider or OpenVINO device, where it is not the target's own.
        """
        options = self._options(None)
        seconds = options.max_seconds * max(1.0, len(models) / _USUAL_MODELS)
        return self._measure(models, dataclasses.replace(options, max_seconds=seconds, providers=dict(providers)))

    def _measure(self, models: Mapping[str, Path], options: MeasureOptions) -> BenchResult:
        if not self.measurable:
            raise MeasurementError(f"no time of a {self.target.name} can be taken: none is attached, or it is emulated")
        if self.device is not None:
            return self.device.measure(models, options)
        self.folder.mkdir(parents=True, exist_ok=True)
        return measure(LocalTransport(self.folder), models, options)

    def conditions(self, models: Mapping[str, Path], idle_s: float) -> BenchResult:
        """Time models on a device once more, for the report: cold, warm and after idling; again if disturbed.

        Engines are timed warm only: trtexec loads them for every run.
        """
        pause = 0.0 if self.target.runtime == "trt" else idle_s
        device, options = self.device, dataclasses.replace(self._options(None), idle_s=pause, focus="compressed")
        if device is None:
            raise MeasurementError("there is no device to measure on")
        return steady(lambda: device.measure(models, options))

    def _options(self, rounds: int | None) -> MeasureOptions:
        protocol = self.target.benchmark
        return MeasureOptions(
            threads=self.threads,
            rounds=rounds or protocol.rounds,
            round_ms=protocol.round_ms,
            max_seconds=protocol.max_seconds,
            provider=self.target.provider,
        )

    def settle(self, models: Mapping[str, Path], threshold: float | None, rounds: int | None = None) -> BenchResult:
        """Time again, pooling the rounds, until the speed-up's interval lies on one side of `threshold`.

        A busy machine widens the interval; a verdict is worth the time that it takes. At most `_REPEATS` runs.
        """
        result = self.time(models, rounds)
        for _ in range(_REPEATS - 1):
            ratio = result.speedup("dense", "compressed")
            if threshold is None or ratio.low >= threshold or ratio.high < threshold:
                break
            log.debug("speed-up %.2f (%.2f to %.2f) against %.2f: again", ratio.value, ratio.low, ratio.high, threshold)
            result = pooled(result, self.time(models, rounds))
        return result


@dataclasses.dataclass(frozen=True, slots=True)
class Searcher:
    """Everything that judging one allocation needs; `trial` exports a module whose time alone matters."""

    dense: nn.Module
    solutions: Mapping[str, UnitSolution]
    trial: Callable[[nn.Module, Path], object]
    bench: Bench
    dense_artifact: Artifact
    input_size: tuple[int, int, int]
    scratch: Path
    rundir: RunDir

    @property
    def uniform(self) -> list[Allocation]:
        """Every allocation with one ratio for all units, the dense one first."""
        dense = {name: s.unit.width for name, s in self.solutions.items() if s.unit.kind in WITHIN_BLOCKS}
        steps = steps_of((s.unit for s in self.solutions.values()), self.bench.target.channel_multiple)
        return candidates(dense, steps) or [uniform(dense, 1.0, steps)]

    def find(self, budget: Budget, advance: Advance) -> dict[str, Any]:
        """Find the allocation; returns JSON values so that the run can store them.

        Returns:
            `candidates`: the chosen ratio and widths, then the next narrower ones, should a final measurement fall
            short; and `trials`.
        """
        options = self.uniform
        trials: dict[float, float] = {}
        if budget.speedup is not None:
            threshold = budget.speedup * MARGIN
            chosen = by_speedup(options, budget.speedup, lambda a: self._measured(a, threshold, trials, advance))
        else:
            chosen = by_macs(options, budget.macs or 1.0, lambda a: self._macs(a, trials, advance))
        found = [chosen, *(a for a in options if a.ratio < chosen.ratio)]
        return {"candidates": [dataclasses.asdict(a) for a in found], "trials": list(trials.items())}

    def _measured(
        self, allocation: Allocation, threshold: float, trials: dict[float, float], advance: Advance
    ) -> float:
        """Return the speed-up of one allocation; measured once, and stored for a run that goes on after a kill."""
        if allocation.ratio not in trials:
            depends = self.timed_key(allocation, threshold)
            found = self.rundir.json_step("trial", depends, lambda: self._sure(allocation, threshold), measured=True)
            trials[allocation.ratio] = float(found)
            advance(1)
        return trials[allocation.ratio]

    def _sure(self, allocation: Allocation, threshold: float) -> float:
        ratio = self.time(allocation, threshold)
        # a speed-up counts when its interval clears what was asked, not by a lucky median on a busy machine
        return min(ratio.value, ratio.low * MARGIN)

    def timed_key(self, allocation: Allocation, threshold: float) -> dict[str, Any]:
        """Return what the time of an allocation depends on, as JSON values."""
        return {
            "dense": self.dense_artifact.sha256,
            "widths": dict(allocation.widths),
            "threshold": threshold,
            "target": self.bench.key(),
        }

    def time(self, allocation: Allocation, threshold: float) -> Ratio:
        """Cut, export and time one allocation beside the dense model, until it is clear of `threshold` or not."""
        file = self.scratch / "trial.onnx"
        module = stitch(self.dense, self.solutions, allocation.widths)
        self.trial(module, file)
        models = {"dense": self.dense_artifact.path, "compressed": file}
        ratio = self.bench.settle(models, threshold, _TRIAL_ROUNDS).speedup("dense", "compressed")
        log.info(
            "widths at %.0f %%: %.2f times as fast (%.2f to %.2f over %d rounds)",
            *(100 * allocation.ratio, ratio.value, ratio.low, ratio.high, len(ratio.rounds)),
        )
        return ratio

    def _macs(self, allocation: Allocation, trials: dict[float, float], advance: Advance) -> int:
        if allocation.ratio not in trials:
            module = self.dense
            if allocation.ratio < 1:
                module = stitch(self.dense, self.solutions, allocation.widths)
            trials[allocation.ratio] = count_macs(module, self.input_size)
            advance(1)
        return int(trials[allocation.ratio])


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
