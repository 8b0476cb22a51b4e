"""From a stitched model to the best one that the time allows: BatchNorm re-estimated, then distilled, then again.

Each change is kept only if the select pictures say that it helps (METHOD.md 5, 6).
"""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from taco.compute import CPU, device_of, moved
from taco.material import Material, labels_of
from taco.pictures.listing import LabelledPicture
from taco.recover import plan_steps
from taco.recovery.bank_views import BANK_BYTES
from taco.recovery.distillation import objective
from taco.recovery.taps import block_ends
from taco.recovery.teacher_bank import Layout, TeacherBank, ask_teacher
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
    """Ask the dense specialist, on a device, about the select pictures, in float32.

    The answers lie in memory, at most `BANK_BYTES`: where there are more, it is asked about as many of every class.
    """
    preprocessing = material.bank.preprocessing
    ends = block_ends(specialist, preprocessing.input_size)
    module = copy.deepcopy(specialist).to(device).to(memory_format=torch.channels_last).eval()
    view_bytes = Layout.of(module, preprocessing.input_size, ends).view_bytes
    select = _evenly(material.task.select, max(1, BANK_BYTES // (2 * view_bytes)))
    pixels = material.bank.pixels([p.view for p in select])
    both = np.concatenate([pixels, pixels[:, :, ::-1]])
    labels = np.tile(labels_of(select), 2)
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


def _evenly(pictures: Sequence[LabelledPicture], most: int) -> Sequence[LabelledPicture]:
    """Return at most so many pictures in their own order, of every class as many or one more."""
    if len(pictures) <= most:
        return pictures
    log.info("%d of %d select pictures are compared with the teacher's answers: memory is bounded", most, len(pictures))
    turns: Counter[int] = Counter()
    drawn: list[tuple[int, int]] = []
    for place in np.random.default_rng(0).permutation(len(pictures)).tolist():
        label = pictures[place].label_index
        drawn.append((turns[label], place))
        turns[label] += 1
    first = sorted(drawn, key=lambda one: one[0])[:most]  # a turn of every class, then the next one
    return [pictures[place] for place in sorted(place for _, place in first)]


def steps_for(student: nn.Module, bank: TeacherBank, minutes: float, options: RecoveryOptions) -> int:
    """Turn minutes into steps on this machine; the caller stores the answer."""
    return plan_steps(student, bank, 60.0 * minutes, options)
