"""`--max-drop`: how far down the ladder of allocations the accuracy on held-out shots allows to go.

Every candidate is cut and recovered with a part of the time, asked about shots that it has not seen, and forgotten.
With few shots it is made several times, each time without another part of them, so that all of them judge
(cross-fitting, docs/adr/0023), until it is sure that it loses too much. Which one comes next is read from what all of
them lost. What they answered is stored, so that a search that was stopped goes on. Evaluation pictures are never looked
at here.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from taco.allocate import Allocation
from taco.allocation.crossing import Answer
from taco.allocation.within import holding_steps
from taco.device.statistics import Z_95
from taco.exporters.protocol import FloatArray
from taco.material import labels_of
from taco.metrics.accuracy import Drop, is_unequal
from taco.metrics.drop_estimate import drop_between, estimate_drop, right_shares
from taco.recover import INTERRUPTED
from taco.recovery.looks import Looks
from taco.rundir import RunDir
from taco.search.ladder import Ladder, Rung, Taken
from taco.specialist.head import Linear
from taco.specialist.held_out import HeldOut
from taco.steps.cutting import Cut, Cutter
from taco.steps.refit import How

Labels = npt.NDArray[np.int64]
log = logging.getLogger(__name__)

#: Of the minutes for recovery, for each candidate. Three are tried in the mean: about half as much as the winner.
SHORT = 0.15
#: The smallest model that holds is found but for this part of the ladder: three of 48 steps, an eighth of the time
#: (judgement: from 128 shots an estimate of points has a standard error of about one).
_APART = 16
#: Stands for the step of a model that a run for another device took.
TAKEN = -1
#: And that for the first of those from which nothing is cut; others follow downwards.
_UNCUT = -2
#: Points times shots: where no answer differs, half a picture might.
_LEAST_ERROR = 50.0


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
        specialist: Its dense model, from which nothing is cut.
        words: The size, for people; empty where there is one.
    """

    full: Side
    sides: Sequence[Side]
    dense: Mapping[str, int]
    specialist: nn.Module
    words: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class _Compared:
    """The model that candidates are compared with.

    Attributes:
        right: Of each division, in what share of the looks at each shot it is right.
        room: Points that may be lost beyond it: the limit less what it loses itself, at least 0, since what a smaller
            picture seems to gain is chance.
        harm: Of the step of the ladder that it stands for.
    """

    right: Sequence[npt.NDArray[np.float64]]
    room: float
    harm: float = 0.0


@dataclasses.dataclass(frozen=True, eq=False)
class _Trial:
    """What was tried.

    Attributes:
        told: What the report tells, as JSON values.
        right: As in `_Compared`, of the divisions it was made on.
        more: What it loses beyond the model that it is compared with, points.
    """

    told: Mapping[str, Any]
    right: Sequence[npt.NDArray[np.float64]]
    more: Answer


@dataclasses.dataclass(frozen=True, eq=False)
class DropSearch:
    """Everything that the search needs.

    Attributes:
        make_ladder: Makes the ladder, when it is needed, without the sizes of pictures whose places it is given.
        places: One for each size of pictures, the model's own first, all with the same divisions.
        dense: The dense specialist for that size: what is lost is lost from its answers.
        limit: Points that may be lost.
        rundir: Keeps what candidates lost.
        make_uncut: Makes the models from which nothing is cut for sizes of pictures that take less time than the first,
            the fastest first: to ask them costs hardly anything.
        make_taken: Makes what a run for another device took, when it is needed; None where there is nothing to take.
        trials: Step of the ladder, or what stands for one -> what was tried there, as JSON values, in the order tried.
    """

    make_ladder: Callable[[Collection[int]], Ladder]
    places: Sequence[Place]
    dense: nn.Module
    limit: float
    rundir: RunDir
    make_uncut: Callable[[], Sequence[Rung]] = tuple
    make_taken: Callable[[], Taken | None] = lambda: None
    trials: dict[int, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    def holding(self) -> Iterator[int]:
        """Yield the last step of the ladder that loses little enough; whoever asks for more gets wider ones.

        What a search for another device took comes before all others, where this device has hardly anything faster:
        `TAKEN`. The ladder is made after it was refused, and after smaller pictures were asked what they lose with
        nothing cut: sizes that lose too much are not in it, for what is cut from their models would lose more.
        The dense model, which is the first step, is not among them, nor is a model that was yielded before.

        Raises:
            KeyboardInterrupt: Ctrl-C, also during a recovery: the same command goes on with it.
        """
        seen = set[object]()
        if self._taken is not None and self._try(TAKEN, self._dense).more.loss <= self.limit:
            seen.add(self._model(TAKEN))
            yield TAKEN
        ladder, begun, compared = self._ladder, self._begun, self._compared
        harms, room = ladder.harms, compared.room
        seen.add((0, tuple(sorted(self.places[0].dense.items()))))  # the ladder may have to profile for its first step
        apart, known = max(1, len(harms) // _APART), 0 if begun is None else ladder.uncut[self._uncut[begun].at].step
        first = ladder.begin(room, known)
        for step in holding_steps(harms, lambda index: self._try(index, compared).more, room, apart, first, known):
            index = step if begun is None or step != known else _UNCUT - begun
            if (model := self._model(index)) not in seen:
                seen.add(model)
                yield index

    def told(self, index: int, shipped: Drop, recovered: int) -> dict[str, Any]:
        """Return what the report tells.

        Args:
            index: The step that is shipped.
            shipped: What the exported file loses, from `shipped`.
            recovered: How many models were recovered fully and exported.
        """
        sides, taken, rung = self.places[0].sides, self._taken, self.rung(index)
        sizes = {} if index == TAKEN else rung.behind
        return {
            "taken_over": taken.told if taken is not None and index == TAKEN else None,
            "asked_points": self.limit,
            "trials": [dict(trial) for trial in self.trials.values()],
            "shipped": as_json(shipped),
            "full_recoveries": recovered,
            "judging_images": sum(len(side.labels) for side in sides),
            "looks": sides[0].looks.each,
            "sides": len(sides),
            "sizes": [
                {"pictures": words, "behind": behind, "profiled": words not in rung.unprofiled}
                for words, behind in sizes.items()
            ],
        }

    def rung(self, index: int) -> Rung:
        """Return a step of the ladder, or what was taken."""
        if self._taken is not None and index == TAKEN:
            return self._taken.rung
        return self._ladder.uncut[self._uncut[_UNCUT - index].at].rung if index <= _UNCUT else self._ladder.rung(index)

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
        lost = self.trials[index]
        points, low, high = (float(lost[name]) + export.points for name in ("points", "low", "high"))
        return Drop(points, low, high, int(lost["judging_images"]), low)

    @functools.cached_property
    def _uncut(self) -> Sequence[Rung]:
        return self.make_uncut()

    @functools.cached_property
    def _asked(self) -> Mapping[int, _Trial]:
        """What models from which nothing is cut lose: number -> what was tried, until one loses little enough."""
        asked = dict[int, _Trial]()
        for number, rung in enumerate(self._uncut):
            asked[number] = self._try(_UNCUT - number, self._dense, rung)
            if asked[number].more.loss <= self.limit:
                break
        return asked

    @property
    def _begun(self) -> int | None:
        """The number of the fastest one that loses little enough."""
        return next((number for number, tried in self._asked.items() if tried.more.loss <= self.limit), None)

    @functools.cached_property
    def _ladder(self) -> Ladder:
        return self.make_ladder([self._uncut[number].at for number in self._asked if number != self._begun])

    @functools.cached_property
    def _taken(self) -> Taken | None:
        return self.make_taken()

    @functools.cached_property
    def _dense(self) -> _Compared:
        return _Compared(
            [right_shares(side.labels, side.answer(self.dense)) for side in self.places[0].sides], self.limit
        )

    @property
    def _compared(self) -> _Compared:
        """The fastest model from which nothing is cut that loses little enough, else the dense one.

        Its pictures are as small as a candidate's, so the two differ in what was cut: on hardly any shot as long as
        that is harmless, where both differ from the dense model on many (docs/adr/0019).
        """
        if (begun := self._begun) is None:
            return self._dense
        tried, ladder = self._asked[begun], self._ladder
        harm = ladder.harms[ladder.uncut[self._uncut[begun].at].step]
        return _Compared(tried.right, self.limit - max(0.0, tried.more.loss), harm)

    def _model(self, index: int) -> object:
        """Return what tells a step's model from others: steps may have the same one."""
        rung = self.rung(index)
        dense, given = self.places[rung.at].dense, rung.allocation.widths
        told = {name: width for name, width in given.items() if name in dense or width == 0}  # of blocks those left out
        return rung.at, tuple(sorted({**dense, **told}.items()))

    def _try(self, index: int, compared: _Compared, rung: Rung | None = None) -> _Trial:
        """Make a candidate and ask what it loses; a rung is given where there is no ladder yet."""
        tried = self._tried(index, compared, rung or self.rung(index))
        self.trials[index] = trial = tried.told
        at = f" at {trial['pictures']}" if trial["pictures"] else ""
        points, low, high, judging = (trial[name] for name in ("points", "low", "high", "judging_images"))
        log.info(
            "%.0f %% of the widths%s: %.2f points lost (%.1f to %.1f) on %d shots",
            *(trial["kept_percent"], at, points, low, high, judging),
        )
        return tried

    def _tried(self, index: int, compared: _Compared, rung: Rung) -> _Trial:
        allocation, place = rung.allocation, self.places[rung.at]
        uncut = all(allocation.widths.get(name, width) == width for name, width in place.dense.items())

        steps, right, lost, more = 0, list[npt.NDArray[np.float64]](), None, None
        readers: How | None = None
        for side in place.sides:
            found = self._made_without(side, allocation, readers, whole=place.specialist if uncut else None)
            steps, readers = (
                steps + found["steps"],
                found["readers"],
            )  # the first division decides how they are refitted
            right.append(np.array(found["right"]))
            lost, more = (self._drop(place, against.right, right) for against in (self._dense, compared))
            if more.low > compared.room:
                break  # the other divisions would only tell it more exactly
        if lost is None or more is None:
            raise ValueError("a candidate needs a division of the shots")
        channels = {name: width for name, width in place.dense.items() if name in allocation.widths}
        share = 100 * sum(allocation.widths[name] for name in channels) / max(1, sum(channels.values()))
        told = {"kept_percent": share, "pictures": place.words or None, "steps": steps, "judging_images": lost.n}
        if compared is not self._dense:
            told |= {"beyond": more.points, "room": compared.room}
        if index > 0 and self._ladder.rate is not None:
            told["expected_nats"] = self._ladder.harms[index] - compared.harm
        error = max((more.high - more.low) / (2 * Z_95), _LEAST_ERROR / more.n)
        return _Trial({**told, **as_json(lost)}, right, Answer(more.points, error))

    def _drop(
        self, place: Place, before: Sequence[npt.NDArray[np.float64]], after: Sequence[npt.NDArray[np.float64]]
    ) -> Drop:
        """Return what is lost between two models on as many divisions as the second was made on."""
        labels = np.concatenate([side.labels for side in place.sides[: len(after)]])
        shares = (np.concatenate(right[: len(after)]) for right in (before, after))
        return drop_between(labels, *shares, balanced=_balanced(labels))

    def _made_without(
        self, side: Side, allocation: Allocation, readers: How | None, whole: nn.Module | None
    ) -> dict[str, Any]:
        """Cut and recover a candidate on one division, and let the shots judge that it has not seen.

        Args:
            side: The division.
            allocation: The widths.
            readers: How readers are refitted, where that is known.
            whole: The model, where nothing is cut: then nothing has to be solved either.
        """

        def compute() -> dict[str, Any]:
            if whole is not None:
                right = right_shares(side.labels, side.answer(whole))
                return {"steps": 0, "right": right.tolist(), "readers": None}
            cut = side.make_cutter().cut(allocation, side.share, readers)
            if cut.recovered is not None and cut.recovered.ended == INTERRUPTED:
                raise KeyboardInterrupt  # what it lost is not known; its checkpoint is kept
            right = right_shares(side.labels, side.answer(cut.module, cut.head))
            return {
                "steps": cut.recovered.steps if cut.recovered else 0,
                "right": right.tolist(),
                "readers": cut.refit and cut.refit.kept,
            }

        depends = {**side.depends_on, "widths": dict(allocation.widths), "readers": readers}
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
