"""A light fine-tune: what learns, what stays, and that its cross-validation sees no held-out picture."""

from __future__ import annotations

import dataclasses
import math

import pytest
import timm
import torch
from torch import nn

from taco.errors import HeadError
from taco.model import classifier_of, state_sha256
from taco.specialist import finetune
from taco.specialist.finetune import (
    FOLDS,
    Divided,
    FineTuneOptions,
    as_head,
    cross_validated,
    fine_tune,
    last_parameters,
)
from taco.specialist.folds import stratified_folds
from taco.specialist.head import Linear, with_head
from taco.specialist.probe import plain_ridge

SIZE = (3, 32, 32)
FAST = FineTuneOptions(epochs=4, batch=4, learning_rate=2e-3)
LABELS = torch.arange(12) % 3


@pytest.fixture(scope="module")
def specialist() -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = timm.create_model("test_resnet", num_classes=3)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    noise = torch.randn(12, *SIZE, generator=torch.Generator().manual_seed(0))
    shift = torch.eye(3)[LABELS].view(12, 3, 1, 1)
    return noise + 1.5 * shift


def test_the_last_blocks_and_all_that_follows_learn(specialist: nn.Module) -> None:
    names = last_parameters(specialist, SIZE, 1)
    assert {name.split(".")[0] for name in names} == {"layer4", "fc"}
    assert {name.split(".")[0] for name in last_parameters(specialist, SIZE, 2)} == {"layer3", "layer4", "fc"}
    assert len(last_parameters(specialist, SIZE, 99)) < len(list(specialist.parameters()))  # the stem stays


def test_a_model_without_blocks_cannot_be_tuned() -> None:
    with pytest.raises(HeadError, match="no blocks were found"):
        last_parameters(nn.Sequential(nn.Conv2d(3, 4, 3)), SIZE, 1)


def test_only_what_may_learn_changes_and_it_learns(specialist: nn.Module, pictures: torch.Tensor) -> None:
    names = last_parameters(specialist, SIZE, 1)
    before = state_sha256(specialist)
    tuned = fine_tune(specialist, pictures, LABELS, names, FAST)
    assert state_sha256(specialist) == before
    changed = {n for n, p in tuned.named_parameters() if not torch.equal(p, specialist.get_parameter(n))}
    assert changed
    assert changed <= set(names)
    assert all(torch.equal(b, specialist.get_buffer(n)) for n, b in tuned.named_buffers())
    losses = [float(nn.functional.cross_entropy(m(pictures), LABELS)) for m in (specialist, tuned)]
    assert losses[1] < losses[0]
    assert not any(p.requires_grad for p in tuned.parameters())
    again = fine_tune(specialist, pictures, LABELS, names, FAST)
    assert state_sha256(again) == state_sha256(tuned)


def test_a_loss_that_is_not_finite_is_said(specialist: nn.Module, pictures: torch.Tensor) -> None:
    wild = dataclasses.replace(FAST, learning_rate=math.inf)
    with pytest.raises(HeadError, match="the loss is no longer finite"):
        fine_tune(specialist, pictures, LABELS, last_parameters(specialist, SIZE, 1), wild)


def test_held_out_pictures_are_seen_neither_by_the_head_nor_by_the_tuning(
    specialist: nn.Module, pictures: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[set[int]] = []
    tuned: list[int] = []
    real = finetune.fine_tune

    def fit(index: torch.Tensor) -> Linear:
        fitted.append(set(index.tolist()))
        features = specialist.forward_head(specialist.forward_features(pictures[index]), pre_logits=True)
        return plain_ridge(features, LABELS[index])

    def spy(model: nn.Module, x: torch.Tensor, *rest: object) -> nn.Module:
        tuned.append(len(x))
        return real(model, x, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(finetune, "fine_tune", spy)
    names = last_parameters(specialist, SIZE, 1)
    shots = Divided(pictures, LABELS, stratified_folds(LABELS, FAST.seed, FOLDS))
    logits = cross_validated(specialist, fit, shots, names, dataclasses.replace(FAST, epochs=1))
    assert logits.shape == (12, 3)
    assert bool(logits.any(1).all())
    held = [set(range(12)) - one for one in fitted]
    assert sorted(i for one in held for i in one) == list(range(12))
    assert tuned == [12 - len(one) for one in held]


def test_a_tuned_model_becomes_a_head_that_can_be_put_on_again(specialist: nn.Module, pictures: torch.Tensor) -> None:
    names = last_parameters(specialist, SIZE, 1)
    tuned = fine_tune(specialist, pictures, LABELS, names, FAST)
    head = as_head(tuned, names, "tuned")
    assert not any(name.startswith("fc") for name in head.tuned)
    again = with_head(specialist, head)
    torch.testing.assert_close(again(pictures), tuned(pictures))
    assert torch.equal(classifier_of(again).weight, classifier_of(tuned).weight)
