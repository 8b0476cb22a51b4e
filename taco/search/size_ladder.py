"""The ladder of `--max-drop` where sizes of pictures compete: for every time, the size and the widths that harm least.

A smaller picture takes time from every layer and detail from all of them; narrower widths take channels. Both are put
on one scale by what was measured: milliseconds of whole models, and how far the answers on the select pictures then lie
from those of the dense model for pictures of its own size, before recovery. Profiling a size takes minutes, so one is
profiled when a step is asked for that it might win; until then another's levels stand for its own (docs/adr/0022).
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
from collections.abc import Collection, Sequence

import numpy as np

from taco.progress import Progress
from taco.report.search_schema import NEVER
from taco.search.ladder import Ladder, Rung, Uncut
from taco.search.latency_ladder import Settled, rung_of, top
from taco.search.size_loop import DENSE, SizeLoop
from taco.search.unit_losses import allocation_of

log = logging.getLogger(__name__)

#: Steps from the dense model to the fastest of all, evenly in the logarithm of whole models' times: from 1.2 to 0.15 ms
#: a step is 7 %.
_RUNGS = 32
#: Times at which sizes are compared before the first candidate, evenly along the ladder.
_MARKS = 5
_LEAST_HARM = 1e-9
#: Points that are lost for each nat by which widths change the answers of whole models before recovery: 9 to 30 at
#: eight candidates of EfficientNet-Lite2, 0.4 to 7 points (docs/adr/0019). Where others lose otherwise, the
#: first step that is asked about lies further off.
_POINTS_A_NAT = 25.0
#: A size that was not profiled is not asked about where, for as little harm, it would take so many times as long as the
#: best (judgement, beside by how much such estimates were wrong: docs/adr/0022).
_FAR = 1.15


def size_ladder(sizes: Sequence[SizeLoop], progress: Progress, refused: Collection[int] = ()) -> Ladder:
    """Return the best choices over all sizes from the dense model down to the fastest of all.

    Args:
        sizes: The model's own size first.
        progress: Told about a search of whole models.
        refused: See `Competing`.
    """
    own, competing = sizes[0], Competing(sizes, progress, refused)

    @functools.cache
    def rung(index: int) -> Rung:
        if index == 0:
            return rung_of(own.loop, own.offered, top(own.offered))
        ms = competing.times[index]
        at, settled = competing.least_harm(ms)
        found = rung_of(sizes[at].loop, sizes[at].offered, settled, at)
        behind = competing.behind(at, ms, sizes[at].harm(settled.choice))
        return dataclasses.replace(found, behind=behind, unprofiled=competing.unprofiled)

    return Ladder(competing.harms, rung, uncut=competing.uncut, rate=_POINTS_A_NAT)


class Competing:
    """Sizes of pictures, compared at a few times.

    Args:
        sizes: The model's own size first.
        progress: Told about profiles, probes and a search of whole models.
        refused: Places of those whose dense models lose too much: nothing that is cut from them is asked about.

    Attributes:
        times: Of every step from the dense model to the fastest of all, milliseconds of the whole model.
        harms: What the least harmful size costs there, nats; even in logarithms between the steps that were compared.
    """

    def __init__(self, sizes: Sequence[SizeLoop], progress: Progress, refused: Collection[int] = ()) -> None:
        self.sizes, self.progress = sizes, progress
        self._among = [at for at in range(len(sizes)) if at not in refused]
        own_ms, quickest_ms = sizes[0].whole_ms, min(sizes[at].quickest_ms for at in self._among)
        self.times = [*np.geomspace(own_ms, quickest_ms, _RUNGS)[:-1].tolist(), quickest_ms]
        self._marks = sorted({round(at) for at in np.linspace(1, len(self.times) - 1, _MARKS)})
        self._curves: dict[tuple[int, bool], list[tuple[float, float]]] = {}
        with progress.step("compare sizes of pictures", len(self._among)) as advance:
            for at in self._among:
                self._curve(at)
                advance(1)
        steps = np.interp(range(1, len(self.times)), self._marks, [self._least(self.times[at]) for at in self._marks])
        self.harms = [0.0, *np.exp(steps).tolist()]

    def least_harm(self, whole_ms: float) -> tuple[int, Settled]:
        """Return which size harms least within a time, and the levels there; the fastest where none is as fast.

        Only sizes that might are asked: those are profiled.

        Args:
            whole_ms: Most milliseconds of the whole model.
        """
        asked = {at: self._profiled(at) for at in self._near(whole_ms)}
        within_ms = max(whole_ms, min(one.quickest_ms for one in asked.values()))
        found = [(at, one, one.settle(within_ms, self.progress)) for at, one in asked.items()]
        judged = [(one.harm(settled.choice), at, settled) for at, one, settled in found if settled is not None]
        told = ", ".join(f"{self.sizes[at].words} {harm:.3f}" for harm, at, _ in judged)
        log.info("for %.3g ms, the answers change by (nats, before recovery): %s", within_ms, told)
        _, at, settled = min(judged, key=lambda one: one[:2])
        return at, settled

    @property
    def uncut(self) -> dict[int, Uncut]:
        """Place -> the dense model, of other sizes that are faster than the model's own and were not refused."""
        found = {}
        for at in self._among:
            one = self.sizes[at]
            ms = one.whole_ms
            if ms < self.times[0]:
                widths, behind = allocation_of(one.loop.searcher, DENSE), self.behind(at, ms, one.size_harm)
                step = max(index for index, own_ms in enumerate(self.times) if own_ms >= ms)
                found[at] = Uncut(Rung(widths, None, at, behind, self.unprofiled), step)
        return found

    def behind(self, at: int, ms: float, harm: float) -> dict[str, float]:
        """Return of every other size how many times as long it takes for as little harm, see `Rung`.

        Of a size that was not profiled it is an estimate; one that was refused never harms as little.

        Args:
            at: The size that was taken.
            ms: For which time.
            harm: What it costs.
        """
        return {
            one.words: min(NEVER, max(1.0, self._reaches(other, harm) / ms)) if other in self._among else NEVER
            for other, one in enumerate(self.sizes)
            if other != at
        }

    @property
    def unprofiled(self) -> list[str]:
        """Sizes of which times are estimates."""
        return [one.words for one in self.sizes if not one.timed]

    def _profiled(self, at: int) -> SizeLoop:
        one = self.sizes[at]
        if not one.timed:
            self.progress.say(f"pictures of {one.words} pixels might be the best choice here:")
            _ = one.offered
        return one

    def _near(self, ms: float) -> list[int]:
        """Return the sizes that may harm least within a time: those profiled, and others that are not far behind."""
        logarithm = float(np.interp(-math.log(ms), -np.log(self.times), [_logarithm(harm) for harm in self.harms]))
        takes = {at: self._reaches(at, math.exp(logarithm)) for at in self._among}
        least = min(takes.values())
        for at, longer in takes.items():
            if not self.sizes[at].timed and longer > _FAR * least:
                words = self.sizes[at].words
                log.info("%s is not profiled: %.2f times as long for as little harm", words, longer / least)
        return [at for at, longer in takes.items() if self.sizes[at].timed or longer <= _FAR * least]

    def _least(self, ms: float) -> float:
        """Return the logarithm of what the least harmful size costs at a mark; the quickest one has every time."""
        cut = [harm for at in self._among for own_ms, harm in self._curve(at) if own_ms == ms]
        among = (self.sizes[at] for at in self._among)
        return min(map(_logarithm, [*cut, *(one.size_harm for one in among if one.whole_ms <= ms)]))

    def _curve(self, at: int) -> list[tuple[float, float]]:
        """Return what a size harms at falling times: the dense model for it, then at the marks that are faster."""
        one = self.sizes[at]
        if (at, one.timed) not in self._curves:
            faster = [self.times[mark] for mark in self._marks if self.times[mark] < one.whole_ms]
            sketched = [(ms, one.sketch(ms)) for ms in faster]
            told = [(ms, one.harm(choice)) for ms, choice in sketched if choice is not None]
            self._curves[at, one.timed] = [(one.whole_ms, one.size_harm), *told]
        return self._curves[at, one.timed]

    def _reaches(self, at: int, harm: float) -> float:
        """Return in which time a size harms no more, even in logarithms between steps.

        Infinite where in none, and its least time of all where it harms no more at the fastest step compared.
        """
        curve = self._curve(at)
        if harm < curve[0][1]:
            return math.inf
        rising = np.maximum.accumulate([_logarithm(nats) for _, nats in curve])
        if _logarithm(harm) > rising[-1]:
            return self.sizes[at].quickest_ms
        return math.exp(np.interp(_logarithm(harm), rising, [math.log(ms) for ms, _ in curve]))


def _logarithm(harm: float) -> float:
    return math.log(max(harm, _LEAST_HARM))
