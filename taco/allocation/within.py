"""The last step of a ladder that still holds: from the whole model to the smallest, how far down a loss allows to go.

No torch here: what a step loses is asked of a function, and asking is what costs. Where to ask next is read from all
answers so far (`taco.allocation.crossing`); whether a step holds is said by its own answer alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from taco.allocation.crossing import Answer, Crossing

#: Each answer takes at least such a part, one of so many, from what is left: misled by chance, the search would crawl.
_LEAST_PART = 6
#: So many are asked in the mean, and after as many another one must promise what `apart` says; after n answers n / 3
#: times that: a search that has hardly begun goes on, and answers that say little would promise something for ever.
_USUAL = 3


def holding_steps(
    harms: Sequence[float],
    lose: Callable[[int], Answer],
    limit: float,
    apart: int = 1,
    first: int | None = None,
    begun: int = 0,
) -> Iterator[int]:
    """Yield the last step whose loss is at most `limit`; whoever asks for another one has refused it, and gets a wider.

    The first step, which loses nothing, is not asked, and not yielded: it is what is left at the end.

    Args:
        harms: (n,) of every step, rising: see `Crossing`.
        lose: Step -> what it loses; asked at most once of each.
        limit: Most that may be lost.
        apart: So many steps are worth asking for: where none promises as many more in the mean, the search ends, later
            after few answers and sooner after many; after one that was refused, so many before it are not asked.
        first: The step that is asked first, near which a loss is known to reach the limit; None is the middle, and
            then no step is yielded before one was seen to lose too much. Beyond the ladder it is the last one.
        begun: A step that is known to hold for a reason of its own: only later ones are asked, unless it is refused.
            What those are expected to lose rises with their harm beyond that one's.
    """
    answers, held, high = dict[int, Answer](), [0], len(harms)
    if begun:
        held.append(begun)
        harms = [max(0.0, harm - harms[begun]) for harm in harms]
    unasked = None if first is None else min(first, high - 1)
    if unasked is not None and unasked <= held[-1]:
        unasked = None
    crossing = Crossing(harms, limit, unasked)
    guided = unasked is not None
    while True:
        low = held[-1]
        following, promised = _most_promising(crossing.holds(answers), low, high)
        blind = not guided and high == len(harms)  # what holds does not tell where more is lost
        if blind:
            following = max(following, (low + high) // 2) if answers else (low + high) // 2
        ended = high - low <= (apart if low else 1)
        worth = apart * len(answers) / _USUAL
        if ended or (low and not blind and promised < worth):
            if not low:
                return
            yield held.pop()
            high = max(held[-1] + 1, low - apart + 1)
            continue
        margin = max(1, (high - low) // _LEAST_PART)
        index = min(max(following, low + margin), high - margin)
        if unasked is not None:
            index, unasked = min(max(unasked, low + 1), high - 1), None
        answers[index] = lose(index)
        if answers[index].loss <= limit:
            held.append(index)
        else:
            high = index


def _most_promising(holds: npt.NDArray[np.float64], low: int, high: int) -> tuple[int, float]:
    """Return the step between two that gains most over the first in the mean, and how many steps that is.

    One that does not hold gains nothing, so one far away must be as much likelier to hold as it is nearer.
    """
    gains = holds[low + 1 : high] * np.arange(1, high - low)
    if not len(gains):
        return low, 0.0
    best = int(np.argmax(gains))
    return low + 1 + best, float(gains[best])
