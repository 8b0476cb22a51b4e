"""What a layer's weight matrix multiplies: im2col with padding, stride, dilation and groups (METHOD.md 1).

A convolution's input becomes one plane a channel, and every column of the unfolded matrix is read out of a plane
through one index, so that chosen positions cost only what they are.
"""

from __future__ import annotations

import torch
from timm.layers import Conv2dSame
from timm.layers.linear import Linear as AutocastLinear
from torch import nn

from taco.errors import UnsupportedModuleError


def channels_last(batch: torch.Tensor) -> torch.Tensor:
    """Return inputs of a model as its layers are fastest on: pictures (N, C, H, W) in channels_last."""
    return batch.contiguous(memory_format=torch.channels_last) if batch.ndim == 4 else batch


def can_unfold(layer: nn.Module) -> bool:
    """Tell whether `unfold` knows what the layer multiplies; subclasses that treat their weights first do not count."""
    if type(layer) is nn.Conv2d:
        return layer.padding_mode == "zeros"
    return type(layer) in (nn.Linear, AutocastLinear, Conv2dSame)


def known(layer: nn.Module) -> nn.Conv2d | nn.Linear:
    """Return the layer.

    Raises:
        UnsupportedModuleError: It is of a kind that `can_unfold` does not know, or pads otherwise than with zeros.
    """
    if isinstance(layer, nn.Conv2d | nn.Linear) and can_unfold(layer):
        return layer
    raise UnsupportedModuleError(f"{layer} multiplies no known weight matrix", "Leave this layer dense")


def weight_matrix(layer: nn.Conv2d | nn.Linear) -> torch.Tensor:
    """Return the weights as (groups, rows, cols), a view where possible."""
    groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
    return layer.weight.detach().reshape(groups, layer.weight.shape[0] // groups, -1)


def positions_of(layer: nn.Module, x: torch.Tensor) -> int:
    """Count the rows that `unfold` makes of an input."""
    if isinstance(layer, nn.Conv2d):
        maps = x.shape[0] if x.ndim == 4 else 1
        return maps * len(_reads(layer, 0, x.shape[-2])) * len(_reads(layer, 1, x.shape[-1]))
    return x.numel() // x.shape[-1]


def unfold(
    layer: nn.Module, x: torch.Tensor, chosen: torch.Tensor | None = None, origin: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the rows that the layer's weight matrix multiplies.

    Args:
        layer: An `nn.Linear`, or an `nn.Conv2d` (timm's `Conv2dSame` pads asymmetrically as it does itself).
        x: The layer's input, (N, C, H, W) or (..., features) float32.
        chosen: (k,) int64, the rows to make; all of them by default. Rows are counted picture after picture, line
            after line.
        origin: (C,) or (features,) float32, subtracted from every input, from the zeros of the padding too.

    Returns:
        (groups, positions, cols) with cols ordered as `weight.reshape(rows, -1)` orders them. It may be a view of `x`.

    Raises:
        UnsupportedModuleError: The layer is of another kind, or pads otherwise than with zeros.
    """
    layer = known(layer)
    if isinstance(layer, nn.Linear):
        rows = x.reshape(1, -1, x.shape[-1])
        rows = rows if chosen is None else rows[:, chosen]
        return rows if origin is None else rows - origin
    x = x if x.ndim == 4 else x[None]
    if chosen is None:
        grid = _grid(layer, x, None)
        planes = _all(x, grid, origin)
    else:
        outputs = positions_of(layer, x) // len(x)
        grid = _grid(layer, x, chosen % outputs)
        planes = _some(x, _index(grid, x, chosen // outputs), origin)
    return planes.reshape(layer.groups, x.shape[1] // layer.groups * len(grid), -1).transpose(1, 2)


def _all(x: torch.Tensor, grid: torch.Tensor, origin: torch.Tensor | None) -> torch.Tensor:
    """Return (C, taps * positions): every plane is read many times, so it is laid out first."""
    if x.stride(1) == 1:  # channels last: a two-dimensional transposition is fast
        planes = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]).t().contiguous()
    else:
        planes = x.transpose(0, 1).reshape(x.shape[1], -1)
    planes = planes if origin is None else planes - origin[:, None]
    if grid.shape == (1, x[0, 0].numel()) and grid[0, 0] == 0:
        return planes
    if grid.min() < 0:
        outside = planes.new_zeros(len(planes)) if origin is None else -origin
        planes = torch.cat([planes, outside[:, None]], 1)
    return planes.index_select(1, _index(grid[:, None, :], x, torch.arange(len(x), device=x.device)[:, None]))


def _some(x: torch.Tensor, index: torch.Tensor, origin: torch.Tensor | None) -> torch.Tensor:
    """Return (C, taps * positions): few pixels are read, so the others are not touched where a view can be had."""
    padding = len(x) * x.shape[-2] * x.shape[-1]
    outside, inside = (index == padding).nonzero().flatten(), index.clamp(max=padding - 1)
    if x.stride(1) == 1:  # channels last
        pixels = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
        rows = pixels.index_select(0, inside).index_fill_(0, outside, 0.0)
        return (rows if origin is None else rows.sub_(origin)).t().contiguous()
    planes = x.transpose(0, 1).reshape(x.shape[1], -1)
    found = planes.index_select(1, inside).index_fill_(1, outside, 0.0)
    return found if origin is None else found.sub_(origin[:, None])


def _grid(layer: nn.Conv2d, x: torch.Tensor, chosen: torch.Tensor | None) -> torch.Tensor:
    """Return the pixel of one picture that each (tap, position) reads, int64; -1 in the padding.

    Args:
        layer: What reads.
        x: What it reads.
        chosen: (k,) int64, positions of one picture; None is all of them.
    """
    height, width = x.shape[-2:]
    down, across = (_reads(layer, axis, length).to(x.device) for axis, length in enumerate((height, width)))
    every = torch.arange(len(down) * len(across), device=x.device) if chosen is None else chosen
    down, across = down[every // len(across)][:, :, None], across[every % len(across)][:, None, :]
    inside = (down >= 0) & (down < height) & (across >= 0) & (across < width)
    return (down * width + across).where(inside, -1).flatten(1).t().contiguous()


def _index(grid: torch.Tensor, x: torch.Tensor, pictures: torch.Tensor) -> torch.Tensor:
    """Return where in the planes of `x` what `grid` names lies, of some pictures, flat; behind the last in the padding.

    Args:
        grid: From `_grid`, of any shape that `pictures` can be added to.
        x: What is read.
        pictures: int64, their numbers.
    """
    size = x.shape[-2] * x.shape[-1]
    return (grid + pictures * size).where(grid >= 0, len(x) * size).reshape(-1)


def _reads(layer: nn.Conv2d, axis: int, length: int) -> torch.Tensor:
    """Pixels of one axis that each output reads, (outputs, taps) int64; outside of [0, length) it is padding."""
    taps, stride, dilation = layer.kernel_size[axis], layer.stride[axis], layer.dilation[axis]
    reach = dilation * (taps - 1) + 1
    if isinstance(layer, Conv2dSame):
        total = max(0, (-(-length // stride) - 1) * stride + reach - length)
        before = total // 2
    elif isinstance(layer.padding, str):
        total = reach - 1 if layer.padding == "same" else 0
        before = total // 2
    else:
        before = int(layer.padding[axis])
        total = 2 * before
    outputs = (length + total - reach) // stride + 1
    return torch.arange(outputs)[:, None] * stride - before + torch.arange(taps) * dilation
