"""What a run and a front both begin with: pictures, the dense specialist and its files, what cuts and repairs it."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from taco.compress import UnitSolution, calibrate_units, droppable
from taco.compute import CPU, choose_device, name_of
from taco.database.channels import build_widths, name_for
from taco.executor import Executor
from taco.exporters.protocol import FloatArray
from taco.material import PROBED, Material, divide, labels_of
from taco.model import state_sha256
from taco.moments.sums import Moments
from taco.pictures.bank import BankOptions, PictureBank, any_readable
from taco.pictures.folds import shot_groups
from taco.pictures.listing import LabelledPicture
from taco.progress import Progress
from taco.recover import SPARSE_LEARNING_RATE
from taco.recovery.batches import batch_on
from taco.recovery.looks import Looks, looks_each
from taco.recovery.trainer import RecoveryOptions
from taco.recovery.unlabelled import Unlabelled, read_frames
from taco.rundir import RunDir
from taco.search.budget import Budget, decide_allocation
from taco.search.probes import Prober
from taco.search.profile_job import cells_bench, limits_of
from taco.search.profiling import Profiler
from taco.search.uniform import Searcher
from taco.search.widths import WidthSearch
from taco.specialist.head import Linear
from taco.specialist.held_out import HeldOut
from taco.specialist.specialise import Specialist, make_head, specialise
from taco.steps.agnostic import calibration_pictures
from taco.steps.converting import Pair
from taco.steps.cutting import Cut, Cutter
from taco.steps.delivery import Delivery
from taco.steps.keys import Keys
from taco.steps.plan import Plan
from taco.steps.recovering import Recovery
from taco.steps.refit import Starter
from taco.steps.rehead import Heads
from taco.steps.stored import Store


class Groundwork:
    """Everything up to the dense specialist's files, done or taken from the run's folder.

    Args:
        plan: From `make_plan`.
        rundir: The locked output folder.
        progress: Told about every step.
        scratch: For files that need not survive.
        like: The same for pictures of another size, whose division into shots and evaluation is taken over.
    """

    def __init__(
        self, plan: Plan, rundir: RunDir, progress: Progress, scratch: Path, like: Groundwork | None = None
    ) -> None:
        self.plan, self.rundir, self.progress, self.scratch = plan, rundir, progress, scratch
        self.options, self.store = plan.options, Store(rundir)
        self.keys = Keys.of(plan.asked, plan.generalist.preprocessing.to_dict())
        self._whole = self.keys  # of the run's own division, also where other shots are held out
        self.material: Material = self._read(like)
        self.pictures = calibration_pictures(self.material, self.options)
        self.unlabelled: Unlabelled = self._read_frames() if like is None else like.unlabelled
        self._learnt = self.material.shots if self.material.task.evaluation else self.material.task.fit
        self._groups = shot_groups(self.material.task, self.material.bank.facts)
        self._bank_bytes: int | None = None
        self._whole_minutes = self.options.recover_minutes  # also where other shots are held out
        self._select = np.arange(len(self.material.task.fit), len(self.material.shots))
        self.head: Linear = self._head()
        self.specialist: Specialist = specialise(plan.generalist, self.head)
        self.delivery = Delivery(
            exporter=plan.exporter,
            target=plan.target,
            options=self.options,
            material=self.material,
            keys=self.keys,
            store=self.store,
            held_out=self.held_out,
            progress=progress,
            scratch=scratch,
            device=plan.device,
        )
        self.dense: Pair = self.delivery.worth_having(self.delivery.export("dense", self.specialist.module, {}))

    @functools.cached_property
    def held_out(self) -> HeldOut:
        """What heads that have not seen the select pictures answer to them."""
        return HeldOut(self.head, torch.from_numpy(self._select), self.specialist.module)

    @functools.cached_property
    def looks(self) -> Looks:
        """Several looks at every select picture, the same ones at every size of pictures."""
        return Looks(self.material, self.options.seed, looks_each(len(self.material.task.select)))

    @functools.cached_property
    def solutions(self) -> dict[str, UnitSolution]:
        """How every unit's channels leave, and blocks that may be left out; nothing where nothing is to be cut."""
        found, module, pictures = self.plan.units, self.specialist.module, self.pictures
        one_ratio = decide_allocation(self.options, self.plan.budget) == "uniform" and not self.plan.budget.given
        units = found.within_blocks if one_ratio else found.unit_by_unit
        if not units or not self.plan.budget.cuts:
            return {}

        def compute_moments() -> Mapping[str, Moments]:
            with self.progress.step(f"calibrate on {pictures.kind} pictures", pictures.count) as advance:
                return calibrate_units(module, units, pictures.batches(), advance)

        every = {} if units == found.within_blocks else {"units": "unit by unit"}  # layers that one ratio does not have
        moments = self.store.moments(self.keys.after_head(**pictures.key, **every), compute_moments)
        executor = Executor.parse(self.options.executor)
        folder = self.rundir.widths / name_for(moments)  # divisions of the shots and sizes of pictures take turns
        solved = build_widths(folder, module, (units, moments), executor, self.progress)
        return {**solved, **{u.name: droppable(u) for u in found.of("block")}}

    def without(self, held: npt.NDArray[np.int64], minutes: float, bank_bytes: int) -> Groundwork:
        """Return the same where other shots are held out for choices; head, precision and files stay as they are.

        Args:
            held: (m,) places among the shots.
            minutes: For all recovery there, which is that of candidates.
            bank_bytes: Of the teacher's answers there, at most.
        """
        other, shots = copy.copy(self), np.array(self.material.shots, object)
        for name in ("solutions", "held_out", "looks"):
            other.__dict__.pop(name, None)  # what was computed for the run's own division
        fit = tuple(np.delete(shots, held))
        task = dataclasses.replace(self.material.task, fit=fit, select=tuple(shots[held]))
        other._bank_bytes = bank_bytes
        other.unlabelled = self.unlabelled.without(held.tolist())
        other.material, other._select = Material(task, self.material.bank), held
        other.options = self.options.model_copy(update={"recover_minutes": minutes})
        other.pictures = calibration_pictures(other.material, self.options)
        other.looks = Looks(other.material, self.options.seed, looks_each(len(shots)))
        other.keys = dataclasses.replace(self.keys, head={**self.keys.head, "held": held.tolist()})
        return other

    def width_search(self, dense: Pair, budget: Budget | None = None) -> WidthSearch:
        """Return what finds widths, in the precision that is used now.

        Args:
            dense: The dense specialist's files in that precision.
            budget: What is asked of widths; None is the plan's own.
        """
        bench, module = self.delivery.bench, self.specialist.module
        searcher = Searcher(
            dense=module,
            solutions=self.solutions,
            trial=self.delivery.converter.trial,
            bench=bench,
            dense_artifact=dense.shipped,
            input_size=self.input_size,
            scratch=self.scratch,
            rundir=self.rundir,
        )
        profiler = Profiler(
            model=module,
            found=self.plan.units,
            input_size=self.input_size,
            name=self.plan.generalist.name,
            target=self.delivery.converter.target,
            threads=bench.threads,
            exporter=self.plan.exporter,
            timer=cells_bench(bench).until_steady,
            limits=limits_of(self.plan.target),
            whole_timer=bench.as_usual,
            machine=None if self.plan.device is None else self.plan.device.machine(self.plan.target.runtime),
        )
        prober = Prober(
            model=module,
            solutions=self.solutions,
            answer=self.probe,
            labels=labels_of(self.material.probed),
            step=bench.target.channel_multiple,
            depends_on=self.keys.after_head(**self.pictures.key, **({"held_out": True} if self.held_out else {})),
            batches=functools.partial(self.pictures.some, PROBED),
        )
        return WidthSearch(searcher, profiler, prober, budget or self.plan.budget, self.options, self.progress)

    def probe(self, module: nn.Module) -> FloatArray:
        """Return what a model answers to the probed pictures, with heads that have not seen them."""
        places = torch.from_numpy(self._select[:: self.material.probed_every])
        return self._unseen(module, self.material.probed, places)

    def unseen_shots(self) -> FloatArray:
        """Return what the dense specialist answers to every shot, with heads that have not seen it."""
        shots = self.material.shots
        return self._unseen(self.specialist.module, shots, torch.arange(len(shots)))

    def _unseen(self, module: nn.Module, pictures: Sequence[LabelledPicture], places: torch.Tensor) -> FloatArray:
        held_out = dataclasses.replace(self.held_out, places=places)
        return held_out.answer(module, lambda: self.material.batches(pictures))

    def cutter(self) -> Cutter:
        """Return what cuts to widths and recovers."""
        starter = Starter(self.recovery(keep_zeros=False), self.pictures.batches, self.options.sequential)
        recovery = starter.recovery
        heads = Heads(
            own=self.head,
            dense=self.specialist.module,
            shots=self._learnt,
            groups=torch.from_numpy(self._groups[: len(self._learnt)]),
            batches=self.material.batches,
            seed=self.options.seed,
            depends_on=recovery.depends_on,
            store=self.store,
            progress=self.progress,
        )
        return Cutter(self.solutions, starter, heads)

    def recovery(self, *, keep_zeros: bool) -> Recovery:
        """Return what repairs cuts; with `keep_zeros` weights that are zero stay so."""
        device = choose_device(self.options.compute)
        elsewhere = {} if device == CPU else {"compute": name_of(device)}  # steps a minute and last digits differ there
        options = RecoveryOptions(batch=batch_on(device), seed=self.options.seed, keep_zeros=keep_zeros, device=device)
        if keep_zeros:
            options = dataclasses.replace(options, learning_rate=SPARSE_LEARNING_RATE)
        return Recovery(
            specialist=self.specialist.module,
            material=self.material,
            minutes=self.options.recover_minutes,
            options=options,
            depends_on=self.keys.after_head(**self.pictures.key, **elsewhere),
            store=self.store,
            progress=self.progress,
            unlabelled=self.unlabelled,
            bank_bytes=self._bank_bytes,
            whole_minutes=self._whole_minutes,
            timed_with=self._whole.after_head(**elsewhere),
        )

    def cut_key(self, cut: Cut) -> dict[str, Any]:
        """Say what made a cut: its widths or its weights, and how it was recovered."""
        steps = cut.recovered.steps if cut.recovered else 0
        made = {
            **self.pictures.key,
            "widths": dict(cut.widths),
            "minutes": self.options.recover_minutes,
            "steps": steps,
        }
        own = any(found is not None for found in (cut.sparsity, cut.recovered, cut.refit, cut.head))
        return {**made, "weights": state_sha256(cut.module)} if own else made

    @property
    def input_size(self) -> tuple[int, int, int]:
        """(channels, height, width) of a picture."""
        return self.plan.generalist.preprocessing.input_size

    def _read(self, like: Groundwork | None) -> Material:
        listings, preprocessing = self.plan.listings, self.plan.generalist.preprocessing
        known: PictureBank | None = None

        def read(path: Path) -> Any:
            done = 0

            def tell(now: int, _total: int) -> None:
                nonlocal done
                advance(now - done)
                done = now

            with self.progress.step("read the pictures", len(listings.views)) as advance:
                options = BankOptions(path, progress=tell, known=known)
                return PictureBank.read(listings.views, preprocessing, options).index()

        def step() -> PictureBank:
            file, index = self.rundir.file_step("pictures", self.keys.pictures, ".pixels", read)
            return PictureBank.open(file, index, preprocessing)

        bank = step()
        if any_readable(bank.passing):
            self.progress.say("pictures that could not be read can be read now, and are added")
            known = bank
            self.rundir.step_file("pictures", self.keys.pictures, ".json").unlink()
            bank = step()
        self.keys = self._whole = self.keys.lacking((bank if like is None else like.material.bank).passing)
        return divide(listings, bank, self.options) if like is None else Material(like.material.task, bank)

    def _read_frames(self) -> Unlabelled:
        frames = self.plan.frames
        if not frames.views:
            return Unlabelled()

        def read() -> dict[str, Any]:
            with self.progress.step("read the unlabelled frames", len(frames.views)) as advance:
                file = self.scratch / "unlabelled.pixels"
                return read_frames(frames, self.material, file, lambda _done, _total: advance(1)).to_json()

        key = self.keys.after_head(unlabelled=self.plan.asked["unlabelled"])
        return Unlabelled.from_json(self.rundir.json_step("unlabelled", key, read))

    def _head(self) -> Linear:
        def compute() -> Linear:
            with self.progress.step("specialise the head"):
                return make_head(self.plan.generalist, self.material, self.options)

        return self.store.head(self.keys.head, compute)
