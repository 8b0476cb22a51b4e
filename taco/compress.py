"""Stitch an allocation of widths into a NEW, physically smaller module.

Selection and compensation are second-order, on centred moments: the weights of every consumer are refitted on the kept
channels and its bias absorbs the mean of what was removed (METHOD.md 4). A layer that several units cut is refitted
once, on what all of them leave, so the order of the units does not matter.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import nn

from taco.calibrate import calibrate
from taco.errors import InputError, SolverError
from taco.model import classifier_of, classifiers_of
from taco.moments.sums import Moments
from taco.moments.unfold import known, weight_matrix
from taco.solvers.channels import refit
from taco.surgery.headwidth import attention_of, head_width_masks, head_width_removal, mix_queries, reading_of
from taco.surgery.removal import Reader, Removal, greedy_removal
from taco.surgery.responses import ChannelSizes, rescale
from taco.surgery.shrink import Axis, replace_parameter, set_inputs, shrink
from taco.units import Unit, lies_in


@dataclasses.dataclass(frozen=True, slots=True)
class UnitSolution:
    """What is known about one unit.

    Attributes:
        unit: The unit.
        moments: Layer -> moments at its input, for `unit.calibrated`; response norm -> mean size of its channels.
        order: The order in which its channels leave.
    """

    unit: Unit
    moments: Mapping[str, Moments]
    order: Removal


def calibrate_units(
    model: nn.Module,
    units: Sequence[Unit],
    batches: Iterable[torch.Tensor],
    progress: Callable[[int], None] | None = None,
) -> dict[str, Moments]:
    """Take everything that solving and stitching units needs in one pass over pictures.

    Args:
        model: In eval mode; not modified.
        units: What shall be solved.
        batches: (N, C, H, W) float32.
        progress: Called with the number of pictures of each batch when it is done.

    Returns:
        Layer -> moments at its input. For norms that compare channels with their mean (ConvNeXt-V2's), `mean` is the
        mean size of each channel over pictures, (1, channels), and `second` is empty.
    """
    sizes = {name: ChannelSizes() for unit in units for name in unit.responses}
    with contextlib.ExitStack() as stack:
        for name, seen in sizes.items():
            stack.callback(model.get_submodule(name).register_forward_pre_hook(seen.see).remove)
        layers = list(dict.fromkeys(layer for unit in units for layer in unit.calibrated))
        return {**calibrate(model, layers, batches, progress), **{n: s.moments() for n, s in sizes.items()}}


def solve_units(
    model: nn.Module,
    units: Sequence[Unit],
    moments: Mapping[str, Moments],
    damping: float = 1e-2,
    progress: Callable[[int], None] | None = None,
) -> dict[str, UnitSolution]:
    """Find the removal order of every unit, by second-order selection at its consumers.

    Raises:
        SolverError: The moments of a unit cannot be inverted; names it and a damping to try.
    """
    solutions = {}
    for unit in units:
        stats = {name: moments[name] for name in (*unit.calibrated, *unit.responses)}
        solutions[unit.name] = UnitSolution(unit, stats, _removal(model, unit, stats, damping))
        if progress is not None:
            progress(1)
    return solutions


def readers(model: nn.Module, unit: Unit, moments: Mapping[str, Moments]) -> list[Reader]:
    """Return how a unit's consumers read it."""
    found = []
    for member in unit.consumers:
        W = weight_matrix(known(model.get_submodule(member.module)))[0]
        taps = W.shape[1] // Axis.of(member).size(model)
        first = member.indices(torch.arange(unit.width)).view(unit.width, -1) * taps
        columns = (first[:, :, None] + torch.arange(taps)).flatten(1)
        found.append(Reader(W.double(), moments[member.module].centred_H[0], columns))
    return found


def stitch(
    model: nn.Module,
    solutions: Mapping[str, UnitSolution],
    widths: Mapping[str, int],
    damping: float = 1e-2,
    *,
    compensate: bool = True,
) -> nn.Module:
    """Return a new module in which every unit has its width from `widths`; the given one is not modified.

    Args:
        model: The dense specialist, eval mode.
        solutions: From `solve_units` on the same model; for blocks from `droppable`.
        widths: Unit name -> what to keep. Units that are missing or keep all stay as they are; 0 leaves a block out,
            and is what units within it keep.
        damping: Ridge of the refit, a multiple of mean(diag H).
        compensate: False only cuts: the result then is the dense model with what goes masked.

    Raises:
        InputError: A unit is not known, or its width is not between 1 and the dense one.
        SolverError: The refit of a consumer fails; names it and a damping to try.
    """
    narrowed, gone = _asked(solutions, widths)
    masks = _masks(model, narrowed, gone)
    smaller = copy.deepcopy(model)
    if compensate:
        _mix(smaller, narrowed, damping, gone)
        stats = {name: m for s, _ in narrowed.values() for name, m in s.moments.items()}
        for axis, mask in masks.items():
            if axis.side == "in":
                _refit(smaller, axis.module, stats[axis.module], mask, damping)
    shrink(smaller, masks)
    for name in gone:
        smaller.set_submodule(name, nn.Identity())
    _declare_features(smaller, model)
    return smaller


def kept_rows(
    model: nn.Module, solutions: Mapping[str, UnitSolution], widths: Mapping[str, int]
) -> dict[str, torch.Tensor]:
    """Return layer -> (kept,) int64, which outputs `stitch` leaves of layers that lose some; arguments as there.

    The queries of heads that became narrower are missing: they are mixed anew, and no dense output is their target.
    """
    narrowed, gone = _asked(solutions, widths)
    mixed = {s.unit.producers[0].module for s, _ in narrowed.values() if s.unit.kind == "head width"}
    return {
        axis.module: mask.nonzero().flatten()
        for axis, mask in _masks(model, narrowed, gone).items()
        if axis.side == "out" and not axis.tensor and axis.module not in mixed
    }


def droppable(unit: Unit) -> UnitSolution:
    """Return the solution of a block: it stays or goes; what that costs is not known from moments."""
    loss = torch.tensor([0.0, float("nan")], dtype=torch.float64)
    return UnitSolution(unit, {}, Removal(torch.zeros(1, 1, dtype=torch.int64), loss))


def first_leave(unit: Unit) -> UnitSolution:
    """Return a solution that is good for counting and timing only: the first channels leave first."""
    order = [torch.arange(unit.width)] * unit.lanes
    loss = torch.full((unit.width + 1,), float("nan"))
    return UnitSolution(unit, {}, Removal(torch.stack(order), loss, unit.multiple))


def _removal(model: nn.Module, unit: Unit, moments: Mapping[str, Moments], damping: float) -> Removal:
    try:
        if unit.kind == "head width":
            proj = moments[unit.consumers[0].module]
            return head_width_removal(attention_of(model, unit), reading_of(unit, moments), proj, damping)
        return greedy_removal(readers(model, unit, moments), unit.multiple, damping)
    except SolverError as error:
        raise SolverError(f"{unit.name}: {error.what}", error.todo) from error


def _asked(
    solutions: Mapping[str, UnitSolution], widths: Mapping[str, int]
) -> tuple[dict[str, tuple[UnitSolution, torch.Tensor]], list[str]]:
    """Return what becomes narrower, with the channels that stay, and the blocks that go."""
    gone = [n for n, width in widths.items() if width == 0 and n in solutions and solutions[n].unit.kind == "block"]
    narrowed = {}
    for name, width in widths.items():
        if width == 0 and name in solutions and any(lies_in(solutions[name].unit, block) for block in gone):
            continue
        found = _chosen(solutions, name, width)
        if width < found.unit.width and found.unit.kind != "block":
            narrowed[name] = (found, found.order.keep(width))
    return narrowed, gone


def _chosen(solutions: Mapping[str, UnitSolution], name: str, width: int) -> UnitSolution:
    if name not in solutions:
        raise InputError(f"{name!r} is not a unit of this model", f"Units are: {', '.join(solutions)}")
    unit = solutions[name].unit
    least = 0 if unit.kind == "block" else unit.multiple
    if not least <= width <= unit.width or width % unit.multiple:
        raise InputError(
            f"{name} cannot keep {width} of {unit.width} channels",
            f"Keep {least} or more, a multiple of {unit.multiple}",
        )
    return solutions[name]


def _masks(
    model: nn.Module, narrowed: Mapping[str, tuple[UnitSolution, torch.Tensor]], gone: Sequence[str]
) -> dict[Axis, torch.Tensor]:
    """Return what stays of every axis when all units are cut."""
    masks: dict[Axis, torch.Tensor] = {}
    for solution, keep in narrowed.values():
        if solution.unit.kind == "head width":
            attention = attention_of(model, solution.unit)
            parts = head_width_masks(solution.unit, attention, keep)
        else:
            parts = _unit_masks(model, solution.unit, keep[0])
        for axis, mask in parts.items():
            if not _within(axis.module, gone):
                masks[axis] = masks[axis] & mask if axis in masks else mask
    return masks


def _unit_masks(model: nn.Module, unit: Unit, keep: torch.Tensor) -> dict[Axis, torch.Tensor]:
    masks: dict[Axis, torch.Tensor] = {}
    leaves = torch.ones(unit.width, dtype=torch.bool).index_fill_(0, keep, value=False).nonzero().flatten()
    for member in unit.members:
        axis = Axis.of(member)
        mask = masks.setdefault(axis, torch.ones(axis.size(model), dtype=torch.bool))
        mask[member.indices(leaves)] = False
    return masks


def _within(name: str, gone: Sequence[str]) -> bool:
    return any(name == block or name.startswith(f"{block}.") for block in gone)


def _mix(
    model: nn.Module,
    narrowed: Mapping[str, tuple[UnitSolution, torch.Tensor]],
    damping: float,
    gone: Sequence[str],
) -> None:
    """Let queries and response norms make up for what goes, before anything is cut."""
    for name, (solution, keep) in narrowed.items():
        for norm in solution.unit.responses:
            rescale(model.get_submodule(norm), solution.moments[norm], keep[0])
        if solution.unit.kind == "head width" and not _within(name, gone):
            mix_queries(attention_of(model, solution.unit), reading_of(solution.unit, solution.moments), keep, damping)


def _refit(model: nn.Module, name: str, stats: Moments, mask: torch.Tensor, damping: float) -> None:
    """Refit a consumer on the inputs that stay, the bias too; its columns are cut with it."""
    layer = known(model.get_submodule(name))
    W = weight_matrix(layer)[0].double()
    keep = mask.nonzero().flatten()
    columns = (keep[:, None] * (W.shape[1] // len(mask)) + torch.arange(W.shape[1] // len(mask))).flatten()
    try:
        refitted = refit(W, stats.centred_H[0], columns, damping)
    except SolverError as error:
        raise SolverError(f"{name}: {error.what}", error.todo) from error
    shift = W @ stats.mean[0] - refitted @ stats.mean[0][columns]
    old = layer.weight
    layer.weight = replace_parameter(refitted.reshape(old.shape[0], len(keep), *old.shape[2:]), old)
    layer.bias = replace_parameter(shift if layer.bias is None else layer.bias.double() + shift, old)
    set_inputs(layer, len(keep))


def _declare_features(smaller: nn.Module, model: nn.Module) -> None:
    """Let the model know how many features its classifier reads now."""
    heads = classifiers_of(model)
    if len(heads) != 1 or not isinstance(heads[0], nn.Linear):
        return
    before, now = heads[0].in_features, classifier_of(smaller).in_features
    for name in ("num_features", "head_hidden_size", "embed_dim"):
        if vars(smaller).get(name) == before:
            setattr(smaller, name, now)
