"""Stitch an allocation of widths into a NEW, physically smaller module.

Selection and compensation come from `taco.solvers.channels` on centred moments: the consumer's weights are refitted on
the kept channels and its bias absorbs the mean of what was removed (METHOD.md 4).
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from taco.errors import InputError, SolverError
from taco.moments import Moments
from taco.solvers.channels import ChannelOrder, obs_order, refit
from taco.unfold import weight_matrix
from taco.units import Member, Unit


@dataclasses.dataclass(frozen=True, slots=True)
class UnitSolution:
    """What is known about one unit: its moments and the order in which its channels leave."""

    unit: Unit
    moments: Moments
    order: ChannelOrder


def solve_units(
    model: nn.Module,
    units: Sequence[Unit],
    moments: Mapping[str, Moments],
    damping: float = 1e-2,
    progress: Callable[[int], None] | None = None,
) -> dict[str, UnitSolution]:
    """Find the removal order of every unit, by second-order selection at its consumer."""
    solutions = {}
    for unit in units:
        layer = _consumer(model, unit)
        stats = moments[unit.consumer]
        W = weight_matrix(layer)[0]
        try:
            order = obs_order(W, stats.centred_H[0], group=W.shape[1] // unit.width, damping=damping)
        except SolverError as error:
            raise SolverError(f"{unit.name}: {error.what}", error.todo) from error
        solutions[unit.name] = UnitSolution(unit, stats, order)
        if progress is not None:
            progress(1)
    return solutions


def stitch(
    model: nn.Module, solutions: Mapping[str, UnitSolution], widths: Mapping[str, int], damping: float = 1e-2
) -> nn.Module:
    """Return a new module in which every unit has its width from `widths`; the given one is not modified.

    Args:
        model: The dense specialist, eval mode.
        solutions: From `solve_units` on the same model.
        widths: Unit name -> channels to keep. Units that are missing or keep all channels stay as they are.
        damping: Ridge of the refit, a multiple of mean(diag H).

    Raises:
        InputError: A unit is not known, or its width is not between 1 and the dense one.
        SolverError: The refit of a consumer fails; names it and a damping to try.
    """
    smaller = copy.deepcopy(model)
    for name, width in widths.items():
        if name not in solutions:
            raise InputError(f"{name!r} is not a unit of this model", f"Units are: {', '.join(solutions)}")
        solution = solutions[name]
        if not 1 <= width <= solution.unit.width:
            raise InputError(f"{name} cannot keep {width} of {solution.unit.width} channels", "Keep at least 1")
        if width < solution.unit.width:
            _shrink(smaller, solution, solution.order.keep(width), damping)
    return smaller


def _shrink(model: nn.Module, solution: UnitSolution, keep: torch.Tensor, damping: float) -> None:
    unit, stats = solution.unit, solution.moments
    layer = _consumer(model, unit)
    W = weight_matrix(layer)[0].double()
    group = W.shape[1] // unit.width
    columns = (keep[:, None] * group + torch.arange(group)).flatten()
    try:
        refitted = refit(W, stats.centred_H[0], columns, damping)
    except SolverError as error:
        raise SolverError(f"{unit.name}: {error.what}", error.todo) from error
    bias = W @ stats.mean[0] - refitted @ stats.mean[0][columns]
    _set_consumer(layer, refitted, bias, len(keep))
    for member in unit.members:
        _slice(model.get_submodule(member.module), member, keep)


def _consumer(model: nn.Module, unit: Unit) -> nn.Conv2d | nn.Linear:
    layer = model.get_submodule(unit.consumer)
    assert isinstance(layer, nn.Conv2d | nn.Linear)  # noqa: S101 - find_units made the unit
    return layer


def _set_consumer(layer: nn.Conv2d | nn.Linear, weight: torch.Tensor, bias: torch.Tensor, width: int) -> None:
    old = layer.weight
    shape = (old.shape[0], width, *old.shape[2:])
    layer.weight = _parameter(weight.reshape(shape), old)
    shift = bias if layer.bias is None else layer.bias.double() + bias
    layer.bias = _parameter(shift, old)
    if isinstance(layer, nn.Linear):
        layer.in_features = width
    else:
        layer.in_channels = width


def _parameter(value: torch.Tensor, like: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(value.to(like.dtype).contiguous(), requires_grad=like.requires_grad)


def _slice(module: nn.Module, member: Member, keep: torch.Tensor) -> None:
    """Cut one member down to the kept channels, its declared sizes included."""
    dimension = 1 if member.role == "in" else 0
    for key, parameter in list(module.named_parameters(recurse=False)):
        if dimension == 0 or key == "weight":
            setattr(module, key, _parameter(parameter.detach().index_select(dimension, keep), parameter))
    for key, buffer in list(module.named_buffers(recurse=False)):
        if buffer.ndim:
            setattr(module, key, buffer.index_select(0, keep).clone())
    for attribute in _SIZES[member.role]:
        if hasattr(module, attribute):
            setattr(module, attribute, len(keep))
    if member.role == "channel" and isinstance(module, nn.Conv2d):
        module.in_channels = module.out_channels = module.groups = len(keep)


_SIZES = {
    "out": ("out_channels", "out_features"),
    "in": ("in_channels", "in_features"),
    "channel": ("num_features", "channels"),
}
