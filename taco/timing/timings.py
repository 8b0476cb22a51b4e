"""Times of models from one interleaved run, and what may be concluded from them.

A speed-up is the median over interleaved rounds of the ratio of two models' round medians (ARCHITECTURE section 8): a
shared machine changes speed for seconds at a time, which moves both models of one round alike. Its interval is the
exact order-statistic interval of a median, which assumes nothing about the distribution.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from taco.errors import InputError

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio of times with its spread.

    Attributes:
        value: Median of the rounds' ratios.
        low: Lower end of the interval of that median.
        high: Upper end.
        coverage: How sure the interval is (0-1): at least 0.95 from 6 rounds on, honestly less below.
        rounds: The ratio of every round, in the order taken.
    """

    value: float
    low: float
    high: float
    coverage: float
    rounds: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ModelTiming:
    """Times of one model.

    Attributes:
        rounds_ms: Every sample in milliseconds, by round.
        provider: Execution provider really used.
        runtime_name: What ran it.
        runtime_version: Its version on the device.
        cold_ms: Its very first run, milliseconds; None where the runtime does not tell.
        session: Options of the session, read back from the runtime.
    """

    rounds_ms: tuple[tuple[float, ...], ...]
    provider: str
    runtime_name: str
    runtime_version: str
    cold_ms: float | None
    session: Mapping[str, Any]

    @property
    def samples_ms(self) -> tuple[float, ...]:
        """Every sample in milliseconds, in the order taken."""
        return tuple(sample for samples in self.rounds_ms for sample in samples)

    @property
    def medians_ms(self) -> tuple[float, ...]:
        """The median of every round."""
        return tuple(float(np.median(samples)) for samples in self.rounds_ms)

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self.samples_ms)

    @property
    def min_ms(self) -> float:
        """Fastest sample."""
        return min(self.samples_ms)

    @property
    def p50_ms(self) -> float:
        """Median."""
        return self._percentile(50)

    @property
    def p90_ms(self) -> float:
        """90th percentile."""
        return self._percentile(90)

    @property
    def p99_ms(self) -> float:
        """99th percentile."""
        return self._percentile(99)

    def _percentile(self, percent: float) -> float:
        return float(np.percentile(self.samples_ms, percent))


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """Rounds with another number of threads.

    Attributes:
        threads: How many.
        rounds_ms: Model -> every sample in milliseconds, by round.
    """

    threads: int
    rounds_ms: Mapping[str, tuple[tuple[float, ...], ...]]


@dataclass(frozen=True, slots=True)
class Minute:
    """One minute of work without a pause.

    Attributes:
        minute: From 1.
        seconds: How long it really was.
        n: Runs.
        p50_ms: Their median, milliseconds.
        p90_ms: Their 90th percentile.
        state: The machine's state at its end, as `taco.device.probe.telemetry` tells it.
        package_w: Mean power of an Intel package in watts; None where it cannot be read.
        power_w: Mean readings of the board's rails while it worked, watts; empty where nothing tells.
    """

    minute: int
    seconds: float
    n: int
    p50_ms: float
    p90_ms: float
    state: Mapping[str, Any]
    package_w: float | None
    power_w: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BenchResult:
    """One interleaved run.

    Attributes:
        models: Times by model name.
        threads: Threads each model used.
        rounds: Rounds done.
        stopped_early: Whether `max_seconds` ended it before the rounds that were asked for.
        measured_on: The device in words: machine, processor, system, clocks and temperatures before and after.
        focus: The model that `idle_ms` and `sustained` are of.
        idle_ms: Its first runs after a pause, milliseconds; empty where none was asked for.
        sweep: The same with other numbers of threads.
        sustained: Minutes of work without a pause.
        emulated: How the device is emulated, which makes its times worthless; None for a real one.
        unstable: What disturbed the measurement, in words; empty for a quiet one.
        repeated: Whether it was taken a second time because the first was disturbed.
        set_aside: Rounds that do not count, because something slowed the machine in them.
        rest_w: Mean readings of the board's rails in the pauses, watts; empty without pauses or where nothing tells.
        rest_package_w: Mean power of an Intel package in the pauses, watts; None where it cannot be read.
    """

    models: Mapping[str, ModelTiming]
    threads: int
    rounds: int
    stopped_early: bool
    measured_on: Mapping[str, str]
    focus: str = ""
    idle_ms: tuple[float, ...] = ()
    sweep: tuple[SweepPoint, ...] = ()
    sustained: tuple[Minute, ...] = ()
    emulated: str | None = None
    unstable: tuple[str, ...] = ()
    repeated: bool = False
    set_aside: int = 0
    rest_w: Mapping[str, float] = field(default_factory=dict)
    rest_package_w: float | None = None

    def speedup(self, dense: str, other: str) -> Ratio:
        """How many times faster one model is than another, from their common rounds.

        Args:
            dense: Name of the model to compare with.
            other: Name of the model that should be faster.

        Returns:
            Above 1 where `other` is faster.

        Raises:
            InputError: A name was not measured.
        """
        for name in (dense, other):
            if name not in self.models:
                raise InputError(f"{name!r} was not measured", f"Measured are: {', '.join(map(repr, self.models))}.")
        pairs = zip(self.models[dense].rounds_ms, self.models[other].rounds_ms, strict=True)
        return median_ratio([float(np.median(slow) / np.median(fast)) for slow, fast in pairs])

    def steady_ms(self, name: str, reference: str) -> float:
        """Return milliseconds of a model by which models of this run may be compared.

        Its own p50 may be of moments in which the machine was faster than it was for others.

        Args:
            name: The model.
            reference: The model whose p50, over how many times as fast the other one is, is told.

        Raises:
            InputError: A name was not measured.
        """
        ratio = self.speedup(reference, name).value
        return self.models[reference].p50_ms / ratio


def pooled(first: BenchResult, second: BenchResult) -> BenchResult:
    """Put the rounds of two runs of the same models on the same device together.

    Args:
        first: Gives the machine's state before.
        second: Gives the machine's state after.

    Raises:
        InputError: They timed different models, or with different threads.
    """
    if set(first.models) != set(second.models) or first.threads != second.threads:
        raise InputError("two measurements of different models cannot be pooled", "Measure the same models again.")
    models = {
        name: replace(timing, rounds_ms=timing.rounds_ms + second.models[name].rounds_ms)
        for name, timing in first.models.items()
    }
    after = {key: text for key, text in second.measured_on.items() if key.endswith("after")}
    return replace(
        first,
        models=models,
        rounds=first.rounds + second.rounds,
        set_aside=first.set_aside + second.set_aside,
        stopped_early=first.stopped_early or second.stopped_early,
        measured_on={**first.measured_on, **after},
    )


def rounds_within(result: BenchResult, model: str, most_ms: float) -> BenchResult | None:
    """Return only the rounds in which a model's median is at most so many milliseconds; None where there is none.

    What slows a machine for seconds at a time slows small models by another factor than large ones: rounds of two of
    its states must not be mixed.
    """
    return some_rounds(result, [n for n, ms in enumerate(result.models[model].medians_ms) if ms <= most_ms])


def some_rounds(result: BenchResult, kept: Sequence[int]) -> BenchResult | None:
    """Return only the rounds with these numbers, from 0; None where there is none."""
    if not kept:
        return None
    models = {
        name: replace(timing, rounds_ms=tuple(timing.rounds_ms[n] for n in kept))
        for name, timing in result.models.items()
    }
    return replace(result, models=models, rounds=len(kept))


def median_ratio(ratios: Sequence[float], confidence: float = CONFIDENCE) -> Ratio:
    """Median of ratios with its distribution-free interval.

    The k-th smallest and k-th largest of n samples hold the median with probability 1 - 2 P(Binomial(n, 1/2) < k); k is
    the largest that still gives `confidence`. With few samples (fewer than 6 for 95 %) no k does: the whole range is
    given, with its coverage.

    Args:
        ratios: At least one.
        confidence: How sure the interval should be (0-1).

    Returns:
        The median and its interval.
    """
    ordered = sorted(ratios)
    n = len(ordered)
    tails = [2 * math.fsum(math.comb(n, i) for i in range(k)) / 2**n for k in range(1, n // 2 + 1)]
    k = max((k for k, tail in enumerate(tails, start=1) if tail <= 1 - confidence), default=1)
    coverage = 1 - tails[k - 1] if tails else 0.0
    return Ratio(float(np.median(ordered)), ordered[k - 1], ordered[n - k], coverage, tuple(ratios))
