"""The sizes of pictures that a run's models may read: what belongs to each, and what a smaller one gains by itself.

Everything is compared with the dense specialist that reads pictures of the model's own size: speed-ups, shares of its
multiply-accumulates, and points that are lost. A smaller size gains a part of that before any channel leaves; widths
are asked for the rest.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Sequence
from typing import Any

from taco.errors import BudgetInfeasibleError
from taco.progress import Progress
from taco.search.bench import VALUE_RUNS
from taco.search.budget import Budget
from taco.search.earlier import Earlier
from taco.search.elsewhere import Elsewhere, behind, carries_over, look_elsewhere
from taco.search.ladder import Ladder, Rung
from taco.search.latency_search import LatencySearcher
from taco.search.size_ladder import size_ladder
from taco.search.size_loop import DENSE, SizeLoop, least_divergence
from taco.search.unit_losses import allocation_of
from taco.search.widths import Found, WidthSearch
from taco.steps.converting import Pair
from taco.steps.groundwork import Groundwork
from taco.steps.plan import Plan
from taco.surgery.size import count_macs


@dataclasses.dataclass(eq=False)
class Sized:
    """Everything that belongs to one size of pictures.

    Attributes:
        ground: Pictures, the dense specialist for them, and what cuts and repairs it.
        dense: The files of that specialist, in the precision that is used now.
        own: The model's own size; None for that one itself.
    """

    ground: Groundwork
    dense: Pair
    own: Sized | None = None

    @property
    def words(self) -> str:
        """The size, for people."""
        return "x".join(map(str, self.ground.input_size[1:]))

    @property
    def gain(self) -> float | None:
        """How many times as fast its dense model is as that of the model's own size; measured once, and stored.

        1 for the own size, None where nothing can be measured.
        """
        if self.own is None:
            return 1.0
        bench, rundir = self.ground.delivery.bench, self.ground.rundir
        if not bench.measurable:
            return None
        files = {"dense": self.own.dense.shipped, "compressed": self.dense.shipped}

        def compute() -> float:
            with self.ground.progress.step("time the dense model at both sizes"):
                models = {name: file.path for name, file in files.items()}
                return bench.settle(models, 1.0, least_runs=VALUE_RUNS).speedup("dense", "compressed").value

        depends: dict[str, Any] = {name: file.sha256 for name, file in files.items()}
        return float(rundir.json_step("input-size-gain", {**depends, "target": bench.key()}, compute, measured=True))

    @property
    def budget(self) -> Budget:
        """What is left to ask of widths; limits and milliseconds hold for the whole model and stay."""
        asked = self.ground.plan.budget
        if self.own is None:
            return asked
        speedup, macs = asked.speedup, asked.macs
        if speedup is not None and (gain := self.gain) is not None:
            speedup /= gain
        if macs is not None and macs < 1:
            macs = min(1.0, macs * self.own.macs / self.macs)
        return dataclasses.replace(asked, speedup=speedup, macs=macs)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of its dense model."""
        return count_macs(self.ground.specialist.module, self.ground.input_size)

    def whole(self, asked: float | None) -> float | None:
        """Return the speed-up over the model's own size that one asked of widths here means."""
        return None if asked is None or self.gain is None else asked * self.gain

    def find_widths(self) -> Found:
        """Find the widths for the budget, in the precision that is used now.

        Raises:
            BudgetInfeasibleError: It cannot be reached; says what the size gains by itself, where it is another one.
        """
        try:
            return self.width_search().find()
        except BudgetInfeasibleError as error:
            if self.own is None:
                raise
            gained = f"{self.own.macs / self.macs:.3g} times less arithmetic"
            if self.budget.timed and self.gain is not None:
                gained = f"{self.gain:.3g} times as fast"
            raise BudgetInfeasibleError(
                f"{self.words} instead of {self.own.words} pixels are {gained}, and of widths there: {error.what}",
                f"Counted from the dense model for {self.words} pixels: {error.todo[:1].lower()}{error.todo[1:]}",
            ) from error

    def width_search(self) -> WidthSearch:
        """Return what finds widths at this size, in the precision that is used now."""
        return self.ground.width_search(self.dense, self.budget)


class Sizes:
    """The model's own size, and the others that were asked for.

    Args:
        ground: Of the model's own size.
    """

    def __init__(self, ground: Groundwork) -> None:
        self.own = Sized(ground, ground.dense)
        self.others = [self._other(ground, plan) for plan in ground.plan.resized]
        given_up = [one for one in self.every if one.ground.delivery.given_up is not None]
        if given_up:
            self.give_up(given_up[0])

    @property
    def every(self) -> list[Sized]:
        """All of them, the model's own first."""
        return [self.own, *self.others]

    @property
    def asked(self) -> Sized:
        """The size that the compressed model reads, where one is asked for."""
        return self.every[-1]

    def give_up(self, where: Sized) -> None:
        """Give the precision up at every size because it was at one: what is compared has one precision."""
        delivery = where.ground.delivery
        for sized in self.every:
            if sized.dense.shipped.precision == sized.ground.plan.target.precision:
                sized.dense = sized.dense.plain
            sized.ground.delivery.target, sized.ground.delivery.given_up = delivery.target, delivery.given_up

    @property
    def gains(self) -> dict[str, float]:
        """Of every size where several compete, see `Earlier`; measured once, and stored. Empty where none do."""
        if not self.compete:
            return {}
        return {one.words: gain for one in self.every if (gain := one.gain) is not None}

    @property
    def compete(self) -> bool:
        """Whether the size is chosen too."""
        return self.own.ground.plan.options.input_size == "auto"

    def elsewhere(self, known: Sequence[Sequence[Earlier]]) -> Elsewhere | None:
        """Return what searches for other devices took, weighed here: the smallest size first that can be taken.

        Args:
            known: Of every size, what was taken there.
        """
        last = len(self.every) - 1
        if not self.compete:
            found = self.asked.width_search().elsewhere(known[last])
            return None if found is None else dataclasses.replace(found, at=last)
        best: Elsewhere | None = None
        within = self.own.ground.plan.options.take_over
        for at in range(last, -1, -1):
            one, notes = self.every[at], [note for note in known[at] if note.gains]
            gains = self.gains if notes else {}
            alike = [note for note in notes if carries_over(one.words, gains, note, within)]
            if not alike:
                continue
            found = look_elsewhere(self.loop(one), one.ground.progress, alike, within)
            if found is not None:
                left = behind(one.words, gains, found.weighed.earlier)
                best = dataclasses.replace(found, at=at, gains=gains, behind=left)
                if found.weighed.near:
                    break
        return best

    def uncut(self) -> list[Rung]:
        """Return the dense models for sizes of pictures that take less time than the model's own, the fastest first."""
        if not self.compete:
            return []
        gains = self.gains
        faster = sorted((-gain, at) for at, one in enumerate(self.every) if (gain := gains.get(one.words, 1.0)) > 1)
        return [Rung(allocation_of(self.loop(self.every[at]).searcher, DENSE), None, at) for _, at in faster]

    def ladder(self, progress: Progress, elsewhere: Elsewhere | None = None, refused: Collection[int] = ()) -> Ladder:
        """Return the ladder of the size that is asked for, or that on which all sizes compete.

        Args:
            progress: Told about what takes time.
            elsewhere: What searches for other devices took: the step that is expected to lose as much is the first.
            refused: Places of sizes whose dense models lose too much, where several compete.
        """
        if self.compete:
            loops = self.loops(refused=refused)
            ladder = size_ladder(loops, progress, refused)
            return ladder if elsewhere is None else ladder.begun_at(loops[elsewhere.at].harm(elsewhere.weighed.choice))
        ladder = self.asked.width_search().ladder().placed(len(self.every) - 1)
        return ladder if elsewhere is None else ladder.begun_at(elsewhere.weighed.choice.loss)

    def loops(self, first: int | None = None, refused: Collection[int] = ()) -> list[SizeLoop]:
        """Return what may be chosen at each size, compared with the model's own; profiled as soon as it is asked for.

        Args:
            first: Place of the size that is profiled first, and stands for the others until they are; None is the one
                whose dense model is fastest.
            refused: Places of sizes that are not asked about, and so not profiled first.
        """
        of_shots = self.own.ground.unseen_shots()

        def made(one: Sized, like: SizeLoop | None) -> SizeLoop:
            loop = self.loop(one)
            harm = 0.0 if one is self.own else least_divergence(of_shots, one.ground.unseen_shots())
            make = functools.partial(loop.offered, one.ground.progress)
            return SizeLoop(one.words, loop, make, loop.dense_ms, harm, like)

        every = self.every
        if first is None:
            among = [at for at in range(len(every)) if at not in refused]
            first = max(among, key=lambda at: every[at].gain or 1.0)
        like = made(every[first], None)
        return [like if at == first else made(one, like) for at, one in enumerate(every)]

    def loop(self, one: Sized) -> LatencySearcher:
        """Return what finds the widths of one size by time and loss."""
        return one.width_search().latency(self.own.width_search().dense_ms() / (one.gain or 1.0))

    def _other(self, own: Groundwork, plan: Plan) -> Sized:
        height, width = plan.generalist.preprocessing.input_size[1:]
        own.progress.say(f"the same for pictures of {height}x{width} pixels:")
        ground = Groundwork(plan, own.rundir, own.progress, own.scratch, own)
        return Sized(ground, ground.dense, self.own)
