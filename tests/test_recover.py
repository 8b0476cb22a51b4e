"""Distillation on a tiny student: it helps where it can, never harms, and repeats."""

from __future__ import annotations

import copy
import dataclasses
import logging
import math
from functools import lru_cache
from itertools import chain, pairwise, repeat

import numpy as np
import pytest
import timm
import torch
from torch import nn

from taco.device.images import Preprocessing
from taco.model import classifier_of, state_sha256
from taco.recover import Recovered, RecoveryOptions, objective, plan_steps, recover
from taco.views import TeacherBank, ask_teacher, outputs

SIZE = Preprocessing((3, 32, 32), "bicubic", (0.5, 0.5, 0.5), (0.3, 0.3, 0.3), 0.9, "center")
FAST = RecoveryOptions(learning_rate=3e-3, batch=8, checks=4)


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
    return Case(student, *(ask_teacher(teacher, pixels(n, seed), SIZE, exact=True) for n, seed in ((24, 1), (10, 2))))


def run(steps: int = 24, options: RecoveryOptions = FAST, **replaced: object) -> Recovered:
    found = dataclasses.replace(case(), **replaced)  # type: ignore[arg-type]
    return recover(found.student, found.bank, found.select, steps, options)


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
    recover(found.student, found.bank, found.select, 8, FAST, lambda step, best: heard.append((step, best)))
    assert [step for step, _ in heard] == list(range(1, 9))
    assert all(later <= earlier for (_, earlier), (_, later) in pairwise(heard))


def test_a_bank_smaller_than_a_batch_works() -> None:
    small = dataclasses.replace(case().bank, pixels=case().bank.pixels[:3])
    assert run(steps=4, bank=small).steps == 4


def test_the_objective_is_relative_feature_error_plus_divergence() -> None:
    student, bank = case().student, case().select
    with torch.no_grad():
        s, logits = outputs(student, bank.inputs(np.arange(10)))
    t = bank.features.float()
    relative = np.mean([float((s[i] - t[i]).norm() ** 2 / t[i].norm() ** 2) for i in range(10)])
    p, q = bank.logits.softmax(1).numpy(), logits.softmax(1).numpy()
    divergence = float((p * np.log(p / q)).sum(1).mean())
    assert objective(student, bank) == pytest.approx(relative + divergence, rel=1e-3)
    assert objective(student, bank, batch=3) == pytest.approx(objective(student, bank), rel=1e-4)


def test_the_teacher_itself_has_nearly_no_loss() -> None:
    torch.manual_seed(0)
    teacher = timm.create_model("test_efficientnet", num_classes=4).eval()
    assert objective(teacher, case().select) < 1e-5  # what float16 leaves


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
