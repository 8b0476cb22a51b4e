"""Recovery within a run: the teacher is asked once, minutes become steps once, and recovered weights are stored.

The bank of views lies in a file of the run until the run is finished. A recovery that was killed goes on from its last
checkpoint and ends bit for bit the same; one that Ctrl-C ended gives its best state to this run and is not stored.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from taco.compute import moved, name_of
from taco.material import Material
from taco.progress import Progress
from taco.recover import INTERRUPTED, Recovered, Watch, recover
from taco.recovery.bank_views import DrawOptions, Source, draw_bank, plan_views
from taco.recovery.bfloat16 import has_bfloat16, is_faster
from taco.recovery.checkpoint import Checkpoint
from taco.recovery.repair import Teacher, compared, make_teacher, renormalise, steps_for
from taco.recovery.teacher_bank import UNLABELLED, Layout, TeacherBank
from taco.recovery.trainer import RecoveryOptions
from taco.recovery.unlabelled import Unlabelled
from taco.rundir import content_key
from taco.steps.stored import Store

#: The step whose file is the bank; it is forgotten when the run is finished, because it is large.
BANK_STEP = "teacher-bank"
#: A candidate takes as many, or as many as the whole recovery that it stands for: fewer say little of that.
CANDIDATE_STEPS = 40


class _InterruptedError(Exception):
    """Carries the best state past the store, which would keep it as finished."""

    def __init__(self, recovered: Recovered) -> None:
        super().__init__()
        self.recovered = recovered


@dataclasses.dataclass(frozen=True, eq=False)
class Recovery:
    """Recovers models compressed from one specialist.

    Attributes:
        specialist: The dense specialist.
        material: The task's pictures.
        minutes: Time for all recovery together.
        options: How to train.
        depends_on: Everything else that recovered weights depend on, as JSON values.
        store: Where results are kept.
        progress: Told about every step.
        unlabelled: The site's frames without labels.
        bank_bytes: Of the teacher's answers at most; None is as many as `plan_views` allows.
        timed_with: What the time of a step depends on beside the start, where that is less than `depends_on`: models of
            one size take as long whatever shots they learn from.
        whole_minutes: Of the recovery that what is recovered here stands for, where all of it is candidates; None is
            `minutes`.
    """

    specialist: nn.Module
    material: Material
    minutes: float
    options: RecoveryOptions
    depends_on: Mapping[str, Any]
    store: Store
    progress: Progress
    unlabelled: Unlabelled = dataclasses.field(default_factory=Unlabelled)
    bank_bytes: int | None = None
    timed_with: Mapping[str, Any] | None = None
    whole_minutes: float | None = None

    @functools.cached_property
    def teacher(self) -> Teacher:
        """The dense specialist and its answers on the select pictures."""
        return make_teacher(self.specialist, self.material, self.options.device)

    @functools.cached_property
    def _training(self) -> RecoveryOptions:
        """The options, in the arithmetic that the device is faster in: measured once, where there is a choice."""
        device = self.options.device
        if not has_bfloat16(device):
            return self.options

        def measure() -> bool:
            with self.progress.step("time training in bfloat16 against float32"):
                return is_faster(moved(self.specialist, device), self.material.bank.preprocessing.input_size)

        depends = {"head": self.depends_on.get("head"), "compute": name_of(device)}
        faster = bool(self.store.rundir.json_step("bfloat16", depends, measure, measured=True))
        return dataclasses.replace(self.options, bfloat16=faster)

    @property
    def _batch_key(self) -> dict[str, int]:
        return {"batch": self.options.batch}

    @property
    def training_key(self) -> dict[str, Any]:
        """What recovered weights depend on beside their start, pictures and number of steps, as JSON values."""
        return {**self._batch_key, "learning_rate": self.options.learning_rate, "kept": "as good as the nearest"}

    @functools.cached_property
    def _bank_key(self) -> dict[str, Any]:
        return {
            "head": self.depends_on.get("head"),
            "minutes": self.minutes,
            "seed": self.options.seed,
            "bfloat16": self._training.bfloat16,
            "unlabelled": content_key(self.unlabelled.to_json()),
        }

    @functools.cached_property
    def bank(self) -> TeacherBank:
        """Augmented views of the fit pictures and the frames, with the teacher's answers, in a file of the run."""

        def draw(path: Path) -> dict[str, Any]:
            fit, frames, preprocessing = self.material.task.fit, self.unlabelled.views, self.material.bank.preprocessing
            layout = Layout.of(self.teacher.module, preprocessing.input_size, self.teacher.ends)
            own, free = plan_views(len(fit), len(frames), self.minutes, layout.view_bytes, self.bank_bytes)
            sources = (
                Source([p.view for p in fit], [p.label_index for p in fit], own),
                Source(frames, [UNLABELLED] * len(frames), free),
            )
            how = DrawOptions(self.options.seed, path, self._training.bfloat16)
            with self.progress.step("ask the teacher about augmented views", own + free) as advance:
                draw_bank(self.teacher.module, layout, preprocessing, sources, how, advance)
            return dataclasses.asdict(dataclasses.replace(layout, n=own + free))

        file, facts = self.store.rundir.file_step(BANK_STEP, self._bank_key, ".bank", draw)
        return Layout.from_json(facts).open(file, self.material.bank.preprocessing)

    def renormalise(self, student: nn.Module) -> nn.Module:
        """Re-estimate BatchNorm; returns the better of before and after."""
        return renormalise(student, self.teacher, self.material)

    def best(self, *students: nn.Module) -> nn.Module:
        """Return the nearest to the teacher on the select pictures, BatchNorm re-estimated where that helps."""
        return min(self.compared(*students), key=lambda found: found[1])[0]

    def compared(self, *students: nn.Module) -> list[tuple[nn.Module, float]]:
        """Return each with BatchNorm re-estimated where that helps, and how far each then is from the teacher."""
        return [compared(student, self.teacher, self.material) for student in students]

    def steps(self, start: nn.Module, key: Mapping[str, Any], share: float = 1.0) -> int:
        """Turn a share of the minutes into steps, once: the answer is stored.

        A candidate stands for a model that is recovered with all of the minutes: where its share is too short for
        `CANDIDATE_STEPS` it takes these, or as many as all of the minutes have.
        """

        def plan() -> int:
            own, whole = share * self.minutes, self.minutes if self.whole_minutes is None else self.whole_minutes
            found = steps_for(start, self.bank, own, self._training)
            if found >= CANDIDATE_STEPS or not 0 < own < whole:
                return found
            return max(found, min(CANDIDATE_STEPS, steps_for(start, self.bank, whole, self._training)))

        depends = {**(self.depends_on if self.timed_with is None else self.timed_with), **key, **self._batch_key}
        return int(self.store.rundir.json_step("recovery-steps", depends, plan, measured=True))

    def recover(self, start: nn.Module, key: Mapping[str, Any], steps: int, name: str) -> Recovered:
        """Recover, go on with an unfinished recovery, or take the stored weights of the same one."""
        whole = {**self.depends_on, **key, **self.training_key, "steps": steps, "bank": content_key(self._bank_key)}
        checkpoint = Checkpoint(self.store.rundir.unfinished(f"recovery-{content_key(whole)}.safetensors"))

        def train() -> Recovered:
            bank, teacher = self.bank, self.teacher
            views = min(self._training.batch, len(bank))
            with self.progress.step(name, steps * views) as advance:
                watch = Watch(lambda _step, _best: advance(views), checkpoint)
                found = recover(start, bank, teacher.select, steps, self._training, watch)
            if found.ended == INTERRUPTED:
                raise _InterruptedError(found)
            return found

        try:
            found = self.store.recovered(whole, start, train)
        except _InterruptedError as stopped:
            return stopped.recovered
        checkpoint.drop()
        return found
