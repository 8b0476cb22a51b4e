"""Recovery within a run: what is asked, timed and trained once, and what Ctrl-C and a kill leave."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import draw_task
from tiny_recovery import Heard, begun, make_material, make_specialist, recovery
from torch import nn

from taco.material import Material
from taco.model import state_sha256
from taco.pictures.listing import View
from taco.recover import INTERRUPTED, Recovered
from taco.recovery.teacher_bank import UNLABELLED
from taco.recovery.unlabelled import Unlabelled
from taco.steps import recovering
from taco.steps.recovering import BANK_STEP, CANDIDATE_STEPS, Recovery

STEPS = 12


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_task(tmp_path_factory.mktemp("recovering") / "site", count=6)


@pytest.fixture(scope="module")
def material(site: Path) -> Material:
    return make_material(site)


@pytest.fixture(scope="module")
def specialist() -> nn.Module:
    return make_specialist()


@pytest.fixture
def student(specialist: nn.Module) -> nn.Module:
    damaged = copy.deepcopy(specialist)
    with torch.no_grad():
        for parameter in damaged.parameters():
            parameter.mul_(1 + 0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return damaged


def run(one: Recovery, student: nn.Module) -> Recovered:
    return one.recover(copy.deepcopy(student), {"widths": 1}, STEPS, "recover")


def test_the_teacher_is_asked_once_and_its_answers_lie_in_a_file_until_the_run_is_finished(
    tmp_path: Path, specialist: nn.Module, material: Material, student: nn.Module
) -> None:
    first = recovery(tmp_path / "out", specialist, material)
    found = run(first, student)
    fit = len(material.task.fit)
    (file,) = (tmp_path / "out" / ".taco" / "steps").glob(f"{BANK_STEP}-*.bank")
    assert (found.views, file.stat().st_size >= found.bank_bytes > 0) == (4 * fit, True)
    second = recovery(tmp_path / "out", specialist, material)
    assert second.recover(student, {"widths": 2}, 2, "recover").steps == 2
    assert "ask the teacher about augmented views" not in begun(second)
    second.store.rundir.forget(BANK_STEP)
    assert not list((tmp_path / "out").rglob("*.bank"))


def test_a_finished_recovery_is_taken_from_the_store(
    tmp_path: Path, specialist: nn.Module, material: Material, student: nn.Module
) -> None:
    one = run(recovery(tmp_path / "out", specialist, material), student)
    again = recovery(tmp_path / "out", specialist, material)
    two = run(again, student)
    assert begun(again) == []
    assert state_sha256(one.module) == state_sha256(two.module)
    assert (one.history, one.views, one.ended) == (two.history, two.views, two.ended)
    assert one.kept_step > 0


def test_frames_without_labels_join_the_bank(
    tmp_path: Path, specialist: nn.Module, material: Material, student: nn.Module
) -> None:
    frames = Unlabelled(tuple(View(p.path) for p in material.task.fit[:5]))
    with_frames = recovery(tmp_path / "a", specialist, material, unlabelled=frames)
    plain = recovery(tmp_path / "b", specialist, material)
    assert run(with_frames, student).views == run(plain, student).views + 4 * 5
    assert (with_frames.bank.labels == UNLABELLED).sum() == 4 * 5
    assert run(with_frames, student).history != run(plain, student).history


def test_minutes_become_steps_once(
    tmp_path: Path, specialist: nn.Module, material: Material, student: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([40, 50])
    monkeypatch.setattr(recovering, "steps_for", lambda *_: next(answers))
    for _ in range(2):
        assert recovery(tmp_path / "out", specialist, material).steps(student, {"widths": 1}) == 40
    assert recovery(tmp_path / "out", specialist, material).steps(student, {"widths": 2}) == 50


def test_steps_of_another_batch_are_not_taken_over(
    tmp_path: Path, specialist: nn.Module, material: Material, student: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([40, 80])
    monkeypatch.setattr(recovering, "steps_for", lambda *_: next(answers))
    first = recovery(tmp_path / "out", specialist, material)
    options = dataclasses.replace(first.options, batch=4)
    halved = recovery(tmp_path / "out", specialist, material, options=options)
    assert (first.steps(student, {}), halved.steps(student, {})) == (40, 80)
    assert halved.recover(student, {}, 8, "recover").history != first.recover(student, {}, 8, "recover").history


@pytest.mark.parametrize(("whole", "steps"), [(227, CANDIDATE_STEPS), (25, 25), (15, 15), (0, 0)])
@pytest.mark.parametrize(("minutes", "whole_minutes", "share"), [(2.0, None, 0.05), (0.1, 2.0, 1.0)], ids=["", "side"])
def test_a_candidate_is_recovered_at_least_a_little_where_its_whole_recovery_is(
    minutes: float,
    whole_minutes: float | None,
    share: float,
    whole: int,
    steps: int,
    tmp_path: Path,
    specialist: nn.Module,
    material: Material,
    student: nn.Module,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its minutes are a share of all, or on a division of the shots those of a candidate themselves."""
    monkeypatch.setattr(recovering, "steps_for", lambda _s, _b, minutes, _o: whole if minutes == 2.0 else 0)
    asked = recovery(tmp_path / "out", specialist, material, minutes=minutes, whole_minutes=whole_minutes)
    assert asked.steps(student, {"widths": 1}, share) == steps
    undivided = recovery(tmp_path / "out", specialist, material, minutes=2.0)
    assert undivided.steps(student, {"widths": 2}) == whole


@pytest.mark.parametrize("faster", [True, False])
def test_bfloat16_is_measured_once_where_the_processor_has_it(
    faster: bool, tmp_path: Path, specialist: nn.Module, material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert recovery(tmp_path / "none", specialist, material)._training.bfloat16 is False or recovering.has_bfloat16()
    monkeypatch.setattr(recovering, "has_bfloat16", lambda _device: True)
    answers = iter([faster])
    monkeypatch.setattr(recovering, "is_faster", lambda *_: next(answers))
    for _ in range(2):
        assert recovery(tmp_path / "out", specialist, material)._training.bfloat16 is faster


class Interrupting(Heard):
    """Raises after so many views."""

    def __init__(self, after: int, error: type[BaseException]) -> None:
        super().__init__()
        self.after, self.error = after, error

    def step(self, name: str, total: int | None = None) -> Any:
        context = super().step(name, total)
        if name != "recover":
            return context
        return _Raising(context, self)


class _Raising:
    def __init__(self, context: Any, owner: Interrupting) -> None:
        self.context, self.owner, self.done = context, owner, 0

    def __enter__(self) -> Any:
        advance = self.context.__enter__()

        def count(n: int) -> None:
            self.done += n
            if self.done >= self.owner.after:
                raise self.owner.error
            advance(n)

        return count

    def __exit__(self, *error: Any) -> Any:
        return self.context.__exit__(*error)


class Killed(BaseException):
    """As good as kill -9: nothing here catches it."""


@pytest.mark.parametrize("error", [Killed, KeyboardInterrupt])
def test_what_was_stopped_goes_on_and_ends_the_same(
    error: type[BaseException],
    tmp_path: Path,
    specialist: nn.Module,
    material: Material,
    student: nn.Module,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recovering.Checkpoint, "due", lambda _self: True)
    monkeypatch.setattr(recovering, "is_faster", lambda *_: True)  # two folders would each ask the clock
    whole = run(recovery(tmp_path / "whole", specialist, material), student)
    stopped = recovery(tmp_path / "out", specialist, material, progress=Interrupting(8 * 8, error))
    if error is KeyboardInterrupt:
        early = run(stopped, student)
        assert (early.steps, early.ended) == (8, INTERRUPTED)
        assert early.history == whole.history[:3]
    else:
        with pytest.raises(Killed):
            run(stopped, student)
    assert len(list((tmp_path / "out" / ".taco" / "unfinished").iterdir())) == 1
    again = run(recovery(tmp_path / "out", specialist, material), student)
    assert state_sha256(again.module) == state_sha256(whole.module)
    assert again.history == whole.history
    assert not list((tmp_path / "out" / ".taco" / "unfinished").iterdir())
