"""Few-shot recovery: distil the dense specialist into its compressed version, widths, masks and head fixed.

Normalisation statistics stay frozen and steps are small. The last state is kept that is nearer to the teacher on the
select pictures than the state before recovery, and that these cannot tell from the nearest of all: one of few pictures
often moves away while unseen ones come nearer (docs/adr/0013). Recovery ends early when no more states are kept, when
the loss is no longer finite, and on Ctrl-C; what was kept so far is the result each time.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from taco.compute import CPU, moved, name_of
from taco.heap import kept_heap
from taco.recovery.checkpoint import Checkpoint
from taco.recovery.distillation import Maps, fit_maps, objectives
from taco.recovery.teacher_bank import TeacherBank
from taco.recovery.trainer import RecoveryOptions, Trainer

log = logging.getLogger(__name__)

MIN_STEPS = 10
#: What `Recovered.ended` says after Ctrl-C.
INTERRUPTED = "interrupted"
#: Pruning most weights does more harm than narrower widths do, and 2e-4 is made for small repairs. At 78 % zeros 40
#: steps at this rate took the objective on the select pictures from 0.93 to 0.74 (EfficientNet-Lite0, 8 species).
SPARSE_LEARNING_RATE = 1e-3
_TIMED_STEPS = 5
#: A step takes about as long as so many forward passes over its views.
_PASSES = 3
#: Checks take at most about this share of the time of the steps.
_CHECKED = 0.1
#: A state is surely farther from the teacher where it is so by this many standard errors of the difference over views.
_SURE = 2.0


@dataclasses.dataclass(frozen=True, slots=True)
class Recovered:
    """What recovery gave.

    Attributes:
        module: The state that was kept, eval mode.
        steps: Steps taken; fewer than asked where it ended early.
        kept_step: The step whose state was kept; 0 is the state before recovery.
        loss_before: Objective on the select pictures before.
        loss_after: The same of the kept state: smaller, or that state is the one before.
        history: (step, objective on the select pictures) of every check.
        ended: Why it ended early, in words; empty where all steps were taken.
        views: Views in the bank.
        bank_bytes: Size of the bank.
        device: What it computed on, for people.
    """

    module: nn.Module
    steps: int
    kept_step: int
    loss_before: float
    loss_after: float
    history: tuple[tuple[int, float], ...]
    ended: str = ""
    views: int = 0
    bank_bytes: int = 0
    device: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Watch:
    """Who follows a recovery.

    Attributes:
        progress: Called with (step, smallest objective so far) after every step.
        checkpoint: Where its state is kept until it is finished; None keeps it nowhere.
    """

    progress: Callable[[int, float], None] | None = None
    checkpoint: Checkpoint | None = None


@kept_heap()
def plan_steps(student: nn.Module, bank: TeacherBank, seconds: float, options: RecoveryOptions) -> int:
    """Turn a time into a step count, once, by timing a few steps on a throw-away copy.

    Returns:
        0 when not even `MIN_STEPS` fit.
    """
    trial = Trainer(student, bank, options, steps=1000)
    trial.step(0)
    taken = []
    for i in range(_TIMED_STEPS):
        begin = time.perf_counter()
        trial.step(i + 1)
        taken.append(time.perf_counter() - begin)
    each = statistics.median(taken)  # a busy moment must not decide how long recovery lasts
    steps = int(seconds / (each * 1.08))  # the checks take about 8 %
    return steps if steps >= MIN_STEPS else 0


@kept_heap()
def recover(
    student: nn.Module,
    bank: TeacherBank,
    select: TeacherBank,
    steps: int,
    options: RecoveryOptions,
    watch: Watch | None = None,
) -> Recovered:
    """Distil for at most `steps` steps and return the last state that is as good as any on the select pictures.

    Ctrl-C ends it with what was kept so far, which is logged; a second one interrupts what comes next as usual.

    Args:
        student: The compressed specialist; not modified.
        bank: Views of the pictures to learn from, with the teacher's answers.
        select: The select pictures with the teacher's answers.
        steps: From `plan_steps`.
        options: Learning rate, batch, checks, seed.
        watch: Who follows it, and where its state is kept.
    """
    followed = watch or Watch()
    student = moved(student, options.device)
    maps = fit_maps(student, bank)
    run = _Run(Trainer(student, bank, options, steps, maps), select, options, steps, maps)
    saved = followed.checkpoint.load() if followed.checkpoint else None
    if saved is None:
        run.begin(student)
    else:
        run.resume(student, *saved)
        log.info("recovery goes on after step %d of %d", run.taken, steps)
    try:
        run.train(followed)
    except KeyboardInterrupt:
        run.ended = INTERRUPTED
        log.warning(
            "recovery was interrupted after step %d of %d: the best state so far, %s, is kept and the run goes on "
            "(Ctrl-C again to stop it)",
            run.taken,
            steps,
            f"that of step {run.kept.step}" if run.kept.step else "that before recovery",
        )
    return run.result(bank)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    """The state to return."""

    step: int
    value: float
    module: nn.Module


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Judged:
    """How far a state lies from the teacher on every select view, (n,); the mean is infinite where one is no number."""

    each: npt.NDArray[np.float32]

    @property
    def value(self) -> float:
        found = float(self.each.mean(dtype=np.float64))
        return found if math.isfinite(found) else math.inf

    def surely_farther(self, other: _Judged) -> bool:
        """Tell whether this state lies farther away than another one by more than chance."""
        if not math.isfinite(self.value) or not math.isfinite(other.value):
            return not self.value < other.value
        more = self.each.astype(np.float64) - other.each
        return bool(more.mean() > _SURE * more.std() / math.sqrt(len(more)))


class _Run:
    """One recovery under way."""

    kept: _Kept
    _nearest: _Judged

    def __init__(self, trainer: Trainer, select: TeacherBank, options: RecoveryOptions, steps: int, maps: Maps) -> None:
        self._trainer, self._select, self._options, self._steps = trainer, select, options, steps
        self._maps = maps
        self.taken, self.ended = 0, ""
        self._history: list[tuple[int, float]] = []

    def begin(self, student: nn.Module) -> None:
        """Start with the state before recovery."""
        self._nearest = self._judge(student)
        self.kept = _Kept(0, self._nearest.value, copy.deepcopy(student))
        self._history = [(0, self._nearest.value)]

    def resume(self, student: nn.Module, tensors: dict[str, torch.Tensor], facts: Any) -> None:
        """Go on where a checkpoint was made."""
        self._trainer.load(tensors)
        module = copy.deepcopy(student)
        module.load_state_dict({n.removeprefix("kept|"): t for n, t in tensors.items() if n.startswith("kept|")})
        self._history = [(step, value) for step, value in facts["history"]]
        self.kept = _Kept(facts["kept"], dict(self._history)[facts["kept"]], module)
        self._nearest = _Judged(tensors["nearest"].numpy())
        self.taken = facts["step"]

    def train(self, watch: Watch) -> None:
        """Take the steps that are left."""
        every = math.ceil(self._steps / self._checks)
        while self.taken < self._steps and not self._stale():
            if not math.isfinite(self._trainer.step(self.taken)):
                self.ended = "the loss was no longer finite"
                log.warning(
                    "recovery stopped at step %d: the loss is not finite; the best state so far is kept", self.taken + 1
                )
                return
            self.taken += 1
            if self.taken % every == 0 or self.taken == self._steps:
                self._check()
            if watch.progress is not None:
                watch.progress(self.taken, self._nearest.value)
            if watch.checkpoint is not None and watch.checkpoint.due():
                self._save(watch.checkpoint)

    @property
    def _checks(self) -> int:
        """How many, evenly spread and the last one at the end: those do not take much of a short recovery."""
        asked = len(self._select) / (_PASSES * self._trainer.views_a_step)
        return max(1, min(self._options.checks, int(self._steps * _CHECKED / asked)))

    def result(self, bank: TeacherBank) -> Recovered:
        """Return what was kept and how it came about."""
        module = self.kept.module.to(CPU).to(memory_format=torch.contiguous_format).eval().requires_grad_(False)
        return Recovered(
            module=module,
            steps=self.taken,
            kept_step=self.kept.step,
            loss_before=self._history[0][1],
            loss_after=self.kept.value,
            history=tuple(self._history),
            ended=self.ended,
            views=len(bank),
            bank_bytes=bank.size_bytes,
            device=name_of(self._options.device),
        )

    def _check(self) -> None:
        found = self._judge(self._trainer.student)
        if found.value < self._nearest.value:
            self._nearest = found
        if found.value < self._history[0][1] and not found.surely_farther(self._nearest):
            self.kept = _Kept(self.taken, found.value, copy.deepcopy(self._trainer.student))
        self._history.append((self.taken, found.value))

    def _stale(self) -> bool:
        since = [step for step, _ in self._history if step > self.kept.step]
        if len(since) >= self._options.patience and self.taken < self._steps:
            self.ended = f"{len(since)} checks in a row found no gain on the select pictures"
            return True
        return False

    def _judge(self, student: nn.Module) -> _Judged:
        return _Judged(objectives(student, self._select, self._options.losses, self._maps))

    def _save(self, checkpoint: Checkpoint) -> None:
        kept = {f"kept|{name}": tensor.cpu() for name, tensor in self.kept.module.state_dict().items()}
        nearest = {"nearest": torch.from_numpy(self._nearest.each)}
        facts = {"step": self.taken, "kept": self.kept.step, "history": self._history}
        checkpoint.save({**self._trainer.state(), **kept, **nearest}, facts)
