"""The whole job: the only place that composes everything (ARCHITECTURE section 3).

The result of every step is stored under its content key, so that a run that was killed goes on after the last finished
step and ends with the same bundle.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from taco.allocate import Allocation
from taco.errors import BudgetInfeasibleError
from taco.field.device_judge import OnDevice
from taco.field.fleet_job import UnitResult, ask_others
from taco.material import Material
from taco.pictures.bank import CROP_MARGIN
from taco.progress import Progress
from taco.recovery.unlabelled import Unlabelled
from taco.rundir import RunDir
from taco.search.budget import check_size
from taco.search.drop_search import DropSearch
from taco.search.widths import Found
from taco.sparse.packing import pack_model
from taco.specialist.specialise import Specialist
from taco.steps.baking import Baked
from taco.steps.converting import GivenUp, Pair
from taco.steps.cutting import Cut
from taco.steps.delivery import Delivery
from taco.steps.groundwork import Groundwork
from taco.steps.judge import Judgement, Stages
from taco.steps.plan import Plan
from taco.steps.sparsify import Sparsifier
from taco.targets.loading import Target
from taco.timing.timings import BenchResult

_SECOND_LOOKS = 3
_Made = tuple[Cut, Pair, Pair, BenchResult | None]


@dataclasses.dataclass(frozen=True, slots=True)
class _Shown:
    """A finished model that was judged, here and on the attached device; see `Finished`."""

    cut: Cut
    dense: Pair
    compressed: Pair
    bench: BenchResult | None
    judgement: Judgement
    engines: Mapping[str, Any] | None
    on_device: OnDevice | None


@dataclasses.dataclass(frozen=True)
class Finished:
    """Everything that the bundle and the report are made of.

    Attributes:
        target: In the precision that was used.
        asked: Dense time over the budget; None where no clock decided.
        units: What the other attached devices did, in the order in which they were named.
        on_device: The attached device's own answers; None without one.
        engines: What the engines on it answered and take, see `taco.device.trt_judge`; None without TensorRT there.
        loop: What the report tells of a search unit by unit; `allocation` is the choice that was taken. None without.
        drops: What `--max-drop` tried and why it took this model; None without it.
    """

    plan: Plan
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
        self.asked = ground.plan.budget.speedup
        self.loop: Mapping[str, Any] | None = None
        self.drops: Mapping[str, Any] | None = None

    @property
    def delivery(self) -> Delivery:
        return self.ground.delivery

    def run(self) -> Finished:
        delivery = self.delivery
        shown = self._shown(self.ground.dense)
        if delivery.loses_there(shown.compressed, shown.judgement, shown.on_device, shown.bench):
            shown = self._shown(shown.dense.plain)
        return Finished(
            plan=self.plan,
            material=self.ground.material,
            specialist=self.ground.specialist,
            cut=shown.cut,
            dense=shown.dense,
            compressed=shown.compressed,
            judgement=shown.judgement,
            bench=shown.bench,
            target=delivery.target,
            given_up=delivery.given_up,
            baked=delivery.bake(shown.compressed, shown.judgement),
            asked=self.asked,
            loop=self.loop,
            on_device=shown.on_device,
            engines=shown.engines,
            unlabelled=self.ground.unlabelled,
            units=ask_others(
                self.plan.others.devices,
                delivery,
                (shown.dense, shown.compressed),
                shown.judgement,
                self.crop_margin,
            ),
            drops=self.drops,
        )

    @property
    def crop_margin(self) -> float | None:
        """Of boxes; None where whole frames are looked at."""
        return CROP_MARGIN if self.plan.listings.cropped else None

    def _shown(self, dense: Pair) -> _Shown:
        """Make a model and let everything judge it that can, in the precision that is used now."""
        ground, delivery = self.ground, self.delivery
        cut, dense, compressed, bench = self._made(dense)
        stages = Stages(ground.specialist.module, cut.stitched, cut.module)
        judgement = delivery.judge(stages, compressed, ground.cut_key(cut))
        engines = delivery.engines(dense, compressed, bench, self.plan.units.within_blocks)
        if engines is not None:
            on_device = delivery.engine_answers(engines, judgement)
        else:
            on_device = delivery.on_device(compressed, judgement, self.crop_margin)
        return _Shown(cut, dense, compressed, bench, judgement, engines, on_device)

    def _made(self, dense: Pair) -> _Made:
        limit = self.plan.budget.max_drop
        if self.plan.options.sparse:
            return self._sparse(dense)
        return self._narrow(dense) if limit is None else self._within(dense, limit)

    def _sparse(self, dense: Pair) -> _Made:
        """Make weights zero; widths stay, and so does the time: it is measured all the same."""
        ground, pictures = self.ground, self.ground.pictures
        sparsifier = Sparsifier(
            options=self.plan.options,
            recovery=ground.recovery(keep_zeros=True),
            batches=pictures.batches,
            key=ground.keys.after_head(**pictures.key),
            folder=ground.rundir.private / "databases",
        )
        cut = sparsifier.cut({u.name: u.width for u in self.plan.units.within_blocks})
        return cut, *self.delivery.finish(cut.module, ground.cut_key(cut), dense)

    def _narrow(self, dense: Pair) -> _Made:
        """Take channels away until the budget is met."""
        if self.plan.widths is not None:
            return self._realise(dense, Found.given(self.plan.widths, self.plan.units))
        return self._realise(dense, self.ground.width_search(dense).find())

    def _realise(self, dense: Pair, found: Found) -> _Made:
        """Stitch, recover, export and time; if a final measurement falls short, take the next narrower widths."""
        best, asked, precision = 0.0, found.asked, self.delivery.target.precision
        self.asked = asked
        cutter = self.ground.cutter()
        for number, candidate in enumerate(found.values["candidates"][:_SECOND_LOOKS]):
            cut = cutter.cut(Allocation(**candidate))
            finished = self.delivery.finish(cut.module, self.ground.cut_key(cut), dense, asked, found.usual_ms)
            dense, compressed, bench = finished
            decided = asked is not None or self.plan.budget.estimated
            if decided and self.delivery.target.precision != precision:
                self._found_again()
                return self._narrow(dense)
            check_size(self.plan.budget.limits, compressed.shipped.size_bytes)
            reached = bench.speedup("dense", "compressed").value if bench else None
            if asked is None or reached is None or reached >= asked or asked <= 1:
                self.loop = found.loop(number)
                return cut, dense, compressed, bench
            best = max(best, reached)
            self.progress.say(f"measured {reached:.2f} times as fast, {asked:g} was asked: taking narrower widths")
        raise BudgetInfeasibleError(
            f"a speed-up of {asked:.3g} was reached in the search but not confirmed: {best:.2f}",
            "This machine's speed may be changing: stop other work on it, or ask for a little less",
        )

    def _found_again(self) -> None:
        used = self.delivery.target.precision.upper()
        self.progress.say(f"widths were found for INT8, which was given up: they are found again for {used}")

    def _within(self, dense: Pair, limit: float) -> _Made:
        """Find the fastest model that loses at most `limit` points on the select pictures.

        Candidates are recovered shortly. The last that holds is recovered fully and exported; where that file loses
        more or is no faster than the dense one, a wider one is taken, and the dense model itself in the end.
        """
        ground, delivery, precision = self.ground, self.delivery, self.delivery.target.precision
        cutter = ground.cutter()
        search = DropSearch.of(ground.width_search(dense), cutter, ground.material, limit)
        found = search.find()
        left = [*[index for index in found.within.holding if index][: _SECOND_LOOKS - 1], 0]
        looks = 0
        while True:
            looks, rung = looks + 1, search.rung(left[0])
            cut = cutter.cut(rung.allocation)
            dense, compressed, bench = delivery.finish(cut.module, ground.cut_key(cut), dense)
            if rung.loop is not None and delivery.target.precision != precision:
                self._found_again()
                return self._within(dense, limit)
            lost = search.estimate(delivery.select_logits(compressed))
            slow = bench is not None and bench.speedup("dense", "compressed").value < 1
            if left == [0] or (lost.points <= limit and not slow):
                self.loop, self.drops = rung.loop, found.told(lost, looks)
                return cut, dense, compressed, bench
            del left[0]
            why = "it is no faster than the dense model" if slow else f"it loses {lost.points:.2f} points"
            self.progress.say(f"recovered and exported, {why}: taking wider widths")
