"""The whole job: the only place that composes everything (ARCHITECTURE section 3).

The result of every step is stored under its content key, so that a run that was killed goes on after the last finished
step and ends with the same bundle.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Collection, Mapping
from typing import Any

from torch import nn

from taco.allocate import Allocation
from taco.errors import BudgetInfeasibleError
from taco.field.device_judge import OnDevice
from taco.field.fleet_job import UnitResult, ask_others
from taco.material import Material
from taco.pictures.bank import CROP_MARGIN
from taco.progress import Progress
from taco.recovery.unlabelled import Unlabelled
from taco.rundir import RunDir
from taco.search.budget import check_size, decide_allocation
from taco.search.drop_search import DropSearch
from taco.search.earlier import Earlier, Notes
from taco.search.elsewhere import Elsewhere
from taco.search.ladder import Ladder, Taken
from taco.search.widths import Found
from taco.sparse.packing import pack_model
from taco.specialist.specialise import Specialist
from taco.steps.baking import Baked
from taco.steps.converting import GivenUp, Pair
from taco.steps.crossfit import places_of
from taco.steps.cutting import Cut
from taco.steps.groundwork import Groundwork
from taco.steps.judge import Judgement, Stages
from taco.steps.plan import Plan
from taco.steps.sizes import Sized, Sizes
from taco.steps.sparsify import Sparsifier
from taco.targets.loading import Target
from taco.timing.timings import BenchResult

_SECOND_LOOKS = 3


@dataclasses.dataclass(frozen=True, slots=True)
class _Made:
    """A finished model: for which size of pictures, what it is compared with, and how they were timed."""

    at: Sized
    cut: Cut
    dense: Pair
    compressed: Pair
    bench: BenchResult | None


@dataclasses.dataclass(frozen=True, slots=True)
class _Shown:
    """A finished model that was judged, here and on the attached device; see `Finished`."""

    made: _Made
    judgement: Judgement
    engines: Mapping[str, Any] | None
    on_device: OnDevice | None


@dataclasses.dataclass(frozen=True, slots=True)
class Native:
    """The dense specialist that everything is compared with.

    Attributes:
        module: For pictures of the model's own size.
        reads: (channels, height, width) of those.
    """

    module: nn.Module
    reads: tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Finished:
    """Everything that the bundle and the report are made of.

    Attributes:
        plan: For the size of pictures that the compressed model reads, and so are material and specialist.
        native: The dense specialist that it is compared with.
        target: In the precision that was used.
        asked: Dense time over the budget; None where no clock decided.
        units: What the other attached devices did, in the order in which they were named.
        on_device: The attached device's own answers; None without one.
        engines: What the engines on it answered and take, see `taco.device.trt_judge`; None without TensorRT there.
        loop: What the report tells of a search unit by unit; `allocation` is the choice that was taken. None without.
        drops: What `--max-drop` tried and why it took this model; None without it.
    """

    plan: Plan
    native: Native
    material: Material
    specialist: Specialist
    cut: Cut
    dense: Pair
    compressed: Pair
    judgement: Judgement
    bench: BenchResult | None
    target: Target
    given_up: GivenUp | None
    baked: Baked | None
    asked: float | None
    loop: Mapping[str, Any] | None
    on_device: OnDevice | None
    engines: Mapping[str, Any] | None
    unlabelled: Unlabelled
    units: tuple[UnitResult, ...] = ()
    drops: Mapping[str, Any] | None = None

    @functools.cached_property
    def packed(self) -> bytes | None:
        """The shipped file in packed form; None where no weight was to become zero."""
        return None if self.cut.sparsity is None else pack_model(self.compressed.shipped.path)


def run(plan: Plan, rundir: RunDir, progress: Progress) -> Finished:
    """Do the job.

    Args:
        plan: From `make_plan`.
        rundir: The locked output folder.
        progress: Told about every step.
    """
    return _Job(Groundwork(plan, rundir, progress, rundir.scratch())).run()


class _Job:
    def __init__(self, ground: Groundwork) -> None:
        self.ground, self.plan, self.progress = ground, ground.plan, ground.progress
        self.sizes = Sizes(ground)
        self.asked = ground.plan.budget.speedup
        self.loop: Mapping[str, Any] | None = None
        self.drops: Mapping[str, Any] | None = None

    def run(self) -> Finished:
        shown = self._shown()
        made = shown.made
        if made.at.ground.delivery.loses_there(made.compressed, shown.judgement, shown.on_device, made.bench):
            self.sizes.give_up(made.at)
            shown = self._shown()
        made, ground = shown.made, shown.made.at.ground
        return Finished(
            plan=dataclasses.replace(ground.plan, others=self.plan.others),
            native=Native(self.ground.specialist.module, self.ground.input_size),
            material=ground.material,
            specialist=ground.specialist,
            cut=made.cut,
            dense=made.dense,
            compressed=made.compressed,
            judgement=shown.judgement,
            bench=made.bench,
            target=ground.delivery.target,
            given_up=ground.delivery.given_up,
            baked=ground.delivery.bake(made.compressed, shown.judgement),
            asked=self.asked,
            loop=self.loop,
            on_device=shown.on_device,
            engines=shown.engines,
            unlabelled=ground.unlabelled,
            units=ask_others(
                self.plan.others.devices,
                ground.delivery,
                (made.dense, made.compressed),
                shown.judgement,
                self.crop_margin,
            ),
            drops=self.drops,
        )

    @property
    def crop_margin(self) -> float | None:
        """Of boxes; None where whole frames are looked at."""
        return CROP_MARGIN if self.plan.listings.cropped else None

    def _shown(self) -> _Shown:
        """Make a model and let everything judge it that can, in the precision that is used now."""
        made = self._made()
        ground, delivery, cut = made.at.ground, made.at.ground.delivery, made.cut
        held_out = ground.held_out.of(cut.head)
        stages = Stages(self.ground.specialist.module, self.ground.material, cut.stitched, cut.module, held_out)
        judgement = delivery.judge(stages, made.compressed, ground.cut_key(cut))
        engines = delivery.engines(made.dense, made.compressed, made.bench, ground.plan.units.within_blocks)
        if engines is not None:
            on_device = delivery.engine_answers(engines, judgement)
        else:
            on_device = delivery.on_device(made.compressed, judgement, self.crop_margin)
        return _Shown(made, judgement, engines, on_device)

    def _made(self) -> _Made:
        limit = self.plan.budget.max_drop
        if self.plan.options.sparse:
            return self._sparse(self.sizes.asked)
        return self._narrow(self.sizes.asked) if limit is None else self._within(limit)

    def _finish(self, at: Sized, cut: Cut, asked: float | None = None, usual_ms: float | None = None) -> _Made:
        """Export and time; INT8 that does not pay is given up, at every size of pictures."""
        delivery, precision = at.ground.delivery, at.ground.delivery.target.precision
        usual_ms = usual_ms if at is self.sizes.own else None  # of another dense model
        finished = delivery.finish(cut, at.ground.cut_key(cut), self.sizes.own.dense, asked, usual_ms)
        if delivery.target.precision != precision:
            self.sizes.give_up(at)
        return _Made(at, cut, *finished)

    def _sparse(self, at: Sized) -> _Made:
        """Make weights zero; widths stay, and so does the time: it is measured all the same."""
        ground, pictures = at.ground, at.ground.pictures
        sparsifier = Sparsifier(
            options=self.plan.options,
            recovery=ground.recovery(keep_zeros=True),
            batches=pictures.batches,
            key=ground.keys.after_head(**pictures.key),
            folder=ground.rundir.private / "databases",
        )
        return self._finish(at, sparsifier.cut({u.name: u.width for u in self.plan.units.within_blocks}))

    def _narrow(self, at: Sized) -> _Made:
        """Take channels away until the budget is met."""
        if self.plan.widths is not None:
            return self._realise(at, Found.given(self.plan.widths, self.plan.units))
        return self._realise(at, at.find_widths())

    def _realise(self, at: Sized, found: Found) -> _Made:
        """Stitch, recover, export and time; if a final measurement falls short, take the next narrower widths."""
        best, asked, delivery = 0.0, self.plan.budget.speedup or at.whole(found.asked), at.ground.delivery
        precision, self.asked = delivery.target.precision, asked
        cutter = at.ground.cutter()
        for number, candidate in enumerate(found.values["candidates"][:_SECOND_LOOKS]):
            made = self._finish(at, cutter.cut(Allocation(**candidate)), asked, found.usual_ms)
            decided = asked is not None or self.plan.budget.estimated
            if decided and delivery.target.precision != precision:
                self._found_again(at)
                return self._narrow(at)
            check_size(self.plan.budget.limits, made.compressed.shipped.size_bytes)
            reached = made.bench.speedup("dense", "compressed").value if made.bench else None
            if asked is None or reached is None or reached >= asked or (asked <= 1 and at is self.sizes.own):
                self.loop = found.loop(number)
                return made
            best = max(best, reached)
            self.progress.say(f"measured {reached:.2f} times as fast, {asked:g} was asked: taking narrower widths")
        raise BudgetInfeasibleError(
            f"a speed-up of {asked:.3g} was reached in the search but not confirmed: {best:.2f}",
            "This machine's speed may be changing: stop other work on it, or ask for a little less",
        )

    def _found_again(self, at: Sized) -> None:
        used = at.ground.delivery.target.precision.upper()
        self.progress.say(f"widths were found for INT8, which was given up: they are found again for {used}")

    def _within(self, limit: float) -> _Made:
        """Find the fastest model that loses at most `limit` points on the select pictures.

        Candidates are recovered shortly. The last that holds is recovered fully and exported; where that file loses
        more or is no faster than the dense one, a wider one is taken, and the dense model itself in the end.
        """
        sizes = self.sizes.every
        several = len(sizes) > 1
        named = [one.words if several else "" for one in sizes]
        places = places_of([one.ground for one in sizes], named)
        dense, options = self.ground.specialist.module, self.plan.options
        how = (decide_allocation(options, self.plan.budget), options.search, options.search_evaluations)
        rundir, own = self.ground.rundir, self.ground.delivery.target.name
        notes = [Notes.of(rundir, limit, [side.depends_on for side in place.sides], how) for place in places]

        @functools.cache
        def elsewhere() -> Elsewhere | None:
            return self.sizes.elsewhere([note.known(but=own) for note in notes])

        def taken() -> Taken | None:
            found = elsewhere()
            return None if found is None else found.taken

        def ladder(refused: Collection[int]) -> Ladder:
            return self.sizes.ladder(self.progress, elsewhere(), refused)

        search = DropSearch(ladder, places, dense, limit, rundir, self.sizes.uncut, taken)
        steps, recovered = itertools.chain(itertools.islice(search.holding(), _SECOND_LOOKS - 1), (0,)), 0
        while True:
            recovered, index = recovered + 1, next(steps)
            rung = search.rung(index)
            at = sizes[rung.at]
            delivery, precision = at.ground.delivery, at.ground.delivery.target.precision
            made = self._finish(at, at.ground.cutter().cut(rung.allocation))
            if how[0] == "latency" and delivery.target.precision != precision:
                self._found_again(at)
                return self._within(limit)
            answers = delivery.select_logits(made.compressed, at.ground.looks.singly())
            lost = search.shipped(index, made.cut, answers)
            slow = made.bench is not None and made.bench.speedup("dense", "compressed").value < 1
            if index == 0 or (lost.points <= limit and not slow):
                self.loop, self.drops = rung.loop, search.told(index, lost, recovered)
                if index and how[0] == "latency" and recovered == 1:  # what conversion takes is a device's own
                    notes[rung.at].add(Earlier(own, rung.allocation.widths, self.sizes.gains, rung.behind))
                return made
            why = "it is no faster than the dense model" if slow else f"it loses {lost.points:.2f} points"
            self.progress.say(f"recovered and exported, {why}: taking wider widths")
