"""Whether a measurement was disturbed: its rounds differ too much, or the machine was throttled or changed its mode."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Mapping
from dataclasses import replace

from taco.timing.timings import BenchResult

#: Standard deviation over mean of the round medians above which a measurement counts as disturbed.
MOST_VARIATION = 0.10
_MUST_STAY = ("throttling", "power mode", "governor")
#: What bits 0 to 3 of a Raspberry Pi's flags say of this moment; bits 16 to 19 say it of the time since its start.
_PI_NOW = (
    "short of voltage (a thin cable or a weak supply)",
    "held below its full clock",
    "throttled",
    "at its soft temperature limit",
)
#: The kernel writes the number without 0x, the board's own program with it.
_PI_FLAGS = re.compile(r"\braspberry_pi_flags (?:0x)?([0-9a-f]+)\b", re.IGNORECASE)


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
    return (*found, *_changes(result.measured_on), *_limits(result.measured_on))


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


def _limits(measured_on: Mapping[str, str]) -> list[str]:
    """Say what held a Raspberry Pi back, also where it did so all the time and nothing changed."""
    flags = {moment: _pi_flags(measured_on.get(f"throttling {moment}", "")) for moment in ("before", "after")}
    found = []
    for bit, words in enumerate(_PI_NOW):
        moments = [moment for moment, value in flags.items() if value >> bit & 1]
        if moments:
            found.append(f"the board was {words} {' and '.join(moments)} the rounds")
    return found


def _pi_flags(throttling: str) -> int:
    match = _PI_FLAGS.search(throttling)
    return int(match.group(1), 16) if match else 0
