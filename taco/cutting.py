"""One cut: stitch at a ratio, re-estimate BatchNorm, recover; the long part is stored, so that a killed run goes on."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any

import safetensors.torch
from torch import nn

from taco.allocate import uniform
from taco.compress import UnitSolution, stitch
from taco.files import sha256_of
from taco.progress import Progress
from taco.recover import Recovered
from taco.repair import Teacher, distil, make_teacher, renormalise, steps_for, teacher_bank
from taco.rundir import RunDir
from taco.specialise import Material, Specialist
from taco.views import TeacherBank

log = logging.getLogger(__name__)


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
    rundir: RunDir
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
        key = {**recipe.depends_on, "head_fitted": self.specialist.head, "widths": dict(widths)}
        steps = self.rundir.json_step(
            "recovery-steps", key, lambda: steps_for(start, self._bank, recipe.minutes, recipe.seed)
        )

        def train() -> Recovered:
            bank, name = self._bank, f"recover by distillation ({recipe.minutes:g} min)"
            with self.progress.step(name, steps) as advance:
                return distil(start, self._teacher, bank, steps, recipe.seed, lambda _step, _best: advance(1))

        return self._stored({**key, "steps": steps}, start, train)

    def _stored(self, key: Mapping[str, Any], start: nn.Module, train: Callable[[], Recovered]) -> Recovered:
        file = self.rundir.step_file("recovered", key, ".safetensors")
        made: list[Recovered] = []

        def compute() -> dict[str, Any]:
            made.append(train())
            state = {name: tensor.contiguous() for name, tensor in made[0].module.state_dict().items()}
            temporary = file.with_suffix(".tmp")
            safetensors.torch.save_file(state, temporary)
            temporary.replace(file)
            facts = {f.name: getattr(made[0], f.name) for f in dataclasses.fields(Recovered) if f.name != "module"}
            return {**facts, "sha256": sha256_of(file)}

        facts = self.rundir.json_step("recovered", key, compute)
        if made:
            return made[0]
        if not file.is_file() or sha256_of(file) != facts["sha256"]:
            log.warning("the stored recovered weights are damaged; recovering again")
            return train()
        start.load_state_dict(safetensors.torch.load_file(file))
        known = {name: value for name, value in facts.items() if name != "sha256"}
        return Recovered(**{**known, "module": start, "history": tuple(map(tuple, facts["history"]))})
