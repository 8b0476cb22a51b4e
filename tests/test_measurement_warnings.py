"""Tests of `taco.summaries.measurement`: what a reader is told of a measurement that was not quiet."""

from __future__ import annotations

import dataclasses

from taco.summaries.measurement import measurement_warnings
from taco.timing.timings import BenchResult, ModelTiming


def bench(compressed: float = 1.0, threads: int = 2, set_aside: int = 0) -> BenchResult:
    """Ten rounds; the compressed model takes half, and in every second round so many times more."""
    models = {
        name: ModelTiming(tuple((ms * (factor if n % 2 else 1.0),) * 3 for n in range(10)), "CPU", "fake", "0", 1.0, {})
        for name, ms, factor in (("dense", 2.0, 1.0), ("compressed", 1.0, compressed))
    }
    return BenchResult(models, threads, 10, False, {}, set_aside=set_aside)


def test_a_quiet_measurement_or_none_needs_no_warning() -> None:
    assert measurement_warnings(None) == []
    assert measurement_warnings(bench()) == []
    assert measurement_warnings(bench(set_aside=1)) == []


def test_rounds_set_aside_are_told_and_what_may_steady_several_threads() -> None:
    (several,), (one,) = (measurement_warnings(bench(threads=n, set_aside=6)) for n in (2, 1))
    assert several.startswith("6 of 16 rounds of the last measurement do not count")
    assert "--threads 1" in several
    assert several.startswith(one)
    assert "--threads" not in one


def test_an_early_end_and_a_busy_machine_are_told() -> None:
    early, busy = measurement_warnings(dataclasses.replace(bench(compressed=1.6), stopped_early=True))
    assert "time limit" in early
    assert "busy" in busy
    assert "between 1.25 and 2.00" in busy
