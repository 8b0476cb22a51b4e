"""The whole job: the only place that composes everything (ARCHITECTURE section 3).

The result of every step is stored under its content key, so that a run that was killed goes on after the last finished
step and ends with the same bundle.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from taco.agnostic import CalibrationPictures, calibration_pictures
from taco.allocate import Allocation
from taco.baking import Baked
from taco.compress import UnitSolution, calibrate_units, solve_units
from taco.converting import GivenUp, Pair
from taco.cutting import Cut, Cutter
from taco.delivery import Delivery
from taco.device_judge import OnDevice
from taco.errors import BudgetInfeasibleError, InputError
from taco.estimate import estimated_by
from taco.exporters.loading import load_exporter
from taco.exporters.protocol import Exporter
from taco.files import sha256_of
from taco.head import Linear
from taco.judge import Judgement, Stages
from taco.keys import Keys, versions
from taco.material import Listings, Material, divide, find_pictures
from taco.model import Generalist, load_generalist, state_sha256
from taco.moments import Moments
from taco.ondevice import Device
from taco.options import ExportOptions
from taco.packing import pack_model
from taco.pictures import CROP_MARGIN, BankOptions, PictureBank
from taco.probes import Prober
from taco.profile_job import cells_bench, limit_s
from taco.profiling import Profiler
from taco.progress import Progress
from taco.recover import SPARSE_LEARNING_RATE
from taco.recovering import Recovery
from taco.rundir import RunDir, content_key
from taco.search import Budget, Searcher, check_input, check_runtime, decide_budget, measurable, units_or_error
from taco.sparsify import Sparsifier
from taco.specialise import Specialist, make_head, predict_logits, specialise
from taco.stored import Store
from taco.targets.loading import Target, list_targets, load_target
from taco.timings import BenchResult
from taco.trainer import RecoveryOptions
from taco.units import UnitMap, find_units
from taco.unlabelled import Frames, Unlabelled, list_frames, read_frames
from taco.widths import Found, WidthSearch

_BENCH = TypeAdapter(BenchResult)
_SECOND_LOOKS = 3


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run will do; everything cheap has been checked."""

    options: ExportOptions
    target: Target
    exporter: Exporter
    budget: Budget
    listings: Listings
    generalist: Generalist
    units: UnitMap
    frames: Frames
    device: Device | None = None

    @functools.cached_property
    def asked(self) -> dict[str, Any]:
        """What identifies the run: the same again is the same run. Files are looked at once."""
        options = self.options.model_dump(mode="python", exclude={"out", "from_run"})
        absolute = {k: str(v.absolute()) if isinstance(v, Path) else v for k, v in options.items()}
        return {
            "options": absolute,
            "class_map_sha256": sha256_of(self.options.class_map) if self.options.class_map else None,
            "estimated_by": estimated_by(self.options),
            "pictures": content_key(self.listings.fingerprint()),
            "unlabelled": content_key(self.frames.fingerprint()),
            "weights_sha256": self.generalist.weights_sha256,
            "versions": versions(),
        }


@dataclasses.dataclass(frozen=True)
class Finished:
    """Everything that the bundle and the report are made of.

    Attributes:
        target: In the precision that was used.
        asked: Dense time over the budget; None where no clock decided.
        loop: `LatencySearcher.find`'s result with `allocation`, the choice that was taken; None without that loop.
        on_device: The attached device's own answers; None without one.
        engines: What the engines on it answered and take, see `taco.device.trt_judge`; None without TensorRT there.
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

    @functools.cached_property
    def packed(self) -> bytes | None:
        """The shipped file in packed form; None where no weight was to become zero."""
        return None if self.cut.sparsity is None else pack_model(self.compressed.shipped.path)


def make_plan(options: ExportOptions, device: Device | None = None) -> Plan:
    """Check everything that can be checked in seconds.

    Args:
        options: What is asked.
        device: What is attached, if anything.

    Raises:
        TacoError: The first thing that is wrong.
    """
    target = chosen_target(options)
    if device is not None and device.address.host is not None and target.local:
        raise InputError(f"{target.name} is this machine, and --device is another", "Give the --target of the device")
    exporter = load_exporter(target.runtime)
    check_input(options)
    budget = decide_budget(options, target, measurable=measurable(target, device))
    if device is None:
        check_runtime(exporter, target)
    else:
        device.check_runtime(target.runtime)
    listings = find_pictures(options)
    frames = list_frames(options, cropped=listings.cropped)
    weights = str(options.weights) if options.weights else None
    generalist = load_generalist(options.model, weights, random_weights=options.random_weights, seed=options.seed)
    units = find_units(generalist.module, generalist.preprocessing.input_size)
    units_or_error(units, budget, options.model)
    return Plan(options, target, exporter, budget, listings, generalist, units, frames, device)


def chosen_target(options: ExportOptions) -> Target:
    """Return the target, on the OpenVINO device that was asked.

    Raises:
        TargetError: There is no such target.
        InputError: A device was asked, and the target's runtime is not OpenVINO.
    """
    target = load_target(options.target)
    if options.runtime_device is None:
        return target
    if target.runtime != "ov":
        names = ", ".join(t.name for t in list_targets() if t.runtime == "ov")
        raise InputError(f"--runtime-device is for OpenVINO, and {target.name} has another runtime", f"Aim at {names}")
    return dataclasses.replace(target, provider=options.runtime_device)


def run(plan: Plan, rundir: RunDir, progress: Progress) -> Finished:
    """Do the job.

    Args:
        plan: From `make_plan`.
        rundir: The locked output folder.
        progress: Told about every step.
    """
    return _Job(plan, rundir, progress, rundir.scratch()).run()


class _Job:
    pictures: CalibrationPictures
    material: Material
    delivery: Delivery
    unlabelled: Unlabelled

    def __init__(self, plan: Plan, rundir: RunDir, progress: Progress, scratch: Path) -> None:
        self.plan, self.rundir, self.progress, self.scratch = plan, rundir, progress, scratch
        self.options = plan.options
        self.store = Store(rundir)
        self.keys = Keys.of(plan.asked, plan.generalist.preprocessing.to_dict())
        self.asked = plan.budget.speedup
        self.loop: dict[str, Any] | None = None

    def run(self) -> Finished:
        self.material = material = self._read()
        self.delivery = delivery = Delivery(
            exporter=self.plan.exporter,
            target=self.plan.target,
            options=self.options,
            material=material,
            keys=self.keys,
            store=self.store,
            progress=self.progress,
            scratch=self.scratch,
            device=self.plan.device,
        )
        self.pictures = calibration_pictures(material, self.options)
        self.unlabelled = self._read_frames(material)
        specialist = self._specialise(material)
        dense = delivery.worth_having(delivery.export("dense", specialist.module, {}))
        cut, dense, compressed, bench = (self._sparse if self.options.sparse else self._narrow)(specialist, dense)
        stages = Stages(specialist.module, cut.stitched, cut.module)
        judgement = delivery.judge(stages, compressed, self._cut_key(cut))
        engines = delivery.engines(dense, compressed, bench, self.plan.units.within_blocks)
        if engines is not None:
            on_device = delivery.engine_answers(engines, judgement)
        else:
            on_device = delivery.on_device(compressed, judgement, CROP_MARGIN if self.plan.listings.cropped else None)
        return Finished(
            plan=self.plan,
            material=material,
            specialist=specialist,
            cut=cut,
            dense=dense,
            compressed=compressed,
            judgement=judgement,
            bench=bench,
            target=delivery.target,
            given_up=delivery.given_up,
            baked=delivery.bake(compressed, judgement),
            asked=self.asked,
            loop=self.loop,
            on_device=on_device,
            engines=engines,
            unlabelled=self.unlabelled,
        )

    def _narrow(self, specialist: Specialist, dense: Pair) -> tuple[Cut, Pair, Pair, BenchResult | None]:
        """Take channels away until the budget is met."""
        searcher = Searcher(
            dense=specialist.module,
            solutions=self._solve(specialist),
            trial=self.delivery.converter.trial,
            bench=self.delivery.bench,
            dense_artifact=dense.shipped,
            input_size=self._input_size(),
            scratch=self.scratch,
            rundir=self.rundir,
        )
        bench = self.delivery.bench
        profiler = Profiler(
            model=specialist.module,
            found=self.plan.units,
            input_size=self._input_size(),
            name=self.plan.generalist.name,
            target=self.delivery.converter.target,
            threads=bench.threads,
            exporter=self.plan.exporter,
            timer=cells_bench(bench).time,
            machine=None if self.plan.device is None else self.plan.device.machine(self.plan.target.runtime),
            max_seconds=limit_s(self.plan.target),
        )
        probed = self.material.probed
        prober = Prober(
            model=specialist.module,
            solutions=searcher.solutions,
            answer=lambda module: predict_logits(module, self.material.batches(probed)),
            labels=np.array([picture.label_index for picture in probed], np.int64),
            step=bench.target.channel_multiple,
            depends_on=self.keys.after_head(**self.pictures.key),
        )
        search = WidthSearch(searcher, profiler, prober, self.plan.budget, self.options, self.progress)
        return self._realise(specialist, dense, searcher.solutions, search.find())

    def _sparse(self, specialist: Specialist, dense: Pair) -> tuple[Cut, Pair, Pair, BenchResult | None]:
        """Make weights zero; widths stay, and so does the time: it is measured all the same."""
        pictures = self.pictures
        sparsifier = Sparsifier(
            options=self.options,
            recovery=self._recovery(specialist, self.material, keep_zeros=True),
            batches=pictures.batches,
            key=self.keys.after_head(**pictures.key),
            folder=self.rundir.private / "databases",
        )
        cut = sparsifier.cut({u.name: u.width for u in self.plan.units.within_blocks})
        return cut, *self.delivery.finish(cut.module, self._cut_key(cut), dense)

    def _read(self) -> Material:
        listings, preprocessing = self.plan.listings, self.plan.generalist.preprocessing

        def read(path: Path) -> Any:
            done = 0

            def tell(now: int, _total: int) -> None:
                nonlocal done
                advance(now - done)
                done = now

            with self.progress.step("read the pictures", len(listings.views)) as advance:
                return PictureBank.read(listings.views, preprocessing, BankOptions(path, progress=tell)).index()

        file, index = self.rundir.file_step("pictures", self.keys.pictures, ".pixels", read)
        return divide(listings, PictureBank.open(file, index, preprocessing), self.options)

    def _read_frames(self, material: Material) -> Unlabelled:
        frames = self.plan.frames
        if not frames.views:
            return Unlabelled()

        def read() -> dict[str, Any]:
            with self.progress.step("read the unlabelled frames", len(frames.views)) as advance:
                file = self.scratch / "unlabelled.pixels"
                return read_frames(frames, material, file, lambda _done, _total: advance(1)).to_json()

        key = self.keys.after_head(unlabelled=self.plan.asked["unlabelled"])
        return Unlabelled.from_json(self.rundir.json_step("unlabelled", key, read))

    def _specialise(self, material: Material) -> Specialist:
        def compute() -> Linear:
            with self.progress.step("specialise the head"):
                return make_head(self.plan.generalist, material, self.options)

        return specialise(self.plan.generalist, self.store.head(self.keys.head, compute))

    def _solve(self, specialist: Specialist) -> dict[str, UnitSolution]:
        units, module, pictures = self.plan.units.within_blocks, specialist.module, self.pictures
        if not units or self.plan.budget.macs == 1:
            return {}

        def compute_moments() -> Mapping[str, Moments]:
            with self.progress.step(f"calibrate on {pictures.kind} pictures", pictures.count) as advance:
                return calibrate_units(module, units, pictures.batches(), advance)

        def compute_orders() -> dict[str, UnitSolution]:
            with self.progress.step("choose channels, layer by layer", len(units)) as advance:
                return solve_units(module, units, moments, progress=advance)

        key = self.keys.after_head(**pictures.key)
        moments = self.store.moments(key, compute_moments)
        return self.store.solutions(key, units, moments, compute_orders)

    def _realise(
        self, specialist: Specialist, dense: Pair, solutions: Mapping[str, UnitSolution], found: Found
    ) -> tuple[Cut, Pair, Pair, BenchResult | None]:
        """Stitch, recover, export and time; if a final measurement falls short, take the next narrower widths."""
        best, asked, precision = 0.0, found.asked, self.delivery.target.precision
        self.asked = asked
        cutter = Cutter(solutions, self._recovery(specialist, self.material, keep_zeros=False))
        for number, candidate in enumerate(found.values["candidates"][:_SECOND_LOOKS]):
            cut = cutter.cut(Allocation(**candidate))
            dense, compressed, bench = self.delivery.finish(cut.module, self._cut_key(cut), dense, asked)
            if asked is not None and self.delivery.target.precision != precision:
                self.progress.say("widths were found for INT8, which was given up: they are found again for fp32")
                return self._narrow(specialist, dense)
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

    def _input_size(self) -> tuple[int, int, int]:
        return self.plan.generalist.preprocessing.input_size

    def _recovery(self, specialist: Specialist, material: Material, *, keep_zeros: bool) -> Recovery:
        options = RecoveryOptions(seed=self.options.seed, keep_zeros=keep_zeros)
        if keep_zeros:
            options = dataclasses.replace(options, learning_rate=SPARSE_LEARNING_RATE)
        return Recovery(
            specialist=specialist.module,
            material=material,
            minutes=self.options.recover_minutes,
            options=options,
            depends_on=self.keys.after_head(**self.pictures.key),
            store=self.store,
            progress=self.progress,
            unlabelled=self.unlabelled,
        )

    def _cut_key(self, cut: Cut) -> dict[str, Any]:
        """Say what made a cut: its widths or its weights, and how it was recovered."""
        steps = cut.recovered.steps if cut.recovered else 0
        made = {
            **self.pictures.key,
            "widths": dict(cut.widths),
            "minutes": self.options.recover_minutes,
            "steps": steps,
        }
        trained = cut.sparsity is not None or cut.recovered is not None
        return {**made, "weights": state_sha256(cut.module)} if trained else made
