"""Uncertainty of counts on the device and on the host: the formulas of `taco.metrics.accuracy`, on plain numbers.

Wilson (1927) for one proportion; for paired differences the adjusted Wald interval of Agresti and Min (2005), spread
over classes as Price and Bonett (2004) spread theirs. `taco.metrics.accuracy` has the sources in full.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any, NamedTuple, Tuple

import numpy as np

Z_95 = NormalDist().inv_cdf(0.975)
Z_ONE_SIDED_95 = NormalDist().inv_cdf(0.95)


class PairedDrop(NamedTuple):
    """A paired difference of accuracies in points: first minus second, its 95 % interval, and the one-sided bound."""

    points: float
    low: float
    high: float
    lower_one_sided: float


def wilson_ends(correct: int, n: int, z: float = Z_95) -> Tuple[float, float]:
    """Return the ends of Wilson's interval of `correct` of `n`, as shares; `n` is at least 1, `z` a normal quantile."""
    share = correct / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return centre - half, centre + half


def paired(labels: Any, first: Any, second: Any, balanced: bool) -> PairedDrop:
    """Return how much more often the first is right than the second.

    Args:
        labels: (n,) int, true classes; n is at least 1.
        first: (n,) int, answers.
        second: (n,) int, answers.
        balanced: Whether each class weighs the same.
    """
    return paired_shares(labels, labels == first, labels == second, balanced)


def paired_shares(labels: Any, first: Any, second: Any, balanced: bool) -> PairedDrop:
    """Return how much more often the first is right than the second, where a picture may be right in part.

    Args:
        labels: (n,) int, true classes; n is at least 1.
        first: (n,) bool, or float from 0 to 1: how far it is right.
        second: (n,) the same.
        balanced: Whether each class weighs the same.
    """
    ahead = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    group = np.unique(labels, return_inverse=True)[1] if balanced else np.zeros(labels.size, dtype=np.intp)
    n = np.bincount(group).astype(np.float64)
    sums = np.bincount(group, ahead, minlength=n.size)
    n_adjusted = n + 2 / n.size
    difference = sums / n_adjusted
    discordant = (np.bincount(group, ahead**2, minlength=n.size) + 1 / n.size) / n_adjusted
    variance = (discordant - difference**2) / n_adjusted
    centre, deviation = float(np.mean(difference)), math.sqrt(float(np.sum(variance))) / n.size
    point = float(np.mean(sums / n))
    return PairedDrop(
        points=100 * point,
        low=100 * max(-1.0, min(centre - Z_95 * deviation, point)),
        high=100 * min(1.0, max(centre + Z_95 * deviation, point)),
        lower_one_sided=100 * max(-1.0, min(centre - Z_ONE_SIDED_95 * deviation, point)),
    )
