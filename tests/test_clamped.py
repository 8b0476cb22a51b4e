"""A product and its clamp in one: the same values and gradients as one after the other."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from taco.surgery.clamped import bounds_of, clamped_product


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


def test_bfloat16_is_as_near_to_float32_as_torchs_two_operations() -> None:
    torch.manual_seed(2)
    made, found = [torch.randn(shape) for shape in ((64, 32), (16, 32), (16,))], []
    toward = torch.randn(64, 16)
    for together, enabled in ((False, False), (False, True), (True, True)):
        x, w, b = (tensor.clone().requires_grad_(requires_grad=True) for tensor in made)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y = clamped_product(x, w, b, (-0.5, 6.0)) if together else F.linear(x, w, b).clamp(-0.5, 6.0)
        assert y.dtype == (torch.bfloat16 if enabled else torch.float32)
        (y.float() * toward).sum().backward()
        assert x.grad is not None
        assert x.grad.dtype == torch.float32
        found.append([y.detach().float(), x.grad, w.grad, b.grad])
    for plain, theirs, ours in zip(*found, strict=True):
        assert 0 < (ours - plain).norm() <= 1.2 * (theirs - plain).norm()
