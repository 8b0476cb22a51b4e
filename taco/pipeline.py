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

from pydantic import TypeAdapter
from torch import nn

from taco.agnostic import CalibrationPictures, calibration_pictures
from taco.compress import UnitSolution, calibrate_units, solve_units
from taco.cutting import Cut, Cutter
from taco.errors import BudgetInfeasibleError
from taco.exporters.loading import load_exporter
from taco.exporters.protocol import Artifact, Compressed, Exporter
from taco.files import sha256_of
from taco.head import Linear
from taco.judge import Judgement, judge
from taco.keys import Keys, versions
from taco.material import Listings, Material, divide, find_pictures
from taco.model import Generalist, load_generalist, state_sha256
from taco.moments import Moments
from taco.options import ExportOptions
from taco.packing import pack_model
from taco.pictures import BankOptions, PictureBank
from taco.progress import Progress
from taco.recover import SPARSE_LEARNING_RATE, RecoveryOptions
from taco.recovering import Recovery
from taco.rundir import RunDir, content_key
from taco.search import Bench, Budget, Searcher, check_input, check_runtime, decide_budget, units_or_error
from taco.sparsify import Sparsifier
from taco.specialise import Specialist, make_head, specialise
from taco.stored import Store
from taco.targets.loading import Target, load_target
from taco.timings import BenchResult
from taco.units import UnitMap, find_units

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

    @functools.cached_property
    def asked(self) -> dict[str, Any]:
        """What identifies the run: the same again is the same run. Files are looked at once."""
        options = self.options.model_dump(mode="python", exclude={"out", "from_run"})
        absolute = {k: str(v.absolute()) if isinstance(v, Path) else v for k, v in options.items()}
        return {
            "options": absolute,
            "class_map_sha256": sha256_of(self.options.class_map) if self.options.class_map else None,
            "pictures": content_key(self.listings.fingerprint()),
            "weights_sha256": self.generalist.weights_sha256,
            "versions": versions(),
        }


@dataclasses.dataclass(frozen=True)
class Finished:
    """Everything that the bundle and the report are made of."""

    plan: Plan
    material: Material
    specialist: Specialist
    cut: Cut
    dense_artifact: Artifact
    artifact: Artifact
    judgement: Judgement
    bench: BenchResult | None

    @functools.cached_property
    def packed(self) -> bytes | None:
        """The exported file in packed form; None where no weight was to become zero."""
        return None if self.cut.sparsity is None else pack_model(self.artifact.path)


def make_plan(options: ExportOptions) -> Plan:
    """Check everything that can be checked in seconds.

    Raises:
        TacoError: The first thing that is wrong.
    """
    target = load_target(options.target)
    exporter = load_exporter(target.runtime)
    check_input(options)
    budget = decide_budget(options, target)
    check_runtime(exporter, target)
    listings = find_pictures(options)
    weights = str(options.weights) if options.weights else None
    generalist = load_generalist(options.model, weights, random_weights=options.random_weights, seed=options.seed)
    units = find_units(generalist.module, generalist.preprocessing.input_size)
    units_or_error(units, budget, options.model)
    return Plan(options, target, exporter, budget, listings, generalist, units)


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

    def __init__(self, plan: Plan, rundir: RunDir, progress: Progress, scratch: Path) -> None:
        self.plan, self.rundir, self.progress, self.scratch = plan, rundir, progress, scratch
        self.options = plan.options
        self.store = Store(rundir)
        self.keys = Keys.of(plan.asked, plan.generalist.preprocessing.to_dict())
        self.bench = Bench(plan.target, plan.options.threads or plan.target.threads, scratch / "device")

    def run(self) -> Finished:
        material = self._read()
        self.pictures = calibration_pictures(material, self.options)
        specialist = self._specialise(material)
        dense = self._export("dense", specialist.module, {}, "export the dense specialist")
        cut, artifact, bench = (self._sparse if self.options.sparse else self._narrow)(specialist, material, dense)
        judgement = self._judge(specialist, material, cut, artifact)
        return Finished(self.plan, material, specialist, cut, dense, artifact, judgement, bench)

    def _narrow(
        self, specialist: Specialist, material: Material, dense: Artifact
    ) -> tuple[Cut, Artifact, BenchResult | None]:
        """Take channels away until the budget is met."""
        searcher = Searcher(
            dense=specialist.module,
            solutions=self._solve(specialist),
            exporter=self.plan.exporter,
            bench=self.bench,
            dense_artifact=dense,
            input_size=self._input_size(),
            scratch=self.scratch,
            rundir=self.rundir,
        )
        return self._realise(specialist, material, searcher, self._search(searcher, dense))

    def _sparse(
        self, specialist: Specialist, material: Material, dense: Artifact
    ) -> tuple[Cut, Artifact, BenchResult | None]:
        """Make weights zero; widths stay, and so does the time: it is measured all the same."""
        pictures = self.pictures
        sparsifier = Sparsifier(
            options=self.options,
            recovery=self._recovery(specialist, material, keep_zeros=True),
            batches=pictures.batches,
            key=self.keys.after_head(**pictures.key),
            folder=self.rundir.private / "databases",
        )
        cut = sparsifier.cut({u.name: u.width for u in self.plan.units.within_blocks})
        artifact = self._export("model", cut.module, self._cut_key(cut), "export the sparse specialist")
        return cut, artifact, self._time(dense, artifact) if self.plan.target.local else None

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

    def _search(self, searcher: Searcher, dense: Artifact) -> dict[str, Any]:
        budget = self.plan.budget
        how = f"find the widths for --speedup {budget.speedup:g}" if budget.speedup else "find the widths by MACs"
        depends = {"dense": dense.sha256, "budget": dataclasses.asdict(budget), "target": self.bench.key()}

        def find() -> dict[str, Any]:
            with self.progress.step(how) as advance:
                return searcher.find(budget, advance)

        measured = budget.speedup is not None
        found: dict[str, Any] = self.rundir.json_step("widths", depends, find, measured=measured)
        return found

    def _realise(
        self, specialist: Specialist, material: Material, searcher: Searcher, found: Mapping[str, Any]
    ) -> tuple[Cut, Artifact, BenchResult | None]:
        """Stitch, recover, export and time; if a final measurement falls short, take the next narrower widths."""
        ratios = [found["ratio"], *found["narrower"]][:_SECOND_LOOKS]
        best = 0.0
        recovery = self._recovery(specialist, material, keep_zeros=False)
        cutter = Cutter(searcher.solutions, self.plan.target.channel_multiple, recovery)
        for ratio in ratios:
            cut = cutter.cut(ratio)
            artifact = self._export("model", cut.module, self._cut_key(cut), "export the compressed specialist")
            bench = self._time(searcher.dense_artifact, artifact) if self.plan.target.local else None
            asked = self.plan.budget.speedup
            reached = bench.speedup("dense", "compressed").value if bench else None
            if asked is None or reached is None or reached >= asked or asked <= 1:
                return cut, artifact, bench
            best = max(best, reached)
            self.progress.say(f"measured {reached:.2f} times as fast, {asked:g} was asked: taking narrower widths")
        raise BudgetInfeasibleError(
            f"a speed-up of {self.plan.budget.speedup:g} was reached in the search but not confirmed: {best:.2f}",
            "This machine's speed may be changing: stop other work on it, or ask for a little less",
        )

    def _time(self, dense: Artifact, artifact: Artifact) -> BenchResult:
        """Time dense, compressed and the fp32 baseline in one interleaved run; stored, so that it is taken once."""
        depends = {"model": artifact.sha256, "dense": dense.sha256, "target": self.bench.key()}
        models = {"dense": dense.path, "compressed": artifact.path, "baseline_fp32": dense.path}

        def compute() -> Any:
            with self.progress.step("time dense and compressed on this machine"):
                return _BENCH.dump_python(self.bench.settle(models, self.plan.budget.speedup), mode="json")

        return _BENCH.validate_python(self.rundir.json_step("latency", depends, compute, measured=True))

    def _judge(self, specialist: Specialist, material: Material, cut: Cut, artifact: Artifact) -> Judgement:
        def compute() -> Judgement:
            with self.progress.step("check the exported file on real pictures"):
                return judge(specialist.module, cut.module, cut.stitched, artifact.path, material)

        key = self.keys.after_head(model=artifact.sha256, **self._cut_key(cut))
        return self.store.judgement(key, compute)

    def _export(self, name: str, module: nn.Module, more: Mapping[str, Any], step: str) -> Artifact:
        def export(path: Path) -> Artifact:
            with self.progress.step(step):
                return self.plan.exporter.export(Compressed(module, self._input_size()), self.plan.target, path)

        return self.store.artifact(name, self.keys.after_head(target=self.bench.key(), **more), export)

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
        return made if cut.sparsity is None else {**made, "weights": state_sha256(cut.module)}
