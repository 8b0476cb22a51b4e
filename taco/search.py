"""Find the widths: on measured latency where the target is this machine, on MACs where it is not."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from taco.allocate import MARGIN, Allocation, by_macs, by_speedup, candidates, uniform
from taco.compress import UnitSolution, stitch
from taco.errors import InputError, MeasurementError, UnsupportedModuleError
from taco.exporters.protocol import Artifact, Exporter
from taco.measure import MeasureOptions, measure
from taco.ondevice import Device
from taco.options import ExportOptions
from taco.progress import Advance
from taco.rundir import RunDir
from taco.size import count_macs
from taco.stability import steady
from taco.targets.loading import Target
from taco.timings import BenchResult, Ratio, pooled
from taco.transport import LocalTransport
from taco.units import UnitMap, steps_of

log = logging.getLogger(__name__)

_TRIAL_ROUNDS = 15
_REPEATS = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Budget:
    """What decides: a speed-up, milliseconds, a share of the MACs (1 cuts nothing), or weights that become zero.

    `estimated` says that no clock here decides on the first two but a table from elsewhere.
    """

    speedup: float | None
    macs: float | None
    sparsity: float | None = None
    latency_ms: float | None = None
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
        return "nothing was cut (--macs 1)" if self.macs == 1 else "MACs, not measured latency"


def decide_budget(options: ExportOptions, target: Target, *, measurable: bool) -> Budget:
    """Turn the flags into a budget.

    Args:
        options: The flags.
        target: What is aimed at.
        measurable: Whether times can be taken: on this machine, or on an attached device.

    Raises:
        MeasurementError: A speed-up is asked where nothing can be measured.
        InputError: A table from elsewhere is given where times can be taken.
    """
    if options.latency_table is not None:
        if measurable:
            raise InputError(
                f"--latency-table is for a device that is not at hand, and {target.name} can be timed",
                "Leave it out, and give --allocation latency: the table of this device is measured and kept",
            )
        return Budget(options.speedup, None, latency_ms=options.latency_ms, estimated=True)
    if options.sparse:
        return Budget(None, 1.0, options.zeros)
    if options.speedup is None and options.latency_ms is None:
        return Budget(None, target.default_macs if options.macs is None else options.macs)
    if not measurable:
        flag = "--latency-ms" if options.speedup is None else "--speedup"
        raise MeasurementError(
            f"{flag} needs a measurement on the {target.name}, and none that can be timed is attached",
            f"Give --macs SHARE instead (default {target.default_macs:g}); it is chosen by MACs and says so",
        )
    return Budget(options.speedup, None, latency_ms=options.latency_ms)


def units_or_error(found: UnitMap, budget: Budget, model: str) -> None:
    """Refuse a budget for a model in which nothing can be cut.

    Raises:
        UnsupportedModuleError: There is nothing to cut and a cut was asked.
    """
    if found.within_blocks or budget.macs == 1 or (budget.speedup is not None and budget.speedup <= 1):
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
        options = self._options(rounds)
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

    def find(self, budget: Budget, advance: Advance) -> dict[str, Any]:
        """Find the allocation; returns JSON values so that the run can store them.

        Returns:
            `candidates`: the chosen ratio and widths, then the next narrower ones, should a final measurement fall
            short; and `trials`.
        """
        dense_widths = {name: s.unit.width for name, s in self.solutions.items()}
        steps = steps_of((s.unit for s in self.solutions.values()), self.bench.target.channel_multiple)
        options = candidates(dense_widths, steps) or [uniform(dense_widths, 1.0, steps)]
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
