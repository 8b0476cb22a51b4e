"""Accuracy with its uncertainty: proportions, class-balanced top-1, paired drops. Numpy only.

Everything a person sees is in percent (0-100) or percent points. A few hundred pictures leave real doubt about the last
percent, so that no figure here comes without its 95 % interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from taco.device.statistics import Z_95, paired, wilson_ends
from taco.errors import InputError


@dataclass(frozen=True, slots=True)
class Proportion:
    """A percentage, its 95 % interval and the number of pictures behind it.

    Attributes:
        percent: The figure itself, 0-100.
        low: Lower end of the 95 % interval, percent.
        high: Upper end of the 95 % interval, percent.
        n: How many pictures were counted.
    """

    percent: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Score:
    """Accuracy of one model on labelled pictures.

    Attributes:
        top1: Share of right answers, or the mean of the class recalls when `balanced`.
        per_class: Recall of each class; None for a class without a picture.
        balanced: Whether `top1` weighs each class equally because the classes are unequal in number.
    """

    top1: Proportion
    per_class: dict[str, Proportion | None]
    balanced: bool

    @classmethod
    def from_predictions(
        cls, labels: NDArray[np.integer], predicted: NDArray[np.integer], classes: Sequence[str]
    ) -> Score:
        """Count right answers.

        Args:
            labels: (n,) int, true class indices into `classes`.
            predicted: (n,) int, predicted indices; one outside `classes` is a wrong answer.
            classes: Class names, each once.

        Raises:
            InputError: No picture, arrays of unequal length, or a label outside `classes`.
        """
        _check(labels, predicted)
        outside = np.unique(labels[(labels < 0) | (labels >= len(classes))])
        if outside.size:
            raise InputError(
                f"labels {outside[:5].tolist()} are outside the {len(classes)} classes",
                "Pass the task's own class list.",
            )
        totals = np.bincount(labels, minlength=len(classes))
        rights = np.bincount(labels[labels == predicted], minlength=len(classes))
        balanced = is_unequal(totals)
        per_class = {
            name: wilson(int(right), int(total)) if total else None
            for name, right, total in zip(classes, rights, totals, strict=True)
        }
        top1 = balanced_mean(rights, totals) if balanced else wilson(int(rights.sum()), int(totals.sum()))
        return cls(top1, per_class, balanced)


def called(labels: NDArray[np.integer], predicted: NDArray[np.integer], index: int) -> tuple[int, Proportion] | None:
    """Count the pictures of other classes that are given the answer `index`, such as the animals called blank.

    Args:
        labels: (n,) int, true classes.
        predicted: (n,) int, answers.
        index: The answer.

    Returns:
        How many, and their share of the pictures of other classes; None where there are no such pictures.

    Raises:
        InputError: No picture, or arrays of unequal length.
    """
    _check(labels, predicted)
    others = predicted[labels != index]
    if not others.size:
        return None
    count = int((others == index).sum())
    return count, wilson(count, int(others.size))


@dataclass(frozen=True, slots=True)
class Drop:
    """How much worse another model is than the dense one on the same pictures.

    Attributes:
        points: Dense minus other, percent points; positive is a loss.
        low: Lower end of the paired 95 % interval, points.
        high: Upper end of the paired 95 % interval, points.
        n: How many pictures were compared.
        lower_one_sided: One-sided 95 % lower bound, points: a gate fails when this exceeds its limit.
    """

    points: float
    low: float
    high: float
    n: int
    lower_one_sided: float


def wilson(correct: int, n: int, z: float = Z_95) -> Proportion:
    """Score interval of one proportion.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927) 209-212.

    Args:
        correct: Right answers.
        n: All answers.
        z: Normal quantile; `Z_ONE_SIDED_95` makes each end a one-sided 95 % bound.

    Raises:
        InputError: `n` is not positive or `correct` is not within 0..n.
    """
    if n < 1 or not 0 <= correct <= n:
        raise InputError(f"{correct} right answers of {n} is not a proportion", "Count at least one picture.")
    return _proportion(correct / n, *wilson_ends(correct, n, z), n)


def balanced_mean(rights: NDArray[np.integer], totals: NDArray[np.integer]) -> Proportion:
    """Mean of the class recalls with an adjusted normal interval; classes without a picture do not count.

    Two right and two wrong pseudo-answers are spread over the K classes (4/K pictures a class), then the variances of
    the independent recalls add up: R. M. Price and D. G. Bonett, "An improved confidence interval for a linear function
    of binomial proportions", Computational Statistics & Data Analysis 45 (2004) 449-456. With every answer right the
    interval keeps a width. Wilson or Agresti-Coull variances of each class on its own would be too wide or, centred on
    the raw mean, too short: with 50 classes of 20 pictures they cover 88 % or 99 % instead of 95 %.

    Args:
        rights: (K,) int, right answers of each class.
        totals: (K,) int, pictures of each class.

    Raises:
        InputError: No class has a picture.
    """
    seen = totals > 0
    if not seen.any():
        raise InputError("there is no picture to score", "Give at least one labelled picture.")
    x, n = rights[seen].astype(np.float64), totals[seen].astype(np.float64)
    n_adjusted = n + 4 / n.size
    p = (x + 2 / n.size) / n_adjusted
    half = Z_95 * math.sqrt(float(np.sum(p * (1 - p) / n_adjusted))) / n.size
    centre = float(np.mean(p))
    return _proportion(float(np.mean(x / n)), centre - half, centre + half, int(n.sum()))


def paired_drop(
    labels: NDArray[np.integer], dense: NDArray[np.integer], other: NDArray[np.integer], balanced: bool
) -> Drop:
    """Dense minus other accuracy on the same pictures, with a paired interval.

    Adjusted Wald interval: half a pseudo-picture in each cell of the 2 x 2 table of right and wrong, A. Agresti and
    Y. Min, "Simple improved confidence intervals for comparing matched proportions", Statistics in Medicine 24 (2005)
    729-740. Balanced: the difference of each class gets 1/K of these pseudo-pictures, as Price and Bonett (2004) spread
    theirs, and the variances of the K independent differences add up. One class gives Agresti and Min's own interval.

    Args:
        labels: (n,) int, true classes.
        dense: (n,) int, answers of the dense model.
        other: (n,) int, answers of the other model.
        balanced: Whether each class weighs the same, as `Score.balanced` says.

    Raises:
        InputError: No picture, or arrays of unequal length.
    """
    _check(labels, dense)
    _check(labels, other)
    found = paired(labels, dense, other, balanced)
    return Drop(found.points, found.low, found.high, int(labels.size), found.lower_one_sided)


def mcnemar(b: int, c: int) -> float:
    """Exact two-sided p-value that two models are equally often right, from the pictures on which they differ.

    Q. McNemar, "Note on the sampling error of the difference between correlated proportions or percentages",
    Psychometrika 12 (1947) 153-157, with the exact binomial distribution in place of its normal approximation.

    Args:
        b: Pictures that only the first model gets right.
        c: Pictures that only the second model gets right.

    Raises:
        InputError: A negative count.
    """
    if b < 0 or c < 0:
        raise InputError(f"{b} and {c} are not counts of pictures", "Pass numbers of pictures, 0 or more.")
    tail = sum(math.comb(b + c, i) for i in range(min(b, c) + 1))
    return min(1.0, 2 * tail / (1 << (b + c)))


def is_unequal(totals: NDArray[np.integer]) -> bool:
    """Whether the classes that have pictures, (K,) int, differ in number, so that top-1 must weigh classes equally."""
    return np.unique(totals[totals > 0]).size > 1


def _proportion(share: float, low: float, high: float, n: int) -> Proportion:
    """In percent, with the interval inside 0..100 and around the point."""
    return Proportion(100 * share, 100 * max(0.0, min(low, share)), 100 * min(1.0, max(high, share)), n)


def _check(labels: NDArray[np.integer], predicted: NDArray[np.integer]) -> None:
    if labels.ndim != 1 or labels.shape != predicted.shape:
        raise InputError(
            f"labels {labels.shape} and predictions {predicted.shape} do not pair up", "Pass one answer a picture."
        )
    if not labels.size:
        raise InputError("there is no picture to score", "Give at least one labelled picture.")
