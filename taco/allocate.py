"""Which width every unit keeps. First version: one ratio for all, found on measured latency or on MACs.

No torch here: widths in, widths out; measuring and counting are injected.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from taco.errors import BudgetInfeasibleError

#: A measured ratio must exceed what was asked by this much, so that a second measurement confirms it.
MARGIN = 1.03
_GRID = 40


@dataclasses.dataclass(frozen=True, slots=True)
class Allocation:
    """Widths to keep.

    Attributes:
        ratio: The uniform ratio before rounding to the channel multiple.
        widths: Unit -> channels kept.
    """

    ratio: float
    widths: Mapping[str, int]


def uniform(dense: Mapping[str, int], ratio: float, multiple: int) -> Allocation:
    """Scale every width by `ratio`, rounded to `multiple`, at least one multiple and at most the dense width."""

    def scaled(width: int) -> int:
        return min(width, max(multiple, round(width * ratio / multiple) * multiple)) if ratio < 1 else width

    return Allocation(ratio, {name: scaled(width) for name, width in dense.items()})


def candidates(dense: Mapping[str, int], multiple: int) -> list[Allocation]:
    """Return every distinct uniform allocation, widest first, from the dense model to one multiple everywhere."""
    found: list[Allocation] = []
    for i in range(_GRID, 0, -1):
        allocation = uniform(dense, i / _GRID, multiple)
        if not found or allocation.widths != found[-1].widths:
            found.append(allocation)
    return found


def by_macs(options: Sequence[Allocation], share: float, macs: Callable[[Allocation], int]) -> Allocation:
    """Return the widest allocation that keeps at most `share` of the dense MACs.

    Args:
        options: Widest first; the first is the dense model.
        share: 0-1.
        macs: Counts one allocation.

    Raises:
        BudgetInfeasibleError: Even the narrowest keeps more.
    """
    dense = macs(options[0])
    index = _first(len(options), lambda i: macs(options[i]) <= share * dense)
    if index is None:
        least = macs(options[-1]) / dense
        raise BudgetInfeasibleError(
            f"--macs {share:g} cannot be reached by inner widths: the narrowest model keeps {least:.3f} of the MACs",
            f"Ask for --macs {least + 0.005:.2f} or more, or choose a smaller model",
        )
    return options[index]


def by_speedup(options: Sequence[Allocation], asked: float, measure: Callable[[Allocation], float]) -> Allocation:
    """Return the widest allocation whose MEASURED speed-up exceeds what was asked, with a margin for noise.

    Args:
        options: Widest first; the first is the dense model.
        asked: Dense time over compressed time.
        measure: Measures one allocation on the device.

    Raises:
        BudgetInfeasibleError: Even the narrowest is too slow; says how fast it is.
    """
    if asked <= 1.0:
        return options[0]
    index = _first(len(options), lambda i: i > 0 and measure(options[i]) >= asked * MARGIN)
    if index is None:
        fastest = measure(options[-1])
        raise BudgetInfeasibleError(
            f"a speed-up of {asked:g} cannot be reached by inner widths on this device: the narrowest model "
            f"(every inner width at {options[-1].ratio:.0%}) was measured {fastest:.2f} times as fast as the dense one",
            f"Ask for --speedup {max(1.0, fastest / MARGIN - 0.05):.1f} or less, or choose a smaller --model",
        )
    return options[index]


def _first(n: int, holds: Callable[[int], bool]) -> int | None:
    """Return the smallest index where a predicate that turns true once holds, by bisection; None where never."""
    low, high = 0, n  # holds(high) is assumed; checked when it is the last
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low if low < n else None
