"""From a stitched model to the best one that the time allows: BatchNorm re-estimated, then distilled, then again.

Each change is kept only if the select pictures say that it helps (METHOD.md 5, 6).
"""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from taco.batchnorm import has_batchnorm, reestimate
from taco.material import Material
from taco.pictures import read_views
from taco.recover import Recovered, RecoveryOptions, objective, plan_steps, recover
from taco.views import TeacherBank, ask_teacher, augmented_views

log = logging.getLogger(__name__)

#: Augmented views of a fit picture for every minute of recovery, within bounds.
_VIEWS_A_MINUTE, _VIEWS_LEAST, _VIEWS_MOST = 4, 4, 16
_BANK_BYTES = 1_500_000_000


@dataclasses.dataclass(frozen=True, slots=True)
class Teacher:
    """The dense specialist and its answers on the select pictures (as they are, and mirrored)."""

    module: nn.Module
    select: TeacherBank


def make_teacher(specialist: nn.Module, material: Material) -> Teacher:
    """Ask the dense specialist about the select pictures, in float32."""
    module = copy.deepcopy(specialist).to(memory_format=torch.channels_last).eval()
    pixels = material.bank.pixels([p.view for p in material.task.select])
    both = np.concatenate([pixels, pixels[:, :, ::-1]])
    return Teacher(module, ask_teacher(module, both, material.bank.preprocessing, exact=True))


def teacher_bank(
    teacher: Teacher, material: Material, minutes: float, seed: int, progress: Callable[[int], None] | None = None
) -> TeacherBank:
    """Draw augmented views of the fit pictures and ask the teacher about each, once.

    The number of views follows from the minutes asked and the pictures, not from the clock: a repeated run draws the
    same ones.
    """
    preprocessing = material.bank.preprocessing
    _, height, width = preprocessing.input_size
    count = len(material.task.fit)
    wanted = round(_VIEWS_A_MINUTE * minutes)
    fitting = _BANK_BYTES // (count * height * width * 6)
    views = max(1, min(max(_VIEWS_LEAST, min(_VIEWS_MOST, wanted)), fitting))
    pictures = read_views([p.view for p in material.task.fit], short_side=round(1.3 * max(height, width)))
    pixels = augmented_views(pictures, views, preprocessing, seed)
    return ask_teacher(teacher.module, pixels, preprocessing, progress=progress)


def renormalise(student: nn.Module, teacher: Teacher, material: Material) -> nn.Module:
    """Re-estimate BatchNorm on the fit pictures; returns the better of before and after."""
    if not has_batchnorm(student):
        return student
    renewed = reestimate(student, material.batches(material.task.fit))
    before, after = objective(student, teacher.select), objective(renewed, teacher.select)
    log.debug("BatchNorm re-estimation: %.4f -> %.4f on select pictures", before, after)
    return renewed if after < before else student


def steps_for(student: nn.Module, bank: TeacherBank, minutes: float, seed: int) -> int:
    """Turn minutes into steps on this machine; the caller stores the answer."""
    return plan_steps(student, bank, 60.0 * minutes, RecoveryOptions(seed=seed))


def distil(
    student: nn.Module,
    teacher: Teacher,
    bank: TeacherBank,
    steps: int,
    options: RecoveryOptions,
    progress: Callable[[int, float], None] | None = None,
) -> Recovered:
    """Distil for `steps` steps; the result is never worse on the select pictures."""
    return recover(student, bank, teacher.select, steps, options, progress)
