"""The last step of a ladder that still holds: from the whole model to the smallest, how far down a loss allows to go.

No torch here: what a step loses is asked of a function, once a step. A ladder's losses should rise; where noise makes
one fall, the answer is still a step that was asked and holds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping


@dataclasses.dataclass(frozen=True, slots=True)
class Within:
    """What a search found.

    Attributes:
        index: The last step that holds; 0 is the top, which is not asked.
        lost: Step -> its loss, in the order asked.
        limit: Most that may be lost.
    """

    index: int
    lost: Mapping[int, float]
    limit: float

    @property
    def holding(self) -> tuple[int, ...]:
        """The steps that hold, the last one first, ending with the top."""
        return (*sorted((i for i, loss in self.lost.items() if loss <= self.limit), reverse=True), 0)


def last_within(steps: int, lose: Callable[[int], float], limit: float) -> Within:
    """Bisect for the last step whose loss is at most `limit`; asks at most ceil(log2(steps)) of them.

    Args:
        steps: How many there are, at least 1; step 0 loses nothing.
        lose: Step -> loss.
        limit: Most that may be lost.
    """
    lost: dict[int, float] = {}
    low, high = 0, steps
    while high - low > 1:
        middle = (low + high) // 2
        lost[middle] = lose(middle)
        low, high = (middle, high) if lost[middle] <= limit else (low, middle)
    return Within(low, lost, limit)
