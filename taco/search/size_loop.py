"""What may be chosen at one size of pictures: levels by time and loss, once they are asked for, and what they harm."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from taco.exporters.mixed import divergences
from taco.exporters.protocol import FloatArray
from taco.latency.levels import Choice
from taco.latency.rounds import Known
from taco.latency.wholes import known_wholes
from taco.progress import Progress
from taco.search.latency_ladder import LEAST, Settled, settle, top
from taco.search.latency_search import LatencySearcher, Offered

#: That answers are compared at: a fitted head's is a power of two.
_TEMPERATURES = tuple(2.0 ** (k / 2) for k in range(-6, 7))
#: Nothing is cut.
DENSE = Choice({})


@dataclasses.dataclass(frozen=True, eq=False)
class SizeLoop:
    """What may be chosen at one size of pictures.

    Attributes:
        words: The size, for people.
        loop: Knows the units, their times and their losses.
        make_offered: Profiles and probes, which takes minutes: see `offered`.
        whole_ms: What the dense model for this size takes.
        size_harm: How far the answers of that model lie from those of the dense model for its own size, nats, on all
            shots: see `least_divergence`.
        like: A size whose levels stand for its own until it is profiled: all their times are taken to change with the
            size as those of the dense model do. None where it is not asked about before.
    """

    words: str
    loop: LatencySearcher
    make_offered: Callable[[], Offered]
    whole_ms: float
    size_harm: float
    like: SizeLoop | None = None

    @functools.cached_property
    def offered(self) -> Offered:
        """The levels; profiled now."""
        return self.make_offered()

    @property
    def timed(self) -> bool:
        """Whether it was profiled."""
        return "offered" in self.__dict__

    @functools.cached_property
    def known(self) -> Known:
        """What whole models tell of the table's milliseconds."""
        space = self.offered.space
        return known_wholes(self.offered.table, space.options, self.whole_ms, space.together)

    @functools.cached_property
    def quickest(self) -> Choice:
        """The fastest levels."""
        return self.offered.space.fastest()

    @property
    def quickest_ms(self) -> float:
        """What they take, as a whole model; a line may end below nothing where few whole models were timed."""
        if self.like is not None and not self.timed:
            return self.like.quickest_ms * self.whole_ms / self.like.whole_ms
        return max(LEAST * self.whole_ms, self.known.line(0.0).predict(self.quickest.table_ms))

    def settle(self, whole_ms: float, progress: Progress) -> Settled | None:
        """Return the levels for a time of the whole model; None where none is as fast."""
        if whole_ms >= self.whole_ms:
            return top(self.offered)
        if whole_ms < self.quickest_ms:
            return None
        return settle(self.loop, self.offered, self._table_ms(whole_ms), progress)

    def sketch(self, whole_ms: float) -> Choice | None:
        """Return the same by the sum of losses alone: nothing is searched, and blocks are not tried both ways."""
        if whole_ms >= self.whole_ms:
            return DENSE
        if self.like is not None and not self.timed:
            return self.like.sketch(whole_ms * self.like.whole_ms / self.whole_ms)
        return None if whole_ms < self.quickest_ms else self.offered.space.choose(self._table_ms(whole_ms))

    def _table_ms(self, whole_ms: float) -> float:
        table_ms = max(self.known.line(whole_ms).invert(whole_ms), self.quickest.table_ms)
        return min(table_ms, self.offered.space.dense().table_ms) * (1 + 1e-9)

    def harm(self, choice: Choice) -> float:
        """Return how far a choice's answers lie from those of the dense model for its own size, nats; stored.

        What the size does is measured on all shots, for nothing has learnt from them how to read smaller pictures; to
        it comes how far the widths change the answers of the dense model for this size, on the prober's pictures.
        """
        return self.size_harm + (self.loop.harm(choice) if choice.levels else 0.0)


def least_divergence(reference: FloatArray, answers: FloatArray) -> float:
    """Return how far answers lie from others at whatever temperature that is least, nats.

    Each size has a head of its own, whose temperature says nothing of how often it is right.

    Args:
        reference: (n, classes) logits.
        answers: (n, classes) logits.
    """
    return float(nearest_divergences(reference, answers).mean())


def nearest_divergences(reference: FloatArray, answers: FloatArray) -> npt.NDArray[np.float64]:
    """Return how far each answer lies from its reference, (n,) nats, at the temperature that is least in the mean."""
    each = (divergences(reference, (t * answers).astype(np.float32)) for t in _TEMPERATURES)
    return min(each, key=lambda found: float(found.mean()))
