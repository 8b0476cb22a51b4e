"""`--max-drop`: how far down the ladder of allocations the accuracy on the select pictures allows to go.

Every candidate is cut and recovered with a part of the time, asked about the select pictures, and forgotten; what it
lost is stored, so that a search that was stopped goes on. Evaluation pictures are never looked at here.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from taco.allocation.within import Within, last_within
from taco.exporters.protocol import FloatArray
from taco.metrics.accuracy import Drop, is_unequal
from taco.metrics.drop_estimate import estimate_drop
from taco.recover import INTERRUPTED
from taco.recovery.looks import Looks
from taco.search.ladder import Ladder, Rung
from taco.specialist.head import Linear
from taco.specialist.held_out import HeldOut
from taco.specialist.specialise import predict_logits
from taco.steps.cutting import Cutter

log = logging.getLogger(__name__)

#: Of the minutes for recovery, for each candidate. At most six are tried: together they take as long as the winner.
SHORT = 0.15


@dataclasses.dataclass(frozen=True, slots=True)
class DropFound:
    """What the search found.

    Attributes:
        within: Which steps hold.
        trials: What was tried, as JSON values, in the order tried.
        pictures: How many select pictures decided.
        looks: At each.
    """

    within: Within
    trials: tuple[Mapping[str, Any], ...]
    pictures: int
    looks: int

    def told(self, shipped: Drop, recovered: int) -> dict[str, Any]:
        """Return what the report tells.

        Args:
            shipped: What the exported file loses on the select pictures.
            recovered: How many models were recovered fully and exported.
        """
        return {
            "asked_points": self.within.limit,
            "trials": [dict(trial) for trial in self.trials],
            "shipped": as_json(shipped),
            "full_recoveries": recovered,
            "select_images": self.pictures,
            "looks": self.looks,
        }


@dataclasses.dataclass(frozen=True, eq=False)
class Place:
    """Where models for one size of pictures are cut, recovered and asked.

    Attributes:
        make_cutter: Makes what cuts and recovers, when it is needed: that solves every unit's channels.
        looks: At the select pictures.
        held_out: What heads that have not seen these answer to them.
        words: The size, for people; empty where there is one.
    """

    make_cutter: Callable[[], Cutter]
    looks: Looks
    held_out: HeldOut
    words: str = ""

    @functools.cached_property
    def cutter(self) -> Cutter:
        """Cuts and recovers."""
        return self.make_cutter()

    def answer(self, module: nn.Module, head: Linear | None = None, logits: FloatArray | None = None) -> FloatArray:
        """Return the logits of heads that have not seen the select pictures, (n * looks, classes) float32.

        Args:
            module: In torch.
            head: Of a cut model with one of its own; None is the specialist's.
            logits: What the exported file of it answers to the looks; None asks the module.
        """
        own = predict_logits(module, self.looks.batches()) if logits is None else logits
        return self.held_out.of(head).correct(own, module, self.looks.batches, self.looks.each)


@dataclasses.dataclass(frozen=True, eq=False)
class DropSearch:
    """Everything that the search needs.

    Attributes:
        make_ladder: Makes the ladder, when it is needed.
        places: One for each size of pictures, the model's own first.
        dense: The dense specialist for that size: what is lost is lost from its answers.
        labels: (n,) int64, classes of the select pictures.
        limit: Points that may be lost.
    """

    make_ladder: Callable[[], Ladder]
    places: Sequence[Place]
    dense: nn.Module
    labels: npt.NDArray[np.int64]
    limit: float

    def find(self) -> DropFound:
        """Bisect the ladder.

        Raises:
            KeyboardInterrupt: Ctrl-C, also during a recovery: the same command goes on with it.
        """
        trials: list[Mapping[str, Any]] = []

        def lose(index: int) -> float:
            trials.append(self._trial(index))
            return float(trials[-1]["points"])

        within = last_within(self._ladder.size, lose, self.limit)
        return DropFound(within, tuple(trials), len(self.labels), self.places[0].looks.each)

    def rung(self, index: int) -> Rung:
        """Return a step of the ladder."""
        return self._ladder.rung(index)

    def distinct(self, indices: Iterable[int]) -> list[int]:
        """Return the steps that are not the same model as one before them."""
        models = {(self.rung(i).at, tuple(sorted(self.rung(i).allocation.widths.items()))): i for i in [*indices][::-1]}
        return [*models.values()][::-1]

    def estimate(self, logits: FloatArray) -> Drop:
        """Return what a model loses that gives such logits, from `Place.answer`."""
        return estimate_drop(self.labels, self._dense, logits, balanced=is_unequal(np.bincount(self.labels)))

    @functools.cached_property
    def _ladder(self) -> Ladder:
        return self.make_ladder()

    @functools.cached_property
    def _dense(self) -> FloatArray:
        return self.places[0].answer(self.dense)

    def _trial(self, index: int) -> dict[str, Any]:
        rung = self.rung(index)
        allocation, place = rung.allocation, self.places[rung.at]
        cutter, recovery = place.cutter, place.cutter.recovery

        def compute() -> dict[str, Any]:
            cut = cutter.cut(allocation, SHORT)
            if cut.recovered is not None and cut.recovered.ended == INTERRUPTED:
                raise KeyboardInterrupt  # what it lost is not known; its checkpoint is kept
            found = self.estimate(place.answer(cut.module, cut.head))
            return {"steps": cut.recovered.steps if cut.recovered else 0, **as_json(found)}

        depends = {
            **recovery.depends_on,
            "widths": dict(allocation.widths),
            "minutes": SHORT * recovery.minutes,
            "seed": recovery.options.seed,
            "in_order": cutter.starter.in_order,
        }
        found = recovery.store.rundir.json_step("trial-drop", depends, compute)
        channels = {n: s.unit.width for n, s in cutter.solutions.items() if s.unit.kind != "block"}
        share = 100 * sum(allocation.widths[name] for name in channels) / max(1, sum(channels.values()))
        log.info(
            "%.0f %% of the widths%s: %.2f points lost on %d looks at %d select pictures (%.1f to %.1f)",
            *(share, f" at {place.words}" if place.words else "", found["points"]),
            *(len(self._dense), len(self.labels), found["low"], found["high"]),
        )
        return {"kept_percent": share, "pictures": place.words or None, **found}


def as_json(found: Drop) -> dict[str, float]:
    """Return the figures that reports have of an estimate."""
    return {
        "points": found.points,
        "low": found.low,
        "high": found.high,
    }
