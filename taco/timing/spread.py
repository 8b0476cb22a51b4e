"""How far the devices of one kind lie apart, and which of them is the slow one. No torch, no device here."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from taco.timing.timings import median_ratio

#: A device counts as slow when it surely takes this many times what the others take.
SLOW = 1.10
#: What of a machine's state may explain that it is slow.
_EXPLAINS = (
    *("board", "processor", "cores", "os", "kernel", "memory", "governor before", "power mode before"),
    *("clocks after", "throttling after", "temperatures after"),
)


@dataclass(frozen=True, slots=True)
class Spread:
    """How long the same model takes on several devices.

    Attributes:
        p50_ms: Device -> median of its rounds' medians, milliseconds.
        fastest: The device with the least.
        slowest: The device with the most.
        ratio: The slowest one's time over the fastest one's.
        slow: Device -> how many times the median of the others it takes, of those that surely take more than `SLOW`
            times as long: the whole 95 % interval of its own median lies above that.
    """

    p50_ms: Mapping[str, float]
    fastest: str
    slowest: str
    ratio: float
    slow: Mapping[str, float]


def spread(rounds_ms: Mapping[str, Sequence[float]]) -> Spread | None:
    """Compare devices by the medians of their rounds.

    Args:
        rounds_ms: Device -> median milliseconds of every round, at least one.

    Returns:
        None where fewer than two devices were measured.
    """
    if len(rounds_ms) < 2:
        return None
    found = {name: median_ratio(rounds) for name, rounds in rounds_ms.items()}
    p50 = {name: middle.value for name, middle in found.items()}
    slow = {}
    for name, middle in found.items():
        others = statistics.median(value for other, value in p50.items() if other != name)
        if middle.low > SLOW * others:
            slow[name] = middle.value / others
    fastest, slowest = min(p50, key=p50.__getitem__), max(p50, key=p50.__getitem__)
    return Spread(p50, fastest, slowest, p50[slowest] / p50[fastest], slow)


def differences(one: Mapping[str, str], others: Sequence[Mapping[str, str]]) -> list[str]:
    """Say in what a device differs from all others, which may be why it is slow.

    Args:
        one: What it was measured on, in words (`taco.timing.measure`).
        others: The same of the other devices.

    Returns:
        Each as `governor before powersave (others: performance)`; what nobody tells is left out.
    """
    found = []
    for name in _EXPLAINS:
        mine, theirs = one.get(name, "unknown"), sorted({other.get(name, "unknown") for other in others})
        if theirs and mine != "unknown" and (mine not in theirs) and theirs != ["unknown"]:
            found.append(f"{name} {mine} ({'others' if len(others) > 1 else 'the other'}: {'; '.join(theirs)})")
    return found
