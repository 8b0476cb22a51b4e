"""The last step of a ladder that still holds: from the whole model to the smallest, how far down a loss allows to go.

No torch here: what a step loses is asked of functions, and asking is what costs. A ladder's losses should rise; where
noise makes one fall, the answer is still a step that was asked in full and holds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping


@dataclasses.dataclass(frozen=True, slots=True)
class Within:
    """What a search found.

    Attributes:
        index: The last step that holds; 0 is the top, which is not asked.
        lost: Step -> its loss as it was told last, in the order first asked.
        limit: Most that may be lost.
    """

    index: int
    lost: Mapping[int, float]
    limit: float

    @property
    def holding(self) -> tuple[int, ...]:
        """The steps that hold, or seem to at a glance, the last one first, ending with the top."""
        return (*sorted((i for i, loss in self.lost.items() if loss <= self.limit), reverse=True), 0)


def last_within(
    steps: int,
    lose: Callable[[int], float],
    limit: float,
    glance: Callable[[int], float] | None = None,
    apart: int = 1,
) -> Within:
    """Bisect for the last step whose loss is at most `limit`; asks of at most ceil(log2(steps)) where no glance errs.

    A step that seems to hold at a glance is not the answer unless it is the last one, so nothing more is asked of it
    until it is. Where it then loses too much, the search turns back to the steps before it. A step is passed over only
    after it was asked in full.

    Args:
        steps: How many there are, at least 1; step 0 loses nothing.
        lose: Step -> loss.
        limit: Most that may be lost.
        glance: Step -> loss, from a part of what `lose` asks; None asks in full at once.
        apart: The step may be found with so many after it of which nothing is known but that the last one loses too
            much; the first step is never left out so.
    """
    lost: dict[int, float] = {}
    full: set[int] = set()
    passed, high = [0], steps

    def holds(index: int, ask: Callable[[int], float]) -> bool:
        lost[index] = ask(index)
        return lost[index] <= limit

    def holds_in_full(index: int) -> bool:
        full.add(index)
        return holds(index, lose)

    while True:
        low = passed[-1]
        if high - low > (apart if low else 1):
            middle = (low + high) // 2
            if (glance is not None and holds(middle, glance)) or holds_in_full(middle):
                passed.append(middle)
            else:
                high = middle
        elif low == 0 or low in full or holds_in_full(low):
            return Within(low, lost, limit)
        else:
            high = passed.pop()
