"""One cut: stitch at a ratio, re-estimate BatchNorm, recover; the long part is stored, so that a killed run goes on."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from torch import nn

from taco.allocate import uniform
from taco.compress import UnitSolution, stitch
from taco.material import Material
from taco.progress import Progress
from taco.recover import Recovered
from taco.repair import Teacher, distil, make_teacher, renormalise, steps_for, teacher_bank
from taco.specialise import Specialist
from taco.stored import Store
from taco.views import TeacherBank


@dataclasses.dataclass(frozen=True, slots=True)
class Recipe:
    """How to cut.

    Attributes:
        multiple: Kept channels are multiples of this.
        minutes: Time for recovery; 0 is none.
        seed: Draws views and batches.
        depends_on: Everything else that the recovered weights depend on, as JSON values.
    """

    multiple: int
    minutes: float
    seed: int
    depends_on: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Cut:
    """A compressed model and how it came about.

    Attributes:
        module: The compressed specialist.
        ratio: The uniform ratio; 1.0 is the dense model.
        widths: Unit -> channels kept.
        stitched: The model before anything was repaired.
        recovered: What recovery did; None when there was none.
    """

    module: nn.Module
    ratio: float
    widths: Mapping[str, int]
    stitched: nn.Module
    recovered: Recovered | None


@dataclasses.dataclass(frozen=True, eq=False)
class Cutter:
    """Makes cuts of one specialist; the teacher is asked once for all of them."""

    specialist: Specialist
    material: Material
    solutions: Mapping[str, UnitSolution]
    recipe: Recipe
    store: Store
    progress: Progress

    def cut(self, ratio: float) -> Cut:
        """Cut every unit to `ratio` of its width and repair what that broke."""
        dense = {name: s.unit.width for name, s in self.solutions.items()}
        widths = uniform(dense, ratio, self.recipe.multiple).widths
        if widths == dense:
            return Cut(self.specialist.module, 1.0, dense, self.specialist.module, None)
        with self.progress.step("stitch the smaller model"):
            stitched = stitch(self.specialist.module, self.solutions, widths)
            start = renormalise(stitched, self._teacher, self.material)
        if self.recipe.minutes == 0:
            return Cut(start, ratio, widths, stitched, None)
        recovered = self._recovered(start, widths)
        with self.progress.step("re-estimate BatchNorm"):
            module = renormalise(recovered.module, self._teacher, self.material)
        return Cut(module, ratio, widths, stitched, recovered)

    @functools.cached_property
    def _teacher(self) -> Teacher:
        return make_teacher(self.specialist.module, self.material)

    @functools.cached_property
    def _bank(self) -> TeacherBank:
        with self.progress.step("ask the teacher about augmented views") as advance:
            return teacher_bank(self._teacher, self.material, self.recipe.minutes, self.recipe.seed, advance)

    def _recovered(self, start: nn.Module, widths: Mapping[str, int]) -> Recovered:
        """Recover, or take the stored weights of the same recovery."""
        recipe = self.recipe
        key = {**recipe.depends_on, "minutes": recipe.minutes, "widths": dict(widths)}

        def plan() -> int:
            return steps_for(start, self._bank, recipe.minutes, recipe.seed)

        steps = self.store.rundir.json_step("recovery-steps", key, plan, measured=True)

        def train() -> Recovered:
            bank, name = self._bank, f"recover by distillation ({recipe.minutes:g} min)"
            with self.progress.step(name, steps) as advance:
                return distil(start, self._teacher, bank, steps, recipe.seed, lambda _step, _best: advance(1))

        return self.store.recovered({**key, "steps": steps}, start, train)
