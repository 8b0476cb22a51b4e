"""Orders of removal without second moments, as baselines: by size of weights, by Taylor expansion, and by chance.

Scores sum over everything that goes with a channel: its rows, its columns, and its entries in norms with an axis of
their own. Size is the sum of squares (L2); Taylor is |w dL/dw|, first order in the change of the loss (Molchanov et
al., CVPR 2019). Losses along the order are those of `taco.surgery.removal`: each consumer refitted, so that only the
order differs from the second-order one.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from taco.compress import UnitSolution, readers
from taco.errors import SolverError
from taco.graph.attention import heads_of
from taco.moments.sums import Moments
from taco.surgery.headwidth import attention_of
from taco.surgery.removal import Removal, removal_in_order
from taco.units import Unit

Baseline = Literal["l2", "taylor", "random"]

#: Parameter -> a figure for every element.
Elements = Mapping[str, torch.Tensor]


def baseline_solutions(
    units: Sequence[Unit], model: nn.Module, moments: Mapping[str, Moments], elements: Elements
) -> dict[str, UnitSolution]:
    """Order every unit by the sum of its elements' figures, the smallest first.

    Args:
        units: All but blocks.
        model: What they were found in.
        moments: From `calibrate_units`, for the losses and for a later refit.
        elements: From `squares`, `taylor` or `chance`.

    Raises:
        SolverError: A figure is not finite.
    """
    solutions = {}
    for unit in units:
        scores = channel_scores(model, unit, elements)
        if not scores.isfinite().all():
            raise SolverError(f"{unit.name}: the scores are not finite", "Check the weights and the pictures")
        stats = {name: moments[name] for name in (*unit.calibrated, *unit.responses)}
        solutions[unit.name] = UnitSolution(unit, stats, _order(model, unit, stats, scores))
    return solutions


def squares(model: nn.Module) -> Elements:
    """Return w^2 of every parameter."""
    return {name: p.detach().double().square() for name, p in model.named_parameters()}


def chance(model: nn.Module, seed: int) -> Elements:
    """Return numbers that mean nothing, for an order by chance."""
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.rand(p.shape, generator=generator, dtype=torch.float64) for n, p in model.named_parameters()}


def taylor(model: nn.Module, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Elements:
    """Return |w dL/dw| of every parameter, L the mean cross-entropy over labelled pictures.

    Args:
        model: Not modified; its mode is kept, so give it in eval mode.
        batches: Pictures (N, C, H, W) float32 and labels (N,) int64.
    """
    learning = copy.deepcopy(model).requires_grad_(True)
    count = 0
    for pictures, labels in batches:
        F.cross_entropy(learning(pictures), labels, reduction="sum").backward()
        count += len(pictures)
    found = {}
    for name, p in learning.named_parameters():
        gradient = torch.zeros_like(p) if p.grad is None else p.grad / max(1, count)
        found[name] = (p.detach() * gradient).double().abs()
    return found


def channel_scores(model: nn.Module, unit: Unit, elements: Elements) -> torch.Tensor:
    """Return the summed figures of each channel, (lanes, width) float64."""
    if unit.kind == "head width":
        return _head_scores(model, unit, elements)
    total = torch.zeros(unit.width, dtype=torch.float64)
    channels = torch.arange(unit.width)
    for member in unit.members:
        names = [member.tensor] if member.tensor else _own(model, member.module)
        for name in names:
            key = f"{member.module}.{name}" if member.module else name
            axis = member.axis if member.tensor else int(member.role == "in")
            if axis < elements[key].ndim:  # columns of a bias there are none
                along = _along(elements[key], axis)
                total += along[member.indices(channels)].view(unit.width, -1).sum(1)
    return total[None]


def _along(figures: torch.Tensor, axis: int) -> torch.Tensor:
    """Return the sums for every index of an axis."""
    return figures.movedim(axis, 0).reshape(figures.shape[axis], -1).sum(1)


def _own(model: nn.Module, module: str) -> list[str]:
    return [name for name, _ in model.get_submodule(module).named_parameters(recurse=False)]


def _head_scores(model: nn.Module, unit: Unit, elements: Elements) -> torch.Tensor:
    """Return a lane for queries and keys of every head, then one for values and their columns of `proj`."""
    heads, width = heads_of(attention_of(model, unit))
    qkv, proj = unit.producers[0].module, unit.consumers[0].module
    rows = torch.zeros(3 * heads * width, dtype=torch.float64)
    for name in _own(model, qkv):
        rows += _along(elements[f"{qkv}.{name}"], 0)
    queries, keys, values = rows.view(3, heads, width)
    return torch.cat([queries + keys, values + elements[f"{proj}.weight"].sum(0).view(heads, width)])


def _order(model: nn.Module, unit: Unit, moments: Mapping[str, Moments], scores: torch.Tensor) -> Removal:
    if unit.kind == "head width":
        loss = torch.full((unit.width + 1,), float("nan"), dtype=torch.float64)  # it depends on queries and keys too
        return Removal(scores.argsort(dim=1, stable=True), loss)
    atoms = scores[0].view(-1, unit.multiple).sum(1).argsort(stable=True)
    return removal_in_order(readers(model, unit, moments), atoms, unit.multiple)
