"""Whether a measurement was disturbed: its rounds differ too much, or the machine was throttled or changed its mode."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import replace

from taco.timing.timings import BenchResult

#: Standard deviation over mean of the round medians above which a measurement counts as disturbed.
MOST_VARIATION = 0.10
_MUST_STAY = ("throttling", "power mode", "governor")


def disturbances(result: BenchResult) -> tuple[str, ...]:
    """Say what disturbed a measurement.

    Args:
        result: One run.

    Returns:
        In words; empty for a quiet one. What the device does not tell is no disturbance.
    """
    found = [
        f"the times of {name} vary by {variation:.0%} between rounds"
        for name, timing in result.models.items()
        if (variation := _variation([statistics.median(samples) for samples in timing.rounds_ms])) > MOST_VARIATION
    ]
    return (*found, *_changes(result.measured_on))


def steady(take: Callable[[], BenchResult]) -> BenchResult:
    """Measure; a disturbed measurement is repeated once, and flagged if it is disturbed again."""
    first = take()
    why = disturbances(first)
    if not why:
        return first
    second = take()
    return replace(second, unstable=disturbances(second), repeated=True)


def _variation(medians: list[float]) -> float:
    return statistics.pstdev(medians) / statistics.mean(medians) if len(medians) > 1 else 0.0


def _changes(measured_on: Mapping[str, str]) -> list[str]:
    pairs = ((name, measured_on.get(f"{name} before"), measured_on.get(f"{name} after")) for name in _MUST_STAY)
    return [f"{name} went from {before} to {after}" for name, before, after in pairs if before != after]
