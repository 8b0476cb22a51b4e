"""Which width every unit keeps. First version: one ratio for all, found on measured latency or on MACs.

No torch here: widths in, widths out; measuring and counting are injected.
"""

from __future__ import annotations

import dataclasses
import functools
import math
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


def uniform(dense: Mapping[str, int], ratio: float, steps: Mapping[str, int]) -> Allocation:
    """Scale every width by `ratio`, rounded to its step, at least one step and at most the dense width.

    Args:
        dense: Unit -> width.
        ratio: 0-1.
        steps: Unit -> kept widths are multiples of this.
    """

    def scaled(width: int, step: int) -> int:
        return min(width, max(step, round(width * ratio / step) * step)) if ratio < 1 else width

    return Allocation(ratio, {name: scaled(width, steps[name]) for name, width in dense.items()})


def candidates(dense: Mapping[str, int], steps: Mapping[str, int]) -> list[Allocation]:
    """Return every distinct uniform allocation, widest first, from the dense model to one step everywhere."""
    found: list[Allocation] = []
    for i in range(_GRID, 0, -1):
        allocation = uniform(dense, i / _GRID, steps)
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
    counted = functools.cache(lambda i: macs(options[i]))
    kept = functools.cache(lambda i: counted(i) / counted(0))
    index = _first(len(options), lambda i: kept(i) <= share)
    if index is None:
        least = kept(len(options) - 1)
        raise BudgetInfeasibleError(
            f"--macs {share:g} cannot be reached by inner widths: the narrowest model keeps {least:.3f} of the MACs",
            f"Ask for --macs {math.ceil(100 * least) / 100:.2f} or more, or choose a smaller model",
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
    measured: dict[int, float] = {}

    def fast_enough(i: int) -> bool:
        if i == 0:
            return False
        measured[i] = measure(options[i])
        return measured[i] >= asked * MARGIN

    index = _first(len(options), fast_enough)
    if index is None:
        raise _too_slow(options, asked, measured)
    return options[index]


def _too_slow(options: Sequence[Allocation], asked: float, measured: Mapping[int, float]) -> BudgetInfeasibleError:
    what = f"a speed-up of {asked:g} cannot be reached by inner widths on this device"
    if not measured:
        return BudgetInfeasibleError(f"{what}: there is nothing to cut", "Choose another --model")
    best = max(measured, key=lambda i: measured[i])  # with noise it need not be the narrowest
    reachable = max(1.0, math.floor(10 * measured[best] / MARGIN) / 10)
    return BudgetInfeasibleError(
        f"{what}: the fastest model that was measured (every inner width at {options[best].ratio:.0%}) is "
        f"{measured[best]:.2f} times as fast as the dense one, {MARGIN:g} times what is asked is needed",
        f"Ask for --speedup {reachable:.1f} or less, or choose a smaller --model",
    )


def _first(n: int, holds: Callable[[int], bool]) -> int | None:
    """Return the smallest index where a predicate that turns true once holds, None where never; asks none twice."""
    low, high = 0, n
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low if low < n else None
