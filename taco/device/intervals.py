"""How sure the ratio of two times is, from the rounds that both took part in. Needs nothing but Python."""

from __future__ import annotations

import math
import statistics
from typing import List, Sequence, Tuple

#: An interval of a median leaves out no more than this.
_MOST_OUTSIDE = 0.05


def ratios(slow: Sequence[Sequence[float]], fast: Sequence[Sequence[float]]) -> List[float]:
    """Return one time over another, medians of every common round."""
    return [statistics.median(a) / statistics.median(b) for a, b in zip(slow, fast)]  # noqa: B905 - Python 3.8


def median_interval(values: Sequence[float]) -> Tuple[float, float, float]:
    """Return a median and its order-statistic interval, as `taco.timing.timings.median_ratio` does on the host."""
    ordered, n = sorted(values), len(values)
    k, tail = 1, 0.0
    for count in range(1, n // 2 + 1):
        tail += 2 * math.comb(n, count - 1) / 2**n
        if tail > _MOST_OUTSIDE:
            break
        k = count
    return statistics.median(ordered), ordered[k - 1], ordered[n - k]


def relative_width(slow: Sequence[Sequence[float]], fast: Sequence[Sequence[float]]) -> float:
    """Return the width of the interval of one time over another, as a share of its median.

    Args:
        slow: Samples by round.
        fast: The same of the other model.
    """
    value, low, high = median_interval(ratios(slow, fast))
    return (high - low) / value
