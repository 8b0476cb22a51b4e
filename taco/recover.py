"""Few-shot recovery: distil the dense specialist into its compressed version, widths and head fixed.

loss = ||s - t||^2 / ||t||^2 of the last feature map + KL(teacher || student) of the logits (METHOD.md 6). Normalisation
statistics stay frozen, steps are small, the state that is best on the select pictures wins, and the state before
recovery is one of the candidates: recovery can only help, by construction.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from taco.model import classifier_of
from taco.views import TeacherBank, autocast, outputs

log = logging.getLogger(__name__)

MIN_STEPS = 10
#: Pruning most weights does more harm than narrower widths do, and 2e-4 is made for small repairs. At 78 % zeros 40
#: steps at this rate took the objective on the select pictures from 0.93 to 0.74 (EfficientNet-Lite0, 8 species).
SPARSE_LEARNING_RATE = 1e-3
_WARM_UP = 20
_TIMED_STEPS = 5


@dataclasses.dataclass(frozen=True, slots=True)
class RecoveryOptions:
    """How to recover.

    Attributes:
        learning_rate: Peak rate of AdamW, cosine to zero.
        batch: Views a step.
        checks: How often the student is compared with the teacher on the select pictures.
        seed: Draws the batches.
        keep_zeros: Weights that are zero at the start stay zero: recovery under a fixed mask.
    """

    learning_rate: float = 2e-4
    batch: int = 32
    checks: int = 8
    seed: int = 0
    keep_zeros: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Recovered:
    """What recovery gave.

    Attributes:
        module: The best state, eval mode.
        steps: Steps taken; fewer than asked when the loss was no longer finite.
        kept_step: The step whose state was kept; 0 is the state before recovery.
        loss_before: Objective on the select pictures before.
        loss_after: The same of the kept state; never larger.
        history: (step, objective on the select pictures) of every check.
    """

    module: nn.Module
    steps: int
    kept_step: int
    loss_before: float
    loss_after: float
    history: tuple[tuple[int, float], ...]


def plan_steps(student: nn.Module, bank: TeacherBank, seconds: float, options: RecoveryOptions) -> int:
    """Turn a time into a step count, once, by timing a few steps on a throw-away copy.

    Returns:
        0 when not even `MIN_STEPS` fit.
    """
    trial = _Trainer(student, bank, options, steps=1000)
    trial.step(0)
    taken = []
    for i in range(_TIMED_STEPS):
        begin = time.perf_counter()
        trial.step(i + 1)
        taken.append(time.perf_counter() - begin)
    each = sorted(taken)[1]  # one busy moment must not decide how long recovery lasts
    steps = int(seconds / (each * 1.08))  # the checks take about 8 %
    return steps if steps >= MIN_STEPS else 0


def recover(
    student: nn.Module,
    bank: TeacherBank,
    select: TeacherBank,
    steps: int,
    options: RecoveryOptions,
    progress: Callable[[int, float], None] | None = None,
) -> Recovered:
    """Distil for `steps` steps and return the state that is best on the select pictures.

    Args:
        student: The compressed specialist; not modified.
        bank: Views of the fit pictures with the teacher's answers.
        select: The select pictures with the teacher's answers.
        steps: From `plan_steps`.
        options: Learning rate, batch, checks, seed.
        progress: Called with (step, best objective so far).
    """
    before = objective(student, select)
    best, kept, history = copy.deepcopy(student), 0, [(0, before)]
    lowest = before
    trainer = _Trainer(student, bank, options, steps)
    every = max(1, math.ceil(steps / options.checks))
    taken = 0
    for step in range(1, steps + 1):
        if not math.isfinite(trainer.step(step - 1)):
            log.warning("recovery stopped at step %d: the loss is not finite; the best state so far is kept", step)
            break
        taken = step
        if step % every == 0 or step == steps:
            value = objective(trainer.student, select)
            history.append((step, value))
            if value < lowest:
                lowest, kept, best = value, step, copy.deepcopy(trainer.student)
        if progress is not None:
            progress(step, lowest)
    module = best.to(memory_format=torch.contiguous_format).eval().requires_grad_(False)
    return Recovered(module, taken, kept, before, lowest, tuple(history))


def objective(student: nn.Module, bank: TeacherBank, batch: int = 32) -> float:
    """Return the distillation loss over a whole bank, float32, eval mode."""
    total = 0.0
    model = copy.deepcopy(student).to(memory_format=torch.channels_last).eval()
    with torch.no_grad():
        for start in range(0, len(bank.pixels), batch):
            index = np.arange(start, min(start + batch, len(bank.pixels)))
            total += float(_loss(model, bank, index)) * len(index)
    return total / len(bank.pixels)


def _loss(model: nn.Module, bank: TeacherBank, index: np.ndarray[tuple[int], np.dtype[np.int64]]) -> torch.Tensor:
    features, logits = outputs(model, bank.inputs(index))
    t, answer = bank.features[index].float(), bank.logits[index]
    relative = (features.float() - t).square().flatten(1).sum(1) / t.square().flatten(1).sum(1).clamp_min(1e-12)
    divergence = F.kl_div(logits.float().log_softmax(1), answer.log_softmax(1), log_target=True, reduction="batchmean")
    return relative.mean() + divergence


def fixed_masks(parameters: Iterable[nn.Parameter]) -> list[tuple[nn.Parameter, torch.Tensor]]:
    """Return every weight matrix or kernel that has zeros, with the bool mask of what may change."""
    return [(p, p.detach() != 0) for p in parameters if p.ndim > 1 and bool((p == 0).any())]


class _Trainer:
    """One student in training: optimiser, schedule and the order of the views."""

    def __init__(self, student: nn.Module, bank: TeacherBank, options: RecoveryOptions, steps: int) -> None:
        self.student = copy.deepcopy(student).to(memory_format=torch.channels_last).eval().requires_grad_(True)
        classifier_of(self.student).requires_grad_(False)
        self._bank, self._options, self._steps = bank, options, steps
        self._parameters = [p for p in self.student.parameters() if p.requires_grad]
        self._optimiser = torch.optim.AdamW(self._parameters, options.learning_rate, weight_decay=1e-4)
        self._masks = fixed_masks(self._parameters) if options.keep_zeros else []
        self._random = np.random.default_rng(options.seed)
        self._queue = np.empty(0, np.int64)

    def step(self, i: int) -> float:
        """Take step `i`; returns the training loss."""
        warm_up = max(1, min(_WARM_UP, self._steps // 5))
        rate = self._options.learning_rate * min(1.0, (i + 1) / warm_up)
        for group in self._optimiser.param_groups:
            group["lr"] = rate * 0.5 * (1.0 + math.cos(math.pi * i / self._steps))
        with autocast():
            loss = _loss(self.student, self._bank, self._next())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimiser.step()
        with torch.no_grad():
            for parameter, mask in self._masks:
                parameter.mul_(mask)
        self._optimiser.zero_grad(set_to_none=True)  # copies of the student carry no gradients
        return float(loss.detach())

    def _next(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Return the next views: every view once before any comes again."""
        size = min(self._options.batch, len(self._bank.pixels))
        if len(self._queue) < size:
            self._queue = np.concatenate([self._queue, self._random.permutation(len(self._bank.pixels))])
        batch, self._queue = self._queue[:size], self._queue[size:]
        return batch
