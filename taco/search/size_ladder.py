"""The ladder of `--max-drop` where sizes of pictures compete: for every time, the size and the widths that harm least.

A smaller picture takes time from every layer and detail from all of them; narrower widths take channels. Both are put
on one scale by what was measured: milliseconds of whole models, and how far the answers on the select pictures then lie
from those of the dense model for pictures of its own size, before recovery.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from taco.exporters.mixed import divergences
from taco.exporters.protocol import FloatArray
from taco.latency.levels import Choice
from taco.latency.rounds import Known
from taco.latency.wholes import known_wholes
from taco.progress import Progress
from taco.report.search_schema import NEVER
from taco.search.ladder import Ladder, Rung
from taco.search.latency_ladder import LEAST, Settled, rung_of, settle, top
from taco.search.latency_search import LatencySearcher, Offered
from taco.search.unit_losses import allocation_of

log = logging.getLogger(__name__)

#: Steps from the dense model to the fastest of all, evenly in the logarithm of whole models' times: from 1.2 to 0.15 ms
#: a step is 7 %.
_RUNGS = 32
#: That answers are compared at: a fitted head's is a power of two.
_TEMPERATURES = tuple(2.0 ** (k / 2) for k in range(-6, 7))
#: Times at which sizes are compared before the first candidate, evenly along the ladder.
_MARKS = 5
_LEAST_HARM = 1e-9


@dataclasses.dataclass(frozen=True, eq=False)
class SizeLoop:
    """What may be chosen at one size of pictures.

    Attributes:
        words: The size, for people.
        loop: Knows the units, their times and their losses.
        offered: The levels.
        whole_ms: What the dense model for this size takes.
        size_harm: How far the answers of that model lie from those of the dense model for its own size, nats, on all
            shots: see `least_divergence`.
        reference: (n, classes) logits of the dense model for its own size, on the prober's pictures.
    """

    words: str
    loop: LatencySearcher
    offered: Offered
    whole_ms: float
    size_harm: float
    reference: FloatArray

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
            return self.offered.space.dense()
        return None if whole_ms < self.quickest_ms else self.offered.space.choose(self._table_ms(whole_ms))

    def _table_ms(self, whole_ms: float) -> float:
        table_ms = max(self.known.line(whole_ms).invert(whole_ms), self.quickest.table_ms)
        return min(table_ms, self.offered.space.dense().table_ms) * (1 + 1e-9)

    def harm(self, choice: Choice) -> float:
        """Return how far a choice's answers lie from those of the dense model for its own size, nats; stored.

        What the size does is measured on all shots, for nothing has learnt from them how to read smaller pictures; to
        it comes by how much more the widths change the answers, on the prober's pictures, which they have not seen.
        """
        more = self._divergence(choice) - self._divergence(self.offered.space.dense())
        return self.size_harm + max(0.0, more)

    def _divergence(self, choice: Choice) -> float:
        prober, rundir = self.loop.prober, self.loop.searcher.rundir
        widths = allocation_of(self.loop.searcher, choice).widths

        def compute() -> float:
            return least_divergence(self.reference, prober.answer(prober.cut(widths)))

        return float(rundir.json_step("size-harm-at-best", {**prober.key, "widths": dict(widths)}, compute))


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


def size_ladder(sizes: Sequence[SizeLoop], progress: Progress) -> Ladder:
    """Return the best choices over all sizes from the dense model down to the fastest of all.

    Args:
        sizes: The model's own size first.
        progress: Told about a search of whole models.
    """
    own = sizes[0]
    quickest_ms = min(one.quickest_ms for one in sizes)
    times = [*np.geomspace(own.whole_ms, quickest_ms, _RUNGS)[:-1].tolist(), quickest_ms]

    compared = _compare(sizes, times, progress)

    @functools.cache
    def rung(index: int) -> Rung:
        if index == 0:
            return rung_of(own.loop, own.offered, top(own.offered))
        at, settled = least_harm(sizes, times[index], progress)
        found = rung_of(sizes[at].loop, sizes[at].offered, settled, at)
        return dataclasses.replace(found, behind=compared.behind(at, times[index], sizes[at].harm(settled.choice)))

    return Ladder(compared.least, rung)


@dataclasses.dataclass(frozen=True, slots=True)
class _Compared:
    """What sizes harm at a few steps of the ladder.

    Attributes:
        sizes: What was compared.
        times: Of every step, milliseconds of the whole model.
        harms: Step -> place of every size that is as fast -> nats.
    """

    sizes: Sequence[SizeLoop]
    times: Sequence[float]
    harms: Mapping[int, Mapping[int, float]]

    @property
    def least(self) -> list[float]:
        """What the least harmful size costs at every step, even in logarithms between those compared."""
        logarithms = [_logarithm(min(harms.values())) for harms in self.harms.values()]
        return [0.0, *np.exp(np.interp(range(1, len(self.times)), [*self.harms], logarithms)).tolist()]

    def behind(self, at: int, ms: float, harm: float) -> dict[str, float]:
        """Return of every other size how many times as long it takes for as little harm, see `Rung`.

        Args:
            at: The size that was taken.
            ms: For which time.
            harm: What it costs.
        """
        return {
            one.words: min(NEVER, max(1.0, self._reaches(other, harm) / ms))
            for other, one in enumerate(self.sizes)
            if other != at
        }

    def _reaches(self, at: int, harm: float) -> float:
        """Return in which time a size harms no more, even in logarithms between steps.

        Infinite where in none, and its least time of all where it harms no more at the fastest step compared.
        """
        one = self.sizes[at]
        curve = [(one.whole_ms, one.size_harm)]
        curve += [(self.times[step], harms[at]) for step, harms in self.harms.items() if at in harms]
        if harm < curve[0][1]:
            return math.inf
        rising = np.maximum.accumulate([_logarithm(nats) for _, nats in curve])
        if _logarithm(harm) > rising[-1]:
            return one.quickest_ms
        return math.exp(np.interp(_logarithm(harm), rising, [math.log(ms) for ms, _ in curve]))


def _logarithm(harm: float) -> float:
    return math.log(max(harm, _LEAST_HARM))


def _compare(sizes: Sequence[SizeLoop], times: Sequence[float], progress: Progress) -> _Compared:
    found = {}
    marks = sorted({round(at) for at in np.linspace(1, len(times) - 1, _MARKS)})
    with progress.step("compare sizes of pictures", len(marks)) as advance:
        for mark in marks:
            sketched = {at: one.sketch(times[mark]) for at, one in enumerate(sizes)}  # the quickest one has every time
            found[mark] = {at: sizes[at].harm(choice) for at, choice in sketched.items() if choice is not None}
            advance(1)
    return _Compared(sizes, times, found)


def least_harm(sizes: Sequence[SizeLoop], whole_ms: float, progress: Progress) -> tuple[int, Settled]:
    """Return which size harms least within a time, and the levels there; the fastest of all where none is as fast.

    Args:
        sizes: What competes.
        whole_ms: Most milliseconds of the whole model.
        progress: Told about a search of whole models.
    """
    within_ms = max(whole_ms, min(one.quickest_ms for one in sizes))
    found = [(at, one, one.settle(within_ms, progress)) for at, one in enumerate(sizes)]
    judged = [(one.harm(settled.choice), at, settled) for at, one, settled in found if settled is not None]
    told = ", ".join(f"{sizes[at].words} {harm:.3f}" for harm, at, _ in judged)
    log.info("for %.3g ms, the answers change by (nats, before recovery): %s", within_ms, told)
    _, at, settled = min(judged, key=lambda one: one[:2])
    return at, settled
