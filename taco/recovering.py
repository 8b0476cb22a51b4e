"""Recovery within a run: the teacher is asked once, minutes become steps once, and recovered weights are stored."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from torch import nn

from taco.material import Material
from taco.progress import Progress
from taco.recover import Recovered, RecoveryOptions, objective
from taco.repair import Teacher, distil, make_teacher, renormalise, steps_for, teacher_bank
from taco.stored import Store
from taco.views import TeacherBank


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
    """

    specialist: nn.Module
    material: Material
    minutes: float
    options: RecoveryOptions
    depends_on: Mapping[str, Any]
    store: Store
    progress: Progress

    @functools.cached_property
    def teacher(self) -> Teacher:
        """The dense specialist and its answers on the select pictures."""
        return make_teacher(self.specialist, self.material)

    @functools.cached_property
    def _bank(self) -> TeacherBank:
        with self.progress.step("ask the teacher about augmented views") as advance:
            return teacher_bank(self.teacher, self.material, self.minutes, self.options.seed, advance)

    def renormalise(self, student: nn.Module) -> nn.Module:
        """Re-estimate BatchNorm; returns the better of before and after."""
        return renormalise(student, self.teacher, self.material)

    def best(self, *students: nn.Module) -> nn.Module:
        """Return the nearest to the teacher on the select pictures, BatchNorm re-estimated where that helps."""
        renewed = [self.renormalise(student) for student in students]
        return min(renewed, key=lambda student: objective(student, self.teacher.select))

    def steps(self, start: nn.Module, key: Mapping[str, Any]) -> int:
        """Turn the minutes into steps, once: the answer is stored."""

        def plan() -> int:
            return steps_for(start, self._bank, self.minutes, self.options.seed)

        return int(self.store.rundir.json_step("recovery-steps", {**self.depends_on, **key}, plan, measured=True))

    def recover(self, start: nn.Module, key: Mapping[str, Any], steps: int, name: str) -> Recovered:
        """Recover, or take the stored weights of the same recovery."""

        def train() -> Recovered:
            bank, teacher = self._bank, self.teacher
            with self.progress.step(name, steps) as advance:
                return distil(start, teacher, bank, steps, self.options, lambda _step, _best: advance(1))

        return self.store.recovered({**self.depends_on, **key, "steps": steps}, start, train)
