"""From a stitched model to the best one that the time allows: BatchNorm re-estimated, then distilled, then again.

Each change is kept only if the select pictures say that it helps (METHOD.md 5, 6).
"""

from __future__ import annotations

import copy
import dataclasses
import logging

import numpy as np
import torch
from torch import nn

from taco.compute import CPU, device_of, moved
from taco.material import Material, labels_of
from taco.recover import plan_steps
from taco.recovery.distillation import objective
from taco.recovery.taps import block_ends
from taco.recovery.teacher_bank import TeacherBank, ask_teacher
from taco.recovery.trainer import RecoveryOptions
from taco.surgery.batchnorm import has_batchnorm, reestimate

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Teacher:
    """The dense specialist, its blocks, and its answers on the select pictures (as they are, and mirrored).

    The module lies where training computes.
    """

    module: nn.Module
    ends: tuple[str, ...]
    select: TeacherBank


def make_teacher(specialist: nn.Module, material: Material, device: torch.device = CPU) -> Teacher:
    """Ask the dense specialist, on a device, about the select pictures, in float32."""
    preprocessing = material.bank.preprocessing
    ends = block_ends(specialist, preprocessing.input_size)
    module = copy.deepcopy(specialist).to(device).to(memory_format=torch.channels_last).eval()
    pixels = material.bank.pixels([p.view for p in material.task.select])
    both = np.concatenate([pixels, pixels[:, :, ::-1]])
    labels = np.tile(labels_of(material.task.select), 2)
    return Teacher(module, ends, ask_teacher(module, both, preprocessing, ends=ends, labels=labels))


def renormalise(student: nn.Module, teacher: Teacher, material: Material) -> nn.Module:
    """Re-estimate BatchNorm on the fit pictures; returns the better of before and after."""
    return compared(student, teacher, material)[0] if has_batchnorm(student) else student


def compared(student: nn.Module, teacher: Teacher, material: Material) -> tuple[nn.Module, float]:
    """Return a student with BatchNorm re-estimated where that helps, and its distance from the teacher.

    The distance is the distillation objective on the select pictures.
    """
    old = moved(student, device_of(teacher.module))
    before = objective(old, teacher.select)
    if not has_batchnorm(student):
        return student, before
    renewed = reestimate(old, material.batches(material.task.fit))
    after = objective(renewed, teacher.select)
    log.debug("BatchNorm re-estimation: %.4f -> %.4f on select pictures", before, after)
    return (renewed.to(CPU), after) if after < before else (student, before)


def steps_for(student: nn.Module, bank: TeacherBank, minutes: float, options: RecoveryOptions) -> int:
    """Turn minutes into steps on this machine; the caller stores the answer."""
    return plan_steps(student, bank, 60.0 * minutes, options)
