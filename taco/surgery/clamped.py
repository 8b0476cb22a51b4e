"""A matrix product and the clamp that follows it as one operation with its own gradient.

By itself the clamp of a product either fills a second map of the same size or, in place on a view, makes autograd copy
whole maps. Where the output lies strictly between the bounds the gradient passes, so that the output alone tells it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


def bounds_of(activation: object) -> tuple[float, float] | None:
    """Return what an activation clamps to; None where it does something else."""
    if isinstance(activation, nn.ReLU6):
        return 0.0, 6.0
    if isinstance(activation, nn.ReLU):
        return 0.0, float("inf")
    return None


def clamped_product(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, bounds: tuple[float, float]
) -> torch.Tensor:
    """Return (x W^T + b) clamped, as (n, out).

    Args:
        x: (n, in).
        weight: (out, in).
        bias: (out,).
        bounds: Least and largest value.
    """
    if bias is None:
        return F.linear(x, weight, bias).clamp(*bounds)
    if torch.is_autocast_enabled("cpu"):  # autocast does not reach into a gradient of ours
        kind = torch.get_autocast_dtype("cpu")
        x, weight, bias = x.to(kind), weight.to(kind), bias.to(kind)
    found: torch.Tensor = _ClampedProduct.apply(x, weight, bias, *bounds)
    return found


class _ClampedProduct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, low: float, high: float
    ) -> torch.Tensor:
        y = torch.addmm(bias, x, weight.mT).clamp_(low, high)
        ctx.save_for_backward(x, weight, y)
        ctx.bounds = low, high
        return y

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, y = ctx.saved_tensors
        own = torch.ops.aten.hardtanh_backward(grads[0], y, *ctx.bounds)
        passed = own @ weight if ctx.needs_input_grad[0] else None
        return passed, own.mT @ x, own.sum(0), None, None
