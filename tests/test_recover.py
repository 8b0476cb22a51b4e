"""Distillation on a tiny student: it helps where it can, never harms, and repeats."""

from __future__ import annotations

import copy
import dataclasses
import logging
import math
from functools import lru_cache
from itertools import chain, pairwise, repeat
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import nn

from taco.device.images import Preprocessing
from taco.model import classifier_of, state_sha256
from taco.recover import INTERRUPTED, Recovered, Watch, plan_steps, recover
from taco.recovery.checkpoint import Checkpoint
from taco.recovery.distillation import objective
from taco.recovery.taps import block_ends
from taco.recovery.teacher_bank import TeacherBank, ask_teacher
from taco.recovery.trainer import RecoveryOptions, Trainer

SIZE = Preprocessing((3, 32, 32), "bicubic", (0.5, 0.5, 0.5), (0.3, 0.3, 0.3), 0.9, "center")
FAST = RecoveryOptions(learning_rate=3e-3, batch=8, checks=4, patience=4)


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """A teacher's answers and a student that was damaged."""

    student: nn.Module
    bank: TeacherBank
    select: TeacherBank


def pixels(n: int, seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (n, 4, 4, 3), np.uint8)
    return coarse.repeat(8, 1).repeat(8, 2)


@lru_cache(maxsize=1)
def case() -> Case:
    torch.manual_seed(0)
    teacher = timm.create_model("test_efficientnet", num_classes=4).eval().requires_grad_(False)
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if "blocks" in name and parameter.ndim == 4:
                parameter.mul_(1 + 0.5 * torch.randn(parameter.shape))
    ends = block_ends(teacher, SIZE.input_size)
    assert ends
    return Case(student, *(ask_teacher(teacher, pixels(n, seed), SIZE, ends=ends) for n, seed in ((24, 1), (10, 2))))


def run(steps: int = 24, options: RecoveryOptions = FAST, watch: Watch | None = None, **replaced: object) -> Recovered:
    found = dataclasses.replace(case(), **replaced)  # type: ignore[arg-type]
    return recover(found.student, found.bank, found.select, steps, options, watch)


def test_it_comes_closer_to_the_teacher_and_says_by_how_much() -> None:
    result = run()
    assert result.loss_after < 0.8 * result.loss_before
    assert result.loss_before == pytest.approx(objective(case().student, case().select), rel=1e-5)
    assert result.loss_after == pytest.approx(objective(result.module, case().select), rel=1e-5)
    assert result.steps == 24
    assert result.kept_step in {step for step, _ in result.history}


def test_every_check_is_recorded_and_the_best_is_kept() -> None:
    result = run()
    assert [step for step, _ in result.history] == [0, 6, 12, 18, 24]
    assert min(value for _, value in result.history) == result.loss_after
    assert dict(result.history)[result.kept_step] == result.loss_after
    assert result.history[0] == (0, result.loss_before)


def judged(monkeypatch: pytest.MonkeyPatch, *states: list[float]) -> Recovered:
    """Recover with four checks that find the states so far from the teacher, a figure a select view."""
    left = iter([np.array(each, np.float32) for each in states])
    monkeypatch.setattr("taco.recover.objectives", lambda *_: next(left))
    return run()


def test_one_picture_that_moves_away_does_not_decide_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    start, later = [1.0] * 8, [0.5] * 7
    result = judged(monkeypatch, start, [0.6] * 8, [*later, 0.7], [*later, 1.5], [*later, 2.0])
    assert result.history[-1][1] > result.history[-3][1]
    assert (result.kept_step, result.loss_after) == (24, pytest.approx(0.6875))


def test_a_state_that_is_surely_farther_than_the_nearest_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    start, near = [1.0] * 8, [0.5, 0.51] * 4
    result = judged(monkeypatch, start, [0.8] * 8, near, [0.6, 0.62] * 4, [0.55, 0.56, 0.54, 0.55] * 2)
    assert result.kept_step == 12
    assert result.loss_after == pytest.approx(0.505)


def test_what_is_not_nearer_than_before_recovery_is_not_kept_whatever_chance_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result = judged(monkeypatch, [1.0] * 8, *[[0.9] * 7 + [1.9]] * 4)
    assert result.kept_step == 0


def test_one_seed_repeats_and_another_differs() -> None:
    one, two, other = run(), run(), run(options=dataclasses.replace(FAST, seed=1))
    assert state_sha256(one.module) == state_sha256(two.module)
    assert one.history == two.history
    assert one.history != other.history


def test_the_head_stays_and_the_given_student_too() -> None:
    before = state_sha256(case().student)
    result = run()
    assert state_sha256(case().student) == before
    assert not any(p.requires_grad for p in case().student.parameters())
    assert torch.equal(classifier_of(result.module).weight, classifier_of(case().student).weight)
    assert torch.equal(classifier_of(result.module).bias, classifier_of(case().student).bias)
    assert not torch.equal(result.module.conv_stem.weight, case().student.conv_stem.weight)


def test_normalisation_statistics_stay_frozen() -> None:
    before, after = (dict(m.named_buffers()) for m in (case().student, run().module))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_result_is_plain_frozen_and_carries_no_gradients() -> None:
    module = run().module
    assert not any(m.training for m in module.modules())
    assert not any(p.requires_grad for p in module.parameters())
    assert all(p.grad is None for p in module.parameters())
    assert all(p.is_contiguous() for p in module.parameters())


@pytest.mark.parametrize("rate", [10.0, 1e30, math.inf], ids=str)
def test_an_absurd_learning_rate_cannot_harm(rate: float, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        result = run(options=dataclasses.replace(FAST, learning_rate=rate))
    assert result.kept_step == 0
    assert result.loss_after == result.loss_before
    assert state_sha256(result.module) == state_sha256(case().student)
    if result.steps < 24:
        assert f"stopped at step {result.steps + 1}: the loss is not finite" in caplog.text


def test_a_loss_that_is_not_finite_ends_the_training_at_once(caplog: pytest.LogCaptureFixture) -> None:
    result = run(options=dataclasses.replace(FAST, learning_rate=math.inf))
    assert result.steps < 4
    assert "best state so far is kept" in caplog.text
    assert result.history == ((0, result.loss_before),)


def test_no_step_returns_the_student() -> None:
    result = run(steps=0)
    assert (result.steps, result.kept_step) == (0, 0)
    assert state_sha256(result.module) == state_sha256(case().student)
    assert result.module is not case().student


def test_progress_hears_of_every_step() -> None:
    heard: list[tuple[int, float]] = []
    found = case()
    watch = Watch(lambda step, best: heard.append((step, best)))
    recover(found.student, found.bank, found.select, 8, FAST, watch)
    assert [step for step, _ in heard] == list(range(1, 9))
    assert all(later <= earlier for (_, earlier), (_, later) in pairwise(heard))


def test_a_bank_smaller_than_a_batch_works() -> None:
    assert run(steps=4, bank=ask_teacher(case().student, pixels(3, 1), SIZE)).steps == 4


@pytest.mark.parametrize("n", [3, 8, 24])
def test_every_view_comes_once_before_any_comes_again(n: int) -> None:
    bank = ask_teacher(case().student, pixels(n, 1), SIZE)
    trainer = Trainer(case().student, bank, dataclasses.replace(FAST, batch=7), steps=100)
    seen = np.concatenate([trainer._views(i) for i in range(12)])
    assert len(trainer._views(0)) == min(7, n)
    for start in range(0, len(seen) - n, n):
        assert sorted(seen[start : start + n]) == list(range(n))


def test_it_ends_early_where_the_select_pictures_no_longer_gain() -> None:
    hopeless = dataclasses.replace(FAST, learning_rate=0.0, checks=12, patience=3)
    result = run(options=hopeless)
    assert [step for step, _ in result.history] == [0, 5, 10, 15], "five steps take ten times as long as one check"
    assert (result.steps, result.kept_step) == (15, 0)
    assert result.ended == "3 checks in a row found no gain on the select pictures"
    assert run().ended == ""


class Stop:
    """Presses Ctrl-C after so many steps."""

    def __init__(self, after: int) -> None:
        self.after = after

    def __call__(self, step: int, _best: float) -> None:
        if step == self.after:
            raise KeyboardInterrupt


def test_ctrl_c_keeps_the_best_state_so_far_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        result = run(watch=Watch(Stop(after=14)))
    whole = run()
    assert (result.steps, result.ended) == (14, INTERRUPTED)
    assert result.history == whole.history[:3]
    assert result.kept_step in (6, 12)
    assert result.loss_after == objective(result.module, case().select)
    assert f"after step 14 of 24: the best state so far, that of step {result.kept_step}, is kept" in caplog.text


def test_ctrl_c_before_the_first_check_keeps_the_state_before(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        result = run(watch=Watch(Stop(after=2)))
    assert state_sha256(result.module) == state_sha256(case().student)
    assert "that before recovery, is kept" in caplog.text


class Killed(BaseException):
    """Nothing in recovery may catch it."""


@pytest.mark.parametrize("after", [1, 6, 13, 23])
def test_a_killed_recovery_goes_on_and_ends_bit_for_bit_the_same(after: int, tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "state.safetensors", every_s=0.0)

    def kill(step: int, _best: float) -> None:
        if step == after + 1:
            raise Killed

    masked = dataclasses.replace(FAST, keep_zeros=True)
    with pytest.raises(Killed):
        run(options=masked, watch=Watch(kill, checkpoint))
    heard: list[int] = []
    again = run(options=masked, watch=Watch(lambda step, _best: heard.append(step), checkpoint))
    whole = run(options=masked)
    assert heard[0] == after + 1
    assert state_sha256(again.module) == state_sha256(whole.module)
    assert again.history == whole.history
    assert (again.kept_step, again.loss_after) == (whole.kept_step, whole.loss_after)


def test_a_damaged_checkpoint_is_said_and_recovery_begins_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = Checkpoint(tmp_path / "state.safetensors", every_s=math.inf)
    checkpoint.file.write_bytes(b"no safetensors")
    with caplog.at_level(logging.WARNING):
        result = run(steps=6, watch=Watch(checkpoint=checkpoint))
    assert "is damaged and begins again" in caplog.text
    assert result.history == run(steps=6).history


def test_a_student_that_is_not_finite_at_first_is_replaced_by_any_that_is() -> None:
    student = copy.deepcopy(case().student)
    with torch.no_grad():
        student.conv_stem.weight.fill_(math.nan)
    result = run(steps=4, student=student)
    assert math.isinf(result.loss_before)
    assert result.ended == "the loss was no longer finite"


def clock(monkeypatch: pytest.MonkeyPatch, *durations: float) -> None:
    """Every timed step lasts as long as said, then the last one's length."""
    now, lengths = [0.0], chain(durations, repeat(durations[-1]))
    ends = chain.from_iterable((0.0, length) for length in lengths)

    def tick() -> float:
        now[0] += next(ends)
        return now[0]

    monkeypatch.setattr("taco.recover.time.perf_counter", tick)


@pytest.mark.parametrize("durations", [(0.1,), (7.0, 0.1, 0.1, 9.0, 0.1)], ids=["steady", "two busy moments"])
def test_seconds_become_steps_in_proportion(durations: tuple[float, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, *durations)
    before = state_sha256(case().student)
    assert plan_steps(case().student, case().bank, 10.81, FAST) == 100
    assert state_sha256(case().student) == before


@pytest.mark.parametrize(("seconds", "steps"), [(0.0, 0), (1.05, 0), (1.1, 10)])
def test_less_time_than_ten_steps_is_none(seconds: float, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, 0.1)
    assert plan_steps(case().student, case().bank, seconds, FAST) == steps


def test_weights_that_are_zero_stay_zero_where_asked() -> None:
    student = copy.deepcopy(case().student)
    name = next(n for n, p in student.named_parameters() if "blocks" in n and p.ndim == 4)
    weight = student.get_parameter(name)
    with torch.no_grad():
        weight[::2] = 0.0
    under_mask = run(options=dataclasses.replace(FAST, keep_zeros=True), student=student)
    free = run(student=student)
    kept = under_mask.module.get_parameter(name)
    assert under_mask.kept_step > 0
    assert torch.equal(kept == 0, weight == 0)
    assert not torch.equal(kept, weight)
    assert bool((free.module.get_parameter(name)[::2] != 0).any())
