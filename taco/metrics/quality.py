"""What one top-1 hides: precision, confusions, the worst class, calibration, and accuracy against coverage. Numpy only.

Everything a person sees is in percent, as in `taco.metrics.accuracy`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from taco.errors import InputError
from taco.metrics.abstain import DECIMALS, confidences
from taco.metrics.accuracy import Proportion, balanced_mean, mcnemar, wilson

#: Bins of equal width between 0 and 1, as many as Guo et al. (2017) use.
BINS = 15
#: A curve is drawn through at most so many points.
MOST_POINTS = 100


@dataclass(frozen=True, slots=True)
class Cell:
    """Pictures of one class that were given one answer; counts of 0 are left out."""

    true: str
    answer: str
    count: int


@dataclass(frozen=True, slots=True)
class Bin:
    """Answers whose probability lies in one bin.

    Attributes:
        low: Lower edge, a probability; it belongs to the bin below.
        high: Upper edge, a probability; it belongs to this bin.
        n: Answers.
        confidence: Mean probability of them in percent.
        right: Right ones among them in percent.
    """

    low: float
    high: float
    n: int
    confidence: float
    right: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """Whether probabilities mean what they say.

    Attributes:
        error: Expected calibration error in percent points, over `BINS` bins of equal width.
        bins: Those that hold answers.
    """

    error: float
    bins: tuple[Bin, ...]


@dataclass(frozen=True, slots=True)
class CoveragePoint:
    """What a threshold would do.

    Attributes:
        threshold: Least probability of a sure answer.
        sure: Sure answers in percent of all.
        right: Right ones in percent of the sure ones.
    """

    threshold: float
    sure: float
    right: float


@dataclass(frozen=True, slots=True)
class Paired:
    """Two models on the same pictures.

    Attributes:
        both: Pictures that both get right.
        only_first: That only the first gets right.
        only_second: That only the second gets right.
        neither: That neither gets right.
        p: Of McNemar's exact two-sided test that they are equally often right.
    """

    both: int
    only_first: int
    only_second: int
    neither: int
    p: float


@dataclass(frozen=True, slots=True)
class Quality:
    """One model on labelled pictures, in detail.

    Attributes:
        balanced: Mean of the class recalls.
        precision: Right ones among the answers of each class; None for a class that is never the answer.
        worst: The class with the lowest recall; None where every class that has pictures is always right.
        confusion: All non-zero cells, the true class's order first.
        calibration: Of the probability of the answer.
        coverage: From the surest answers alone to all answers.
    """

    balanced: Proportion
    precision: dict[str, Proportion | None]
    worst: str | None
    confusion: tuple[Cell, ...]
    calibration: Calibration
    coverage: tuple[CoveragePoint, ...]


def quality(shares: NDArray[np.floating], labels: NDArray[np.integer], classes: Sequence[str]) -> Quality:
    """Judge answers.

    Args:
        shares: (n, classes) float, softmax.
        labels: (n,) int, true classes.
        classes: Names.

    Raises:
        InputError: No picture, arrays that do not pair up, a label outside the classes, or shares that are none.
    """
    if len(classes) != shares.shape[-1]:
        raise InputError(f"{shares.shape[-1]} outputs for {len(classes)} classes", "Pass the task's own class list")
    confidence, right = confidences(shares, labels)
    counts = confusion_matrix(labels, shares.argmax(1), len(classes))
    rights, totals, answered = counts.diagonal(), counts.sum(1), counts.sum(0)
    return Quality(
        balanced=balanced_mean(rights, totals),
        precision={
            name: wilson(int(r), int(a)) if a else None for name, r, a in zip(classes, rights, answered, strict=True)
        },
        worst=_worst(rights, totals, classes),
        confusion=tuple(
            Cell(classes[i], classes[j], int(counts[i, j])) for i, j in zip(*np.nonzero(counts), strict=True)
        ),
        calibration=calibration(confidence, right),
        coverage=coverage_curve(confidence, right),
    )


def confusion_matrix(labels: NDArray[np.integer], answers: NDArray[np.integer], classes: int) -> NDArray[np.int64]:
    """Count pictures by true class and answer, (classes, classes) int64; rows are true classes."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (labels, answers), 1)
    return counts


def calibration(confidence: NDArray[np.floating], right: NDArray[np.bool_]) -> Calibration:
    """Return the expected calibration error.

    C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, "On calibration of modern neural networks", ICML 2017, eq. 3.

    Args:
        confidence: (n,) probability of each answer.
        right: (n,) bool.
    """
    edges = np.linspace(0.0, 1.0, BINS + 1)
    place = np.clip(np.ceil(confidence * BINS).astype(np.intp) - 1, 0, BINS - 1)
    bins, error = [], 0.0
    for number in range(BINS):
        here = place == number
        n = int(here.sum())
        if n:
            mean, share = float(confidence[here].mean()), float(right[here].mean())
            bins.append(Bin(float(edges[number]), float(edges[number + 1]), n, 100 * mean, 100 * share))
            error += n / len(confidence) * abs(mean - share)
    return Calibration(100 * error, tuple(bins))


def coverage_curve(confidence: NDArray[np.floating], right: NDArray[np.bool_]) -> tuple[CoveragePoint, ...]:
    """Return what every threshold would do, from the highest; at most `MOST_POINTS` of them, the ends always.

    Args:
        confidence: (n,) probability of each answer, `taco.metrics.abstain.DECIMALS` decimals.
        right: (n,) bool.
    """
    order = np.argsort(-confidence, kind="stable")
    sorted_right = np.cumsum(right[order])
    last = np.flatnonzero(np.diff(confidence[order], append=-1.0))  # the last answer of each distinct probability
    chosen = last[np.unique(np.linspace(0, len(last) - 1, min(len(last), MOST_POINTS)).round().astype(np.intp))]
    return tuple(
        CoveragePoint(
            round(float(confidence[order[i]]), DECIMALS),
            100 * float(i + 1) / len(confidence),
            100 * float(sorted_right[i]) / float(i + 1),
        )
        for i in chosen
    )


def compare_paired(labels: NDArray[np.integer], first: NDArray[np.integer], second: NDArray[np.integer]) -> Paired:
    """Compare two models' answers on the same pictures, all (n,) int.

    Raises:
        InputError: No picture, or arrays of unequal length.
    """
    if not labels.size or not labels.shape == first.shape == second.shape:
        raise InputError("answers of two models do not pair up with the labels", "Judge both on the same pictures")
    one, other = labels == first, labels == second
    lost, won = int((one & ~other).sum()), int((~one & other).sum())
    return Paired(int((one & other).sum()), lost, won, int((~one & ~other).sum()), mcnemar(lost, won))


def _worst(rights: NDArray[np.integer], totals: NDArray[np.integer], classes: Sequence[str]) -> str | None:
    seen = np.flatnonzero(totals)
    recalls = rights[seen] / totals[seen]
    return None if recalls.min() == 1 else classes[int(seen[recalls.argmin()])]
