"""How many points of accuracy a model has lost, from few pictures: right answers and how sure of them it is.

With 32 select pictures one answer is 3 points, so that a limit of one point could only be told apart by luck. How much
of the probability of the true class is lost is seen on every picture and varies little, but is not the same thing. Both
are estimates of the same loss, and are averaged by how far each may be wrong (docs/adr/0019): few pictures are judged
mostly by probabilities, thousands by right answers. Numpy only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from taco.device.statistics import Z_95
from taco.errors import InputError
from taco.metrics.accuracy import Drop, paired_drop

#: Near the top a right answer's probability p falls twice as fast as how often it is right: the mean of p over answers
#: that are right p of the time is p^2 + (1 - p)^2, about 1 - 2 (1 - p).
_HALF = 0.5
#: Share of what probabilities say that may be wrong because a small model is less sure of answers that stay right.
_DOUBT = 0.5
_LEAST_VARIANCE = 1e-6


@dataclass(frozen=True, slots=True)
class DropEstimate:
    """Points that one model loses against another.

    Attributes:
        points: The estimate; positive is a loss.
        counted: By right answers alone, with its paired interval.
        by_probability: By the probability of the true class alone, points.
        weight: Of `counted` in `points`, 0-1.
    """

    points: float
    counted: Drop
    by_probability: float
    weight: float


def estimate_drop(
    labels: NDArray[np.integer], first: NDArray[np.floating], second: NDArray[np.floating], *, balanced: bool
) -> DropEstimate:
    """Estimate how much less often the second model is right.

    Args:
        labels: (n,) int, true classes.
        first: (n, classes) float, softmax of the dense model.
        second: (n, classes) float, softmax of the other one.
        balanced: Whether each class weighs the same, as `Score.balanced` says.

    Raises:
        InputError: No picture, or arrays that do not pair up.
    """
    if first.ndim != 2 or first.shape != second.shape or len(first) != labels.size:
        raise InputError(
            f"probabilities {first.shape} and {second.shape} do not pair up with {labels.size} labels",
            "Judge both models on the same pictures",
        )
    counted = paired_drop(labels, first.argmax(1), second.argmax(1), balanced)
    points, variance = _by_probability(labels, first, second, balanced=balanced)
    doubted = variance + (_DOUBT * points) ** 2 + _LEAST_VARIANCE
    deviation = (counted.high - counted.low) / (2 * Z_95)
    precisions = 1 / (deviation**2 + _LEAST_VARIANCE), 1 / doubted
    weight = precisions[0] / math.fsum(precisions)
    return DropEstimate(weight * counted.points + (1 - weight) * points, counted, points, weight)


def _by_probability(
    labels: NDArray[np.integer], first: NDArray[np.floating], second: NDArray[np.floating], *, balanced: bool
) -> tuple[float, float]:
    """Return points lost by the probability of the true class, and the variance of that mean."""
    rows = np.arange(labels.size)
    lost = 100 * _HALF * (first[rows, labels].astype(np.float64) - second[rows, labels])
    group = np.unique(labels, return_inverse=True)[1] if balanced else np.zeros(labels.size, np.intp)
    counts = np.bincount(group).astype(np.float64)
    weights = 1 / (counts[group] * counts.size)
    mean = float(weights @ lost)
    scale = labels.size / max(1, labels.size - 1)
    return mean, scale * float(weights**2 @ (lost - mean) ** 2)
