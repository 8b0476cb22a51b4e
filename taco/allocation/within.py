"""The last step of a ladder that still holds: from the whole model to the smallest, how far down a loss allows to go.

No torch here: what a step loses is asked of a function, and asking is what costs. Where to ask next is read from all
answers so far (`taco.allocation.crossing`); whether a step holds is said by its own answer alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from taco.allocation.crossing import Answer, Crossing

#: The step that is asked next loses more than the limit with about this probability. At 0.5 more steps hold by luck: in
#: a simulation with the errors of 128 shots the model that was found lost 10 % more than the limit in the mean, and
#: with this 10 % less (docs/adr/0019).
_CHANCE = 0.35
#: Each answer takes at least such a part, one of so many, from what is left: misled by chance, the search would crawl.
_LEAST_PART = 6


def holding_steps(
    harms: Sequence[float], lose: Callable[[int], Answer], limit: float, apart: int = 1, first: int | None = None
) -> Iterator[int]:
    """Yield the last step whose loss is at most `limit`; whoever asks for another one has refused it, and gets a wider.

    The first step, which loses nothing, is not asked, and not yielded: it is what is left at the end.

    Args:
        harms: (n,) of every step, rising: see `Crossing`.
        lose: Step -> what it loses; asked at most once of each.
        limit: Most that may be lost.
        apart: So many steps after the one that is yielded are not worth asking; after one that was refused, so many
            before it are not.
        first: The step that is asked first, near which a loss is known to reach the limit; None is the middle, and
            then no step is yielded before one was seen to lose too much.
    """
    crossing, answers = Crossing(harms, limit), dict[int, Answer]()
    held, high = [0], len(harms)
    while True:
        low = held[-1]
        following = crossing.step(answers, _CHANCE) if answers else 0
        blind = first is None and high == len(harms)  # what holds does not tell where more is lost
        if blind:
            following = max(following, (low + high) // 2)
        ended = high - low <= (apart if low else 1)
        if ended or (low and not blind and following - low <= apart):
            if not low:
                return
            yield held.pop()
            high = max(held[-1] + 1, low - apart + 1)
            continue
        margin = max(1, (high - low) // _LEAST_PART)
        index = min(max(following, low + margin), high - margin)
        if first is not None and not answers:
            index = min(max(first, 1), len(harms) - 1)
        answers[index] = lose(index)
        if answers[index].loss <= limit:
            held.append(index)
        else:
            high = index
