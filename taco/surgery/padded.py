"""Zeros around a channels_last map in one pass: only the borders are filled, and the gradient is a view.

torch's own padding fills the whole of the new map before it copies the old one into it, and copies the gradient too.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers.padding import get_same_padding
from torch import nn


def padded_same(x: torch.Tensor, conv: nn.Conv2d) -> torch.Tensor:
    """Return (n, C, H, W) with the zeros that TensorFlow's SAME padding of a convolution asks for."""
    (top, bottom), (left, right) = (
        (whole // 2, whole - whole // 2)
        for whole in (
            get_same_padding(side, conv.kernel_size[axis], conv.stride[axis], conv.dilation[axis])
            for axis, side in enumerate(x.shape[2:])
        )
    )
    if top == bottom == left == right == 0:
        return x
    found: torch.Tensor = _Padded.apply(x, top, bottom, left, right)
    return found


class _Padded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, top: int, bottom: int, left: int, right: int) -> torch.Tensor:
        n, channels, height, width = x.shape
        ctx.inner = slice(top, top + height), slice(left, left + width)
        y = x.new_empty(n, top + height + bottom, left + width + right, channels).permute(0, 3, 1, 2)
        y[:, :, :top].zero_()
        y[:, :, top + height :].zero_()
        y[:, :, ctx.inner[0], :left].zero_()
        y[:, :, ctx.inner[0], left + width :].zero_()
        y[:, :, *ctx.inner] = x
        return y

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return grads[0][:, :, *ctx.inner], None, None, None, None
