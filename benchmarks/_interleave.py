"""Time two functions in turn and print the median of their per-round ratios."""

from __future__ import annotations

import time
from collections.abc import Callable

from taco.timing.timings import median_ratio


def compare(label: str, baseline: Callable[[], object], ours: Callable[[], object], rounds: int = 7) -> float:
    """Run both once unmeasured, then in turn; prints and returns baseline time over ours."""
    baseline(), ours()
    ratios, mine = [], []
    for _ in range(rounds):
        begin = time.perf_counter()
        baseline()
        middle = time.perf_counter()
        ours()
        end = time.perf_counter()
        ratios.append((middle - begin) / (end - middle))
        mine.append(end - middle)
    ratio = median_ratio(ratios)
    print(
        f"{label}: {ratio.value:.2f} times as fast as the baseline ({ratio.low:.2f} to {ratio.high:.2f} over {rounds} "
        f"rounds; ours {1e3 * sorted(mine)[rounds // 2]:.1f} ms)"
    )
    return ratio.value
