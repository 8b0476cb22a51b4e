"""A product and its clamp in one: the same values and gradients as one after the other."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from taco.recovery.clamped import bounds_of, clamped_product


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU6(inplace=True)], ids=str)
def test_values_and_gradients_are_those_of_two_operations(activation: nn.Module) -> None:
    torch.manual_seed(0)
    bounds = bounds_of(activation)
    assert bounds is not None
    made = [torch.randn(shape, dtype=torch.float64) * 3 for shape in ((7, 5), (4, 5), (4,))]
    toward, found = torch.randn(7, 4, dtype=torch.float64), []
    for one in (lambda x, w, b: clamped_product(x, w, b, bounds), lambda x, w, b: activation(F.linear(x, w, b))):
        tensors = [tensor.clone().requires_grad_(requires_grad=True) for tensor in made]
        y = one(*tensors)
        (y * toward).sum().backward()
        found.append([y, *(tensor.grad for tensor in tensors)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_gradient_agrees_with_differences() -> None:
    torch.manual_seed(1)
    x, w, b = (torch.randn(s, dtype=torch.float64).requires_grad_(requires_grad=True) for s in ((3, 4), (2, 4), (2,)))
    assert torch.autograd.gradcheck(lambda *a: clamped_product(*a, (0.0, 6.0)), (x, w, b))


def test_other_activations_are_left_alone() -> None:
    assert bounds_of(nn.SiLU()) is None
    assert bounds_of(nn.Identity()) is None


def test_autocast_is_kept() -> None:
    x, w, b = torch.randn(3, 4), torch.randn(2, 4, requires_grad=True), torch.zeros(2)
    with torch.autocast("cpu", torch.bfloat16):
        y = clamped_product(x, w, b, (0.0, 6.0))
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert w.grad is not None
