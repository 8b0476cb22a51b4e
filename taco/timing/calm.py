"""Find the stretches, of what times a unit's micro-models, in which nothing slowed the machine. No torch.

What disturbs a machine for seconds slows a micro-model by another factor than the dense model (on two virtual CPUs that
share a core at times: twice as slow, while the dense model took a tenth longer), and then its share is wrong however
narrow its interval is. The dense model tells: it takes part in every round of every unit. Stretches are kept or not,
and not single rounds: short bursts hit both models by chance, and a median over all rounds does not follow them; one
over rounds that are chosen by the dense model's times would.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from taco.device.trt_units import DENSE
from taco.timing.cells import spread
from taco.timing.timings import BenchResult, some_rounds

#: The dense model takes up to so much longer in calm rounds; its p50 varies by 2 % from run to run on a quiet machine.
_LONGER = 0.05


def usual_ms(results: Iterable[BenchResult], least: int) -> float:
    """Return the least median of the dense model in a stretch of several runs, milliseconds; 0 of none.

    Args:
        results: Of every unit.
        least: Rounds of a stretch.
    """
    return min((ms for result in results for _, ms in _stretches(result, least)), default=0.0)


def calm(result: BenchResult, usual: float, least: int) -> BenchResult | None:
    """Return only the stretches in which the dense model takes what it usually does; None where there is none.

    Args:
        result: Times of the dense model and of a unit's micro-models.
        usual: What the dense model takes on a quiet machine, milliseconds.
        least: Rounds of a stretch.
    """
    kept = [n for rounds, ms in _stretches(result, least) if ms <= (1 + _LONGER) * usual for n in rounds]
    return some_rounds(result, kept)


def doubt(result: BenchResult, usual: float, least: int, width: Callable[[BenchResult], float] = spread) -> float:
    """Return how much a run is in want of more rounds: its widest interval, endless where none was calm.

    Args:
        result: Times of the dense model and of a unit's micro-models.
        usual: See `calm`.
        least: Likewise.
        width: Returns the widest interval of some rounds.
    """
    kept = calm(result, usual, least)
    return math.inf if kept is None else width(kept)


def _stretches(result: BenchResult, least: int) -> Iterator[tuple[range, float]]:
    """Yield the rounds of every stretch and the dense model's median there; the last may be longer than the others."""
    medians, number = result.models[DENSE].medians_ms, max(1, result.rounds // least)
    for n in range(number):
        rounds = range(n * least, (n + 1) * least if n < number - 1 else result.rounds)
        yield rounds, float(np.median([medians[r] for r in rounds]))
