"""One streaming pass over the task's pictures: second moments at the input of chosen layers.

For a layer with unfolded inputs X (im2col with padding, stride, dilation and groups; METHOD.md 1) it keeps
`second = X X^T / n` and `mean = X 1 / n`. The solvers' H is `2 * second`; the centred version serves the affine refit,
where a bias absorbs the mean. Products run in float32, sums in float64.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack

import torch
from timm.layers import Conv2dSame
from timm.layers.padding import pad_same
from torch import nn
from torch.nn import functional as F

from taco.errors import SolverError, TaskError, UnsupportedModuleError


@dataclasses.dataclass(frozen=True, slots=True)
class Moments:
    """First and second moments of a layer's unfolded input.

    Attributes:
        second: (groups, cols, cols) float64, X X^T / n.
        mean: (groups, cols) float64.
        n: Number of unfolded positions summed.
    """

    second: torch.Tensor
    mean: torch.Tensor
    n: int

    @property
    def H(self) -> torch.Tensor:  # the paper's letter
        """Return 2 X X^T / n, (groups, cols, cols) float64."""
        return 2.0 * self.second

    @property
    def centred_H(self) -> torch.Tensor:
        """Return 2 Cov(X), (groups, cols, cols) float64: the Hessian when the bias is refitted too."""
        return 2.0 * (self.second - _outer(self.mean, self.mean))


class _Accumulator:
    """Sums of one layer's inputs about a shift (the first batch's mean), so that float32 products lose no variance."""

    def __init__(self) -> None:
        self.shift = self.second = self.total = torch.zeros(())
        self.n = 0

    def add(self, rows: torch.Tensor) -> None:
        """Add unfolded inputs, (groups, positions, cols) float32."""
        if not self.n:
            self.shift = rows.mean(1, keepdim=True)
        moved = rows - self.shift
        self.second = self.second + (moved.transpose(1, 2) @ moved).double()
        self.total = self.total + moved.sum(1, dtype=torch.float64)
        self.n += rows.shape[1]

    def finish(self, name: str) -> Moments:
        shift, moved = self.shift[:, 0].double(), self.total / self.n
        mean = shift + moved
        second = self.second / self.n + _outer(shift, mean) + _outer(moved, shift)
        if not second.isfinite().all():
            raise SolverError(
                f"the inputs of {name} are not finite on these pictures", "Check the weights: the dense model overflows"
            )
        return Moments(0.5 * (second + second.transpose(1, 2)), mean, self.n)


def _outer(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a[:, :, None] * b[:, None, :]


def can_unfold(layer: nn.Module) -> bool:
    """Tell whether `unfold` knows what the layer multiplies; subclasses that treat their weights first do not count."""
    if type(layer) is nn.Conv2d:
        return not isinstance(layer.padding, str) and layer.padding_mode == "zeros"
    return type(layer) in (nn.Linear, Conv2dSame)


def unfold(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Return the rows that the layer's weight matrix multiplies.

    Args:
        layer: An `nn.Linear`, or an `nn.Conv2d` (timm's `Conv2dSame` pads asymmetrically as it does itself).
        x: The layer's input, (N, C, H, W) or (..., features) float32.

    Returns:
        (groups, positions, cols) with cols ordered as `weight.reshape(rows, -1)` orders them.

    Raises:
        UnsupportedModuleError: The layer is of another kind, or pads otherwise than with zeros.
    """
    if not can_unfold(layer):
        raise UnsupportedModuleError(f"{layer} multiplies no known weight matrix", "Leave this layer dense")
    if isinstance(layer, nn.Linear):
        return x.reshape(1, -1, x.shape[-1])
    assert isinstance(layer, nn.Conv2d)  # noqa: S101 - can_unfold said so
    if isinstance(layer, Conv2dSame):
        x = pad_same(x, list(layer.kernel_size), list(layer.stride), list(layer.dilation))
    else:
        height, width = (int(p) for p in layer.padding)
        x = F.pad(x, (width, width, height, height))
    groups = layer.groups
    if layer.kernel_size == (1, 1):
        x = x[:, :, :: layer.stride[0], :: layer.stride[1]]
        pixels: torch.Tensor = x.unflatten(1, (groups, -1))
        return pixels.permute(1, 0, 3, 4, 2).flatten(1, 3)
    columns: torch.Tensor = F.unfold(x, layer.kernel_size, layer.dilation, 0, layer.stride).unflatten(1, (groups, -1))
    return columns.permute(1, 0, 3, 2).flatten(1, 2)


def weight_matrix(layer: nn.Conv2d | nn.Linear) -> torch.Tensor:
    """Return the weights as (groups, rows, cols), a view where possible."""
    groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
    return layer.weight.detach().reshape(groups, layer.weight.shape[0] // groups, -1)


def calibrate(
    model: nn.Module,
    layers: Sequence[str],
    batches: Iterable[torch.Tensor],
    progress: Callable[[int], None] | None = None,
) -> Mapping[str, Moments]:
    """Stream `batches` (N, C, H, W) through the model once and return the moments at each layer's input.

    Args:
        model: In eval mode; not modified.
        layers: Names of Linear and Conv2d modules.
        batches: Float32 inputs.
        progress: Called with the number of pictures of each batch when it is done.

    Raises:
        TaskError: There is no picture.
        UnsupportedModuleError: A layer cannot be unfolded, or the model never runs it.
        SolverError: A layer's inputs overflow.
    """
    sums = {name: _Accumulator() for name in layers}
    pictures = 0
    with ExitStack() as stack, torch.no_grad():
        for name in layers:
            handle = model.get_submodule(name).register_forward_pre_hook(_hook(sums[name]))
            stack.callback(handle.remove)
        for batch in batches:
            model(batch)
            pictures += len(batch)
            if progress is not None:
                progress(len(batch))
    if not pictures:
        raise TaskError("there is no picture to calibrate on", "Give more pictures a class")
    missing = [name for name, s in sums.items() if s.n == 0]
    if missing:
        raise UnsupportedModuleError(f"{missing[0]} was never run by the model", "Leave this layer dense")
    return {name: s.finish(name) for name, s in sums.items()}


def _hook(accumulator: _Accumulator) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
    def hook(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        accumulator.add(unfold(layer, inputs[0].float()))

    return hook
