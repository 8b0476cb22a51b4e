"""From which probability an answer is sure: chosen on a few labelled pictures, used on every new one. Numpy only.

An answer is sure when the probability of its likeliest class reaches the threshold. The threshold is the least
probability of a RIGHT answer at which, of all answers at least that probable, the asked percentage is right. That keeps
as many answers as can be had, and it stays put with few pictures:

- it is never lowered just to take in wrong answers, so one more wrong answer never lowers it;
- where every answer is right it is the least probability seen, not 0: what is less sure than all of them was not tried;
- where no threshold reaches the asked percentage, the surest answer of all is wrong (otherwise a threshold above it
  would keep right answers only). The threshold then lies just above that answer, possibly above 1: no answer is sure.

Probabilities count with six decimals, as `taco predict` writes them, so that a person can check every mark.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from taco.errors import InputError
from taco.metrics.accuracy import Proportion, wilson

DECIMALS = 6
_Floats = NDArray[np.float64]
_Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Abstain:
    """A threshold and what it does on some labelled pictures.

    Attributes:
        threshold: Least probability of a sure answer, six decimals; above 1 where no answer can be sure.
        asked_percent: How many percent of the sure answers should be right.
        n: Pictures.
        n_sure: Those with a sure answer.
        n_right: Those with a sure and right answer.
    """

    threshold: float
    asked_percent: float
    n: int
    n_sure: int
    n_right: int

    @property
    def sure(self) -> Proportion:
        """Share of sure answers, with its Wilson interval."""
        return wilson(self.n_sure, self.n)

    @property
    def right(self) -> Proportion | None:
        """Share of right ones among the sure answers, with its Wilson interval; None where none is sure."""
        return wilson(self.n_right, self.n_sure) if self.n_sure else None

    def on(self, probabilities: NDArray[np.floating], labels: NDArray[np.integer]) -> Abstain:
        """Count the same threshold on other pictures.

        Args:
            probabilities: (n, classes) float, softmax.
            labels: (n,) int, true classes.

        Raises:
            InputError: As `choose_threshold`.
        """
        top, right = confidences(probabilities, labels)
        sure = top >= self.threshold
        return replace(self, n=top.size, n_sure=int(sure.sum()), n_right=int((sure & right).sum()))


def choose_threshold(probabilities: NDArray[np.floating], labels: NDArray[np.integer], asked_percent: float) -> Abstain:
    """Choose from which probability answers are sure; see the module's docstring for the rule.

    Args:
        probabilities: (n, classes) float, softmax of the select pictures.
        labels: (n,) int, their true classes.
        asked_percent: How many percent of the sure answers should be right, above 0 and at most 100.

    Raises:
        InputError: No picture, arrays that do not pair up, a label outside the classes, a probability that is none, or
            a percentage out of range.
    """
    if not 0 < asked_percent <= 100:
        raise InputError(
            f"{asked_percent} % of the sure answers cannot be right", "Ask for more than 0 and at most 100"
        )
    top, right = confidences(probabilities, labels)
    tops, hits = np.sort(top), np.sort(top[right])
    candidates = np.unique(hits)
    kept = tops.size - np.searchsorted(tops, candidates)
    kept_right = hits.size - np.searchsorted(hits, candidates)
    able = candidates[100 * kept_right >= asked_percent * kept]  # 100 * 19 >= 95 * 20 is exact, 19 / 20 >= 0.95 is not
    threshold = float(able[0]) if able.size else round(float(tops[-1]) + 10**-DECIMALS, DECIMALS)
    return Abstain(threshold, asked_percent, 0, 0, 0).on(probabilities, labels)


def softmax(logits: NDArray[np.floating]) -> _Floats:
    """Return exp(x) / sum exp(x) over the last axis, (..., classes) float64."""
    x = logits.astype(np.float64)
    shifted: _Floats = np.exp(x - x.max(-1, keepdims=True))
    shares: _Floats = shifted / shifted.sum(-1, keepdims=True)
    return shares


def is_sure(probability: float, threshold: float | None) -> bool | None:
    """Tell whether an answer is sure; None where the bundle names no threshold.

    Args:
        probability: Softmax of the likeliest class, 0-1.
        threshold: From `choose_threshold`.
    """
    return None if threshold is None else round(probability, DECIMALS) >= threshold


def confidences(probabilities: NDArray[np.floating], labels: NDArray[np.integer]) -> tuple[_Floats, _Flags]:
    """Return the probability of each likeliest class, six decimals, and whether it is the true one, both (n,).

    Args:
        probabilities: (n, classes) float, softmax.
        labels: (n,) int, true classes.

    Raises:
        InputError: No picture, arrays that do not pair up, a label outside the classes, or a probability that is none.
    """
    if probabilities.ndim != 2 or labels.ndim != 1 or len(probabilities) != len(labels):
        what = f"probabilities {probabilities.shape} and labels {labels.shape} do not pair up"
        raise InputError(what, "Pass one row and one label a picture")
    if not probabilities.size:
        raise InputError("there is no picture to choose a threshold on", "Give at least one labelled picture")
    if not (np.isfinite(probabilities).all() and probabilities.min() >= 0 and probabilities.max() <= 1 + 1e-6):
        raise InputError("the probabilities are not all within 0 and 1", "Pass softmax outputs, not logits")
    if labels.min() < 0 or labels.max() >= probabilities.shape[1]:
        raise InputError(f"a label is outside the {probabilities.shape[1]} classes", "Pass the task's own class list")
    best = probabilities.argmax(1)
    top = probabilities[np.arange(len(labels)), best].astype(np.float64)
    return np.round(np.minimum(top, 1), DECIMALS), best == labels
