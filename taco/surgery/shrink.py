"""Cut modules down to the channels that stay: tensors and the sizes that modules declare of themselves."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from timm.layers import Attention
from torch import nn

from taco.graph.attention import settle
from taco.graph.coupling import Member


@dataclasses.dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a module: its rows (`out`), its columns (`in`), or an axis of a parameter of its own.

    Modules that treat each channel by itself have only rows.
    """

    module: str
    side: str
    tensor: str = ""
    axis: int = 0

    @staticmethod
    def of(member: Member) -> Axis:
        """Return the axis on which a member lies."""
        return Axis(member.module, "in" if member.role == "in" else "out", member.tensor, member.axis)

    def size(self, model: nn.Module) -> int:
        """Return its length now."""
        module = model.get_submodule(self.module)
        if self.tensor:
            return module.get_parameter(self.tensor).shape[self.axis]
        if isinstance(module, nn.Conv2d):
            return module.in_channels if self.side == "in" else module.out_channels
        if isinstance(module, nn.Linear):
            return module.in_features if self.side == "in" else module.out_features
        tensors = [*module.parameters(recurse=False), *(b for b in module.buffers(recurse=False) if b.ndim)]
        return tensors[0].shape[0]


#: Axis -> (size,) bool, what stays.
Masks = Mapping[Axis, torch.Tensor]


def shrink(model: nn.Module, masks: Masks) -> None:
    """Cut a model in place.

    Args:
        model: It must belong to the caller.
        masks: What stays of every axis; axes that are missing stay whole.
    """
    for axis, mask in masks.items():
        module, keep = model.get_submodule(axis.module), mask.nonzero().flatten()
        if axis.tensor:
            parameter = module.get_parameter(axis.tensor)
            setattr(module, axis.tensor, _cut(parameter, axis.axis, keep))
        elif axis.side == "in":
            _cut_columns(module, keep)
        else:
            _cut_rows(module, keep)
    for axis, mask in masks.items():
        owner = model.get_submodule(axis.module.rpartition(".")[0])
        if isinstance(owner, Attention) and axis.side == "out" and axis.module.endswith(".qkv"):
            settle(owner, mask)


def replace_parameter(value: torch.Tensor, like: torch.Tensor) -> nn.Parameter:
    """Return a parameter of the same dtype that learns if `like` does."""
    return nn.Parameter(value.to(like.dtype).contiguous(), requires_grad=like.requires_grad)


def set_inputs(layer: nn.Module, count: int) -> None:
    """Declare how many inputs a layer reads."""
    if isinstance(layer, nn.Linear):
        layer.in_features = count
    elif isinstance(layer, nn.Conv2d):
        layer.in_channels = count


def _cut(tensor: torch.Tensor, axis: int, keep: torch.Tensor) -> nn.Parameter:
    return replace_parameter(tensor.detach().index_select(axis, keep), tensor)


def _cut_columns(layer: nn.Module, keep: torch.Tensor) -> None:
    weight = layer.get_parameter("weight")
    if weight.shape[1] != len(keep):  # a refit has them cut already
        layer.weight = _cut(weight, 1, keep)
    set_inputs(layer, len(keep))


def _cut_rows(module: nn.Module, keep: torch.Tensor) -> None:
    for key, parameter in list(module.named_parameters(recurse=False)):
        setattr(module, key, _cut(parameter, 0, keep))
    for key, buffer in list(module.named_buffers(recurse=False)):
        if buffer.ndim:
            setattr(module, key, buffer.index_select(0, keep).clone())
    _declare(module, len(keep))


def _declare(module: nn.Module, count: int) -> None:
    """Write down a new number of channels, wherever a module keeps it."""
    if isinstance(module, nn.Conv2d):
        if module.groups > 1:  # channel by channel, or whole groups
            module.groups = module.groups * count // module.out_channels
            module.in_channels = count
        module.out_channels = count
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = (count,)
    for name in ("out_features", "num_features", "channels"):
        if isinstance(getattr(module, name, None), int):
            setattr(module, name, count)
