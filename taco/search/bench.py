"""Time models where a run can: on this machine or on the attached device, by the protocol of the target."""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import statistics
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from taco.attached.ondevice import Device
from taco.device.probe import computer
from taco.device.request import LEAST_ITERATIONS
from taco.device.runtimes import version_of
from taco.errors import MeasurementError
from taco.latency.table import device_words
from taco.targets.loading import Target
from taco.timing.measure import MeasureOptions, measure
from taco.timing.stability import steady
from taco.timing.timings import BenchResult, Ratio, pooled, rounds_within
from taco.transport import LocalTransport

log = logging.getLogger(__name__)

_REPEATS = 4
#: Runs at least where the value itself counts, not the verdict alone: one run may lie 4 % off.
VALUE_RUNS = 3
#: Share of the threshold, how many runs so near to it, and the standard error of their mean that will do. Runs of the
#: same two files differ by a standard deviation of 0.5 to 1.7 % on a quiet machine and up to 5 % on a disturbed one;
#: what is asked to take 95 to 100 % of a budget lies within 2.5 % of the middle of that.
_NEAR, _FEWEST_NEAR, _MOST_NEAR, _SURE = 0.06, 3, 8, 0.007
#: What counts as the machine's usual state (the fastest of quiet runs lies up to 9 % below the others, a neighbour on
#: the same cores slowed it by 22 to 42 %, for a tenth of a second to minutes); seconds until it is looked at again
#: where that lasts; and how often in one job.
_SAME_STATE, _PAUSE_S, _WAITS = 0.12, 5.0, 10
#: Share of a run's rounds that must be of the usual state, together with those of the runs before.
_ENOUGH = 0.5
#: A target's time limit is meant for a run of so many models.
_USUAL_MODELS = 4


def measurable(target: Target, device: Device | None) -> bool:
    """Whether times can be taken: on this machine, or on a real device that is attached."""
    return target.local if device is None else device.emulated is None


def measured_on(target: Target, device: Device | None, runtimes: Collection[str] = ()) -> dict[str, Any]:
    """Return what of a machine its times depend on, as JSON values: the same at every look at one machine.

    Args:
        target: What is aimed at.
        device: What is attached; None is this machine, if the target is that, else nothing.
        runtimes: That take part beside the target's own, as targets name them.
    """
    if device is not None:
        return {"device": device.key(target.runtime)}
    if not target.local:
        return {}
    versions = {name: version_of(name) for name in sorted({target.runtime, *runtimes})}
    return {"machine": {**device_words(computer()), "runtimes": versions}}


@dataclasses.dataclass(slots=True)
class State:
    """What a job knows of the machine's state.

    Attributes:
        quickest: Dense model -> the least p50 that `Bench.as_usual` has seen of it, milliseconds.
        waits: How often it may still be waited for.
    """

    quickest: dict[Path, float] = dataclasses.field(default_factory=dict)
    waits: int = _WAITS


@dataclasses.dataclass(frozen=True, slots=True)
class Bench:
    """Where and how this run measures: the target's protocol on this machine or a device, through the device agent.

    Attributes:
        target: In the precision that is used.
        threads: Threads of the timed models; None is every physical core.
        folder: Work folder on this machine.
        device: What is attached; None is this machine.
        steady: See `taco.timing.measure.MeasureOptions`.
        most_rounds: Likewise.
        steady_s: Likewise.
        least_iterations: Likewise.
        state: Of the machine, as far as this job has seen it.
    """

    target: Target
    threads: int | None
    folder: Path
    device: Device | None = None
    steady: float = 0.0
    most_rounds: int = 1
    steady_s: float | None = None
    least_iterations: int = LEAST_ITERATIONS
    state: State = dataclasses.field(default_factory=State, compare=False, repr=False)

    @property
    def measurable(self) -> bool:
        """Whether times can be taken; those of an emulated device mean nothing and are not."""
        return measurable(self.target, self.device)

    def key(self, runtimes: Collection[str] = ()) -> dict[str, Any]:
        """Return what a measurement depends on beside the models, as JSON values; see `measured_on`."""
        asked = {**dataclasses.asdict(self.target), "run_threads": self.threads}
        return {**asked, **measured_on(self.target, self.device, runtimes)}

    def time(self, models: Mapping[str, Path], rounds: int | None = None) -> BenchResult:
        """Time models against each other, each in its own process, interleaved."""
        return self._measure(models, self._options(rounds))

    def until_steady(self, models: Mapping[str, Path], repeat_s: float) -> BenchResult:
        """Time models against each other until every interval is small, or they have been repeated for so long.

        Args:
            models: Name -> file; the first is what the others are compared with.
            repeat_s: After so many seconds rounds are no longer repeated; 0 asks for one pass.
        """
        return dataclasses.replace(self, steady_s=repeat_s).time(models)

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
            steady=self.steady,
            most_rounds=self.most_rounds,
            steady_s=self.steady_s,
            least_iterations=self.least_iterations,
        )

    def settle(
        self,
        models: Mapping[str, Path],
        threshold: float | None,
        rounds: int | None = None,
        usual_ms: float | None = None,
        least_runs: int = 1,
    ) -> BenchResult:
        """Time again, pooling the rounds, until it is clear on which side of `threshold` the speed-up lies.

        Its interval must not hold the threshold: a busy machine widens it, and a verdict is worth its time.
        Near the threshold that is not enough. What disturbs a machine often lasts longer than a run, so runs of the
        same files differ by more than their intervals say; there runs go on until their mean is known to `_SURE`.

        Args:
            models: Name -> file, `dense` and `compressed` among them.
            threshold: Speed-up whose verdict should be sure; None is content with one run.
            rounds: Of one run; None is the target's own number.
            usual_ms: What the dense model usually takes here, see `as_usual`.
            least_runs: So many at least where there is a threshold: the value itself counts, not the verdict alone.
        """
        result = self.as_usual(models, usual_ms, rounds)
        ratio = result.speedup("dense", "compressed")
        values = [ratio.value]
        while threshold is not None and (len(values) < least_runs or _doubtful(ratio, threshold, values)):
            log.debug("speed-up %.2f (%.2f to %.2f) against %.2f: again", ratio.value, ratio.low, ratio.high, threshold)
            again = self.as_usual(models, usual_ms, rounds)
            values.append(again.speedup("dense", "compressed").value)
            result = pooled(result, again)
            ratio = result.speedup("dense", "compressed")
        return result

    def as_usual(self, models: Mapping[str, Path], usual_ms: float | None, rounds: int | None = None) -> BenchResult:
        """Time, and again while too few rounds show the machine in its usual state.

        Heat, or a neighbour on the same cores, slows small models by another factor than large ones. Rounds count in
        which the dense model takes what it usually does, of all runs together; the other models' times decide nothing
        (docs/adr/0012). A machine that is faster than usual was disturbed until now: that is what is usual from then
        on. All waiting of a job is limited: where it was in vain, what is asked is answered in the state that is, by
        the run in which the dense model was fastest.

        Args:
            models: Name -> file, `dense` among them.
            usual_ms: p50 of the dense model in many earlier runs; None takes the first run.
            rounds: As in `time`.
        """
        found = [self._seen(models, self.time(models, rounds))]
        while usual_ms is not None:
            usual = self._usual(models, usual_ms)
            quiet = _quiet(found, usual)
            if quiet is not None and quiet.rounds >= _ENOUGH * found[0].rounds:
                return quiet
            if self.state.waits <= 0:
                break
            log.info(
                "the dense model took %.3g ms, usually %.3g ms: something slows this machine; measuring again",
                *(found[-1].models["dense"].p50_ms, usual),
            )
            self.state.waits -= 1
            if _quiet(found[-1:], usual) is None:  # not for a moment: it may last
                time.sleep(_PAUSE_S)
            found.append(self._seen(models, self.time(models, rounds)))
        return min(found, key=lambda result: result.models["dense"].p50_ms)

    def _usual(self, models: Mapping[str, Path], usual_ms: float) -> float:
        return min(usual_ms, self.state.quickest.get(models["dense"], usual_ms))

    def _seen(self, models: Mapping[str, Path], result: BenchResult) -> BenchResult:
        took, quickest = result.models["dense"].p50_ms, self.state.quickest
        quickest[models["dense"]] = min(took, quickest.get(models["dense"], took))
        return result


def _quiet(found: Sequence[BenchResult], usual_ms: float) -> BenchResult | None:
    """Put the rounds of all runs together in which nothing slowed the dense model; None where there is none.

    Args:
        found: Runs of the same models.
        usual_ms: What the dense model usually takes.
    """
    most_ms = (1 + _SAME_STATE) * usual_ms
    kept = [one for result in found if (one := rounds_within(result, "dense", most_ms)) is not None]
    if not kept:
        return None
    together = functools.reduce(pooled, kept)
    return dataclasses.replace(together, set_aside=sum(result.rounds for result in found) - together.rounds)


def _doubtful(ratio: Ratio, threshold: float, values: Sequence[float]) -> bool:
    """Whether runs do not tell yet on which side of a threshold a speed-up lies.

    Args:
        ratio: Of all rounds of all runs.
        threshold: What is asked.
        values: Of every run.
    """
    if abs(ratio.value / threshold - 1) > _NEAR:
        return len(values) < _REPEATS and ratio.low < threshold <= ratio.high
    if len(values) < _FEWEST_NEAR:
        return True
    return len(values) < _MOST_NEAR and statistics.stdev(values) / math.sqrt(len(values)) > _SURE * ratio.value
