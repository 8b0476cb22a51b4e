"""`--max-drop`: how far down the ladder of allocations the accuracy on held-out shots allows to go.

Every candidate is cut and recovered with a part of the time, asked about shots that it has not seen, and forgotten.
With few shots it is made several times, each time without another part of them, so that all of them judge
(cross-fitting, docs/adr/0023), until it is sure that it loses too much. Where it seems to hold after the first time, a
smaller one is tried before it is made again. What it answered is stored, so that a search that was stopped goes on.
Evaluation pictures are never looked at here.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from taco.allocate import Allocation
from taco.allocation.within import last_within
from taco.exporters.protocol import FloatArray
from taco.material import labels_of
from taco.metrics.accuracy import Drop, is_unequal
from taco.metrics.drop_estimate import drop_between, estimate_drop, right_shares
from taco.recover import INTERRUPTED
from taco.recovery.looks import Looks
from taco.rundir import RunDir
from taco.search.ladder import Ladder, Rung
from taco.specialist.head import Linear
from taco.specialist.held_out import HeldOut
from taco.steps.cutting import Cut, Cutter

Labels = npt.NDArray[np.int64]
log = logging.getLogger(__name__)

#: Of the minutes for recovery, for each candidate. Five or six are tried: together about as much as the winner.
SHORT = 0.15
#: The smallest model that holds is found but for this part of the ladder: two of 48 steps, a tenth of the time
#: (judgement: from 128 shots an estimate of points has a standard error of about one).
_APART = 24


@dataclasses.dataclass(frozen=True, eq=False)
class Side:
    """One division of the shots into those to learn from and those that judge.

    Attributes:
        make_cutter: Makes what cuts and recovers: that solves every unit's channels, which takes memory, so it is made
            for every candidate anew, from what the run stores.
        looks: At the shots that judge.
        held_out: What heads that have not seen these answer to them.
        share: Of its cutter's time for recovery, for a candidate.
        depends_on: All that a candidate's answers depend on beside its widths, as JSON values.
    """

    make_cutter: Callable[[], Cutter]
    looks: Looks
    held_out: HeldOut
    share: float
    depends_on: Mapping[str, Any]

    @property
    def labels(self) -> Labels:
        """(n,) int64, classes of the shots that judge."""
        return labels_of(self.looks.material.task.select)

    def answer(self, module: nn.Module, head: Linear | None = None, logits: FloatArray | None = None) -> FloatArray:
        """Return the logits of heads that have not seen the shots that judge, (n * looks, classes) float32.

        Args:
            module: In torch.
            head: Of a cut model with one of its own; None is the specialist's.
            logits: What the exported file of it answers to the looks; None asks the module.
        """
        held_out, looks = self.held_out.of(head), self.looks
        if logits is None:
            return held_out.answer(module, looks.batches, looks.each)
        return held_out.correct(logits, module, looks.batches, looks.each)


@dataclasses.dataclass(frozen=True, eq=False)
class Place:
    """Where models for one size of pictures are cut, recovered and asked.

    Attributes:
        full: The run's own division, for the winner.
        sides: For candidates: every shot judges what was made without it, or the select pictures do.
        dense: Unit -> all its channels, of units that have some.
        words: The size, for people; empty where there is one.
    """

    full: Side
    sides: Sequence[Side]
    dense: Mapping[str, int]
    words: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class DropSearch:
    """Everything that the search needs.

    Attributes:
        make_ladder: Makes the ladder, when it is needed.
        places: One for each size of pictures, the model's own first, all with the same divisions.
        dense: The dense specialist for that size: what is lost is lost from its answers.
        limit: Points that may be lost.
        rundir: Keeps what candidates lost.
        trials: Step of the ladder -> what was tried there, as JSON values, in the order tried.
    """

    make_ladder: Callable[[], Ladder]
    places: Sequence[Place]
    dense: nn.Module
    limit: float
    rundir: RunDir
    trials: dict[int, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    def holding(self) -> Iterator[int]:
        """Bisect the ladder and yield the steps that lose little enough by all of the shots, the smallest model first.

        The dense model, which is the first step, is not among them. Steps that only seemed to hold, before a smaller
        one did, are asked of the other shots when they are wanted.

        Raises:
            KeyboardInterrupt: Ctrl-C, also during a recovery: the same command goes on with it.
        """
        size, divided = self._ladder.size, len(self.places[0].sides) > 1
        glance = functools.partial(self._lost, parts=1) if divided else None
        found = last_within(size, self._lost, self.limit, glance, max(1, size // _APART))
        for index in self._distinct(index for index in found.holding if index):
            if self._lost(index) <= self.limit:
                yield index

    def told(self, shipped: Drop, recovered: int) -> dict[str, Any]:
        """Return what the report tells.

        Args:
            shipped: What the exported file loses, from `shipped`.
            recovered: How many models were recovered fully and exported.
        """
        sides = self.places[0].sides
        return {
            "asked_points": self.limit,
            "trials": [dict(trial) for trial in self.trials.values()],
            "shipped": as_json(shipped),
            "full_recoveries": recovered,
            "judging_images": sum(len(side.labels) for side in sides),
            "looks": sides[0].looks.each,
            "sides": len(sides),
        }

    def rung(self, index: int) -> Rung:
        """Return a step of the ladder."""
        return self._ladder.rung(index)

    def shipped(self, index: int, cut: Cut, exported: FloatArray) -> Drop:
        """Return what the exported file loses: what its candidate lost, and what conversion took from its answers.

        Args:
            index: Its step of the ladder.
            cut: The model, recovered fully.
            exported: What the file answers to the looks at the select pictures.
        """
        full = self.places[self.rung(index).at].full
        before, after = (full.answer(cut.module, cut.head, logits) for logits in (None, exported))
        export = estimate_drop(full.labels, before, after, balanced=_balanced(full.labels))
        if not index:
            return export
        lost = self._trial(index, len(self.places[0].sides))
        points, low, high = (float(lost[name]) + export.points for name in ("points", "low", "high"))
        return Drop(points, low, high, int(lost["judging_images"]), low)

    @functools.cached_property
    def _ladder(self) -> Ladder:
        return self.make_ladder()

    @functools.cached_property
    def _dense(self) -> list[npt.NDArray[np.float64]]:
        return [right_shares(side.labels, side.answer(self.dense)) for side in self.places[0].sides]

    def _distinct(self, indices: Iterable[int]) -> list[int]:
        """Return the steps that are not the same model as one before them."""
        models = {(self.rung(i).at, tuple(sorted(self.rung(i).allocation.widths.items()))): i for i in [*indices][::-1]}
        return [*models.values()][::-1]

    def _lost(self, index: int, parts: int | None = None) -> float:
        """Return what a candidate loses, points; shots of so many divisions judge it, None is all of them."""
        before = self.trials.get(index)
        self.trials[index] = trial = self._trial(index, parts or len(self.places[0].sides))
        if trial != before:
            at = f" at {trial['pictures']}" if trial["pictures"] else ""
            figures = (trial[name] for name in ("points", "low", "high", "judging_images"))
            log.info(
                "%.0f %% of the widths%s: %.2f points lost (%.1f to %.1f) on %d shots",
                *(trial["kept_percent"], at, *figures),
            )
        return float(trial["points"])

    def _trial(self, index: int, parts: int) -> dict[str, Any]:
        rung = self.rung(index)
        allocation, place = rung.allocation, self.places[rung.at]

        steps, right, lost = 0, list[npt.NDArray[np.float64]](), None
        for side in place.sides[:parts]:
            found = self._made_without(side, allocation)
            steps += found["steps"]
            right.append(np.array(found["right"]))
            labels = np.concatenate([side.labels for side in place.sides[: len(right)]])
            dense = np.concatenate(self._dense[: len(right)])
            lost = drop_between(labels, dense, np.concatenate(right), balanced=_balanced(labels))
            if lost.low > self.limit:
                break  # the other divisions would only tell it more exactly
        if lost is None:
            raise ValueError("a candidate needs a division of the shots")
        channels = {name: width for name, width in place.dense.items() if name in allocation.widths}
        share = 100 * sum(allocation.widths[name] for name in channels) / max(1, sum(channels.values()))
        told = {"kept_percent": share, "pictures": place.words or None, "steps": steps, "judging_images": lost.n}
        return {**told, **as_json(lost)}

    def _made_without(self, side: Side, allocation: Allocation) -> dict[str, Any]:
        """Cut and recover a candidate on one division, and let the shots judge that it has not seen."""

        def compute() -> dict[str, Any]:
            cut = side.make_cutter().cut(allocation, side.share)
            if cut.recovered is not None and cut.recovered.ended == INTERRUPTED:
                raise KeyboardInterrupt  # what it lost is not known; its checkpoint is kept
            right = right_shares(side.labels, side.answer(cut.module, cut.head))
            return {"steps": cut.recovered.steps if cut.recovered else 0, "right": right.tolist()}

        depends = {**side.depends_on, "widths": dict(allocation.widths)}
        found: dict[str, Any] = self.rundir.json_step("trial-drop", depends, compute)
        return found


def _balanced(labels: Labels) -> bool:
    return is_unequal(np.bincount(labels))


def as_json(found: Drop) -> dict[str, float]:
    """Return the figures that reports have of an estimate."""
    return {
        "points": found.points,
        "low": found.low,
        "high": found.high,
    }
