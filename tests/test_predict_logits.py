"""Answers of torch models to many pictures are those of the model itself, however they are computed."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import timm
import torch
from torch import nn

from taco.specialist import specialise
from taco.specialist.specialise import penultimate, predict_logits, predict_with_features


@functools.cache
def model(name: str) -> nn.Module:
    torch.manual_seed(0)
    made: nn.Module = timm.create_model(name, num_classes=3)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return made.eval().requires_grad_(False)


def batches(*sizes: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(n, 3, 64, 64, generator=generator) for n in sizes]


@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet", "test_vit"])
@pytest.mark.parametrize("sizes", [(3,), (16, 5), (32, 32, 1)], ids=str)
def test_logits_and_features_are_the_models_own(name: str, sizes: tuple[int, ...]) -> None:
    module = model(name)
    if name == "test_vit":
        given = [torch.nn.functional.interpolate(batch, size=(160, 160)) for batch in batches(*sizes)]
    else:
        given = batches(*sizes)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with torch.no_grad():
        expected = torch.cat([module(batch) for batch in given]).numpy()
    np.testing.assert_allclose(predict_logits(module, given), expected, rtol=1e-3, atol=1e-4)
    logits, features = predict_with_features(module, iter(given))
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)
    assert features.shape[0] == sum(sizes), "tries of a faster form are no pictures"
    torch.testing.assert_close(features, penultimate(module, given), rtol=1e-3, atol=1e-3)
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())


def test_many_pictures_are_worth_a_faster_form_and_few_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[int, int, int]] = []
    monkeypatch.setattr(specialise, "faster_form", lambda own, size: made.append(size) or own)
    predict_logits(model("test_efficientnet"), batches(15, 32))
    assert made == []
    predict_logits(model("test_efficientnet"), batches(16))
    assert made == [(3, 64, 64)]
