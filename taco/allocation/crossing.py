"""Where a rising loss reaches its limit, from a few noisy answers: which step of a ladder is worth asking next.

Every step has an expected harm, in any unit that rises with the true loss. The loss is taken to be
limit * (harm / crossing) ** power, about in proportion: on EfficientNet-Lite0 the points lost after recovery over the
sum of the probes' losses were 190, 180 and 240 from 1 to 7 points. `crossing` and `power` have a posterior on a grid,
so that an uncertain answer far away counts little, and one that falls out of line is not followed to the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

#: The crossing may lie so many times outside what the ladder has.
_BEYOND = 4.0
_CROSSINGS, _POWERS = 192, np.linspace(0.4, 2.2, 13)
#: Standard deviation of the power about 1, before anything was asked (judgement).
_POWER_SPREAD = 0.3
#: Standard deviation of the logarithm of where the limit is expected, before anything was asked (judgement: other
#: models' losses for a harm differ by factors of two to three).
_EXPECTED_SPREAD = 1.0
#: A loss may differ by such a share from the curve, beside its own error (judgement).
_MISFIT = 0.3
#: No loss is expected above so many times the limit.
_MOST = 100.0
#: Harms are at least such a share of the largest.
_LEAST_SHARE = 1e-6
#: No error is smaller than this share of the limit or of the largest error, and no limit is.
_SURE = 0.01
_TINY = 1e-9


@dataclass(frozen=True, slots=True)
class Answer:
    """What one step loses, as far as was asked.

    Attributes:
        loss: In the unit of the limit.
        error: Its standard error, at least 0.
    """

    loss: float
    error: float


class Crossing:
    """Tells up to which step a ladder's loss stays within its limit.

    Args:
        harms: (n,) of every step, rising; the first step's is 0. Where they fall, the larger one before counts.
        limit: Most that may be lost.
        expected: The step near which the limit is expected from what other models lost; None expects nothing.
    """

    def __init__(self, harms: Sequence[float], limit: float, expected: int | None = None) -> None:
        given = np.asarray(harms, np.float64)
        most = max(given[np.isfinite(given)], default=0.0)
        if most > 0:
            share = np.maximum.accumulate(np.clip(np.nan_to_num(given / most, nan=0.0), _LEAST_SHARE, _BEYOND))
        else:
            share = np.linspace(_LEAST_SHARE, 1.0, len(given))  # nothing is known: steps are as good as harms
        self._harms: npt.NDArray[np.float64] = share
        self._limit = limit
        first = share[min(1, len(share) - 1)]
        self._crossings = np.geomspace(first / _BEYOND, _BEYOND * share[-1], _CROSSINGS)
        away = np.zeros(_CROSSINGS) if expected is None else np.log(self._crossings / share[expected])
        self._prior = -0.5 * ((_POWERS - 1) / _POWER_SPREAD) ** 2 - 0.5 * (away[:, None] / _EXPECTED_SPREAD) ** 2

    def holds(self, answers: Mapping[int, Answer]) -> npt.NDArray[np.float64]:
        """Return with which probability each step loses no more than the limit, (n,), falling.

        Args:
            answers: Step -> what it was found to lose.
        """
        log_p = self._prior
        scale = max(self._limit, max((answer.error for answer in answers.values()), default=0.0), _TINY)
        for index, answer in answers.items():
            ratio = (self._harms[index] / self._crossings[:, None]) ** _POWERS
            curve = max(self._limit, _SURE * scale) * np.minimum(ratio, _MOST)
            variance = max(answer.error, _SURE * scale) ** 2 + (_MISFIT * curve) ** 2
            log_p = log_p - 0.5 * (answer.loss - curve) ** 2 / variance - 0.5 * np.log(variance)
        weight = np.exp(log_p - log_p.max()).sum(1)
        beyond = np.append(np.cumsum(weight[::-1])[::-1], 0.0)  # the crossing is that one or a later one
        beyond /= beyond[0]
        found: npt.NDArray[np.float64] = beyond[np.searchsorted(self._crossings, self._harms)]
        return found
