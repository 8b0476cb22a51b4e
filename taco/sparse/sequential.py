"""Solve layers in the order in which the model runs them, each for the inputs that those before it have left it.

A database solves every layer on the dense model's inputs, so that errors pile up with depth. Here groups of layers are
solved one after the other: for the inputs X^ of the compressed prefix, towards the outputs of the dense model
(`taco.moments.asymmetric`), at levels that were chosen before.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy.typing as npt
import torch
from torch import nn

from taco.calibrate import Batches, CalibrationOptions, plan_waves
from taco.errors import SolverError, TaskError
from taco.executor import Executor, Job
from taco.levels import Level
from taco.moments.asymmetric import AsymmetricMoments, PairedModels, effective_weight
from taco.moments.sums import Moments, Sums
from taco.moments.unfold import known, weight_matrix
from taco.solvers.loading import load_solver
from taco.solvers.spec import Spec

#: Groups of layers that are solved one after the other, unless told otherwise.
GROUPS = 16

Array = npt.NDArray[Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Assignment:
    """How one layer is to be solved.

    Attributes:
        level: What it becomes.
        solver: Name of the solver.
        damping: Multiple of mean(diag H).
    """

    level: Level
    solver: str
    damping: float


@dataclasses.dataclass(frozen=True, slots=True)
class SequentialOptions:
    """How to go through the model.

    Attributes:
        groups: Layers are solved in about so many groups; those of one group see the same compressed prefix.
        calibration: Sampling of positions, and the budget of memory for the sums of one group.
        progress: Called with the number of a group's layers when they are done.
    """

    groups: int = GROUPS
    calibration: CalibrationOptions = dataclasses.field(default_factory=CalibrationOptions)
    progress: Callable[[int], None] | None = None


def solve_sequentially(
    dense: nn.Module,
    start: nn.Module,
    assignments: Mapping[str, Assignment],
    batches: Batches,
    options: SequentialOptions,
    executor: Executor | None = None,
) -> nn.Module:
    """Return a new model in which the named layers have been solved one group after the other.

    Args:
        dense: Gives the targets.
        start: A model of the same structure, whose weights the ridge draws to; dense, or of an earlier stage.
        assignments: Layer -> how to solve it; the others stay as they are in `start`.
        batches: Gives float32 inputs (N, C, H, W), each time the same.
        options: Groups and sampling.
        executor: Where layers of a group are solved.

    Raises:
        SolverError: A layer cannot be solved; names it.
        TaskError: There is no picture.
    """
    model = copy.deepcopy(start)
    executor = executor or Executor()
    pair = PairedModels(dense, model)
    groups = plan_groups(dense, list(assignments), batches, options)
    for group in groups:
        moments = pair.calibrate(group, batches(), options.calibration, last=group is groups[-1])
        jobs = [_job(name, known(model.get_submodule(name)), moments[name], assignments[name]) for name in group]
        for name, (weight, shift) in executor.map(solve_asymmetric, jobs):
            layer = known(model.get_submodule(name))
            with torch.no_grad():
                layer.weight.copy_(torch.from_numpy(weight).reshape(layer.weight.shape))
                if layer.bias is not None:
                    layer.bias.copy_(torch.from_numpy(shift).flatten())
        if options.progress is not None:
            options.progress(len(group))
    return model


def plan_groups(
    model: nn.Module, layers: Sequence[str], batches: Batches, options: SequentialOptions
) -> tuple[tuple[str, ...], ...]:
    """Divide layers, in the order in which the model runs them, into groups of about equal numbers.

    Raises:
        UnsupportedModuleError: A layer cannot be unfolded, is never run, or exceeds the budget alone.
        TaskError: There is no picture.
    """
    calibration = options.calibration
    single = dataclasses.replace(calibration, halves=False)
    first = next(iter(batches()), None)
    if first is None:
        raise TaskError("there is no picture to calibrate on", "Give more pictures a class")
    ordered = [name for wave in plan_waves(model, layers, first[:1], single) for name in wave.layers]
    most = -(-len(ordered) // options.groups)
    groups: list[list[str]] = []
    size = 0
    for name in ordered:
        matrix = weight_matrix(known(model.get_submodule(name)))
        own = Sums.size_bytes(matrix.shape[0], matrix.shape[2]) + 8 * matrix.numel()
        if not groups or len(groups[-1]) == most or size + own > calibration.budget_bytes:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += own
    return tuple(map(tuple, groups))


@dataclasses.dataclass(frozen=True, slots=True)
class Order:
    """One layer's problem as it travels to where it is solved.

    Attributes:
        layer: Its name, for errors.
        spec: What its level asks of the solver.
        assignment: The rest of how to solve it.
        positions: Number of unfolded positions behind the moments.
        centred: Its bias absorbs the means.
    """

    layer: str
    spec: Spec
    assignment: Assignment
    positions: int
    centred: bool


def solve_asymmetric(
    order: Order, W: Array, bias: Array, inputs: tuple[Array, Array], targets: tuple[Array, Array]
) -> tuple[Array, Array]:
    """Solve one layer.

    Args:
        order: What to do.
        W: (groups, rows, cols), what the ridge draws to.
        bias: (groups, rows); zeros where the layer has none.
        inputs: Second moments (groups, cols, cols) and means (groups, cols) of X^.
        targets: Cross moments (groups, rows, cols) and means (groups, rows) of Y.

    Returns:
        Weights and bias like the given ones.

    Raises:
        SolverError: Names the layer and the damping.
    """
    weight = torch.from_numpy(W.copy())
    second, mean, cross, target = (torch.from_numpy(x.copy()) for x in (*inputs, *targets))
    moments = AsymmetricMoments(Moments(second, mean, order.positions), cross, target)
    assignment = order.assignment
    try:
        best = effective_weight(moments, weight, assignment.damping, order.centred)
        H = moments.inputs.centred_H if order.centred else moments.inputs.H
        solved = load_solver(assignment.solver)(best, H, order.spec, assignment.damping)
    except SolverError as error:
        raise SolverError(
            f"{order.layer}: {error.what} (solver {assignment.solver}, damping {assignment.damping})", error.todo
        ) from error
    shift = torch.from_numpy(bias.copy())
    if order.centred:
        shift = shift.double() + target - (solved.weight @ mean[:, :, None])[:, :, 0]
    return solved.weight.to(weight.dtype).numpy(), shift.to(weight.dtype).numpy()


def _job(name: str, layer: nn.Conv2d | nn.Linear, moments: AsymmetricMoments, assignment: Assignment) -> Job:
    W = weight_matrix(layer)
    groups, rows, cols = W.shape
    bias = torch.zeros(groups, rows) if layer.bias is None else layer.bias.detach().view(groups, rows)
    inputs = moments.inputs
    order = Order(name, assignment.level.spec(layer), assignment, inputs.n, layer.bias is not None)

    def arguments() -> tuple[Any, ...]:
        sees = (inputs.second.numpy(), inputs.mean.numpy())
        gives = (moments.cross.numpy(), moments.target_mean.numpy())
        return order, W.numpy(), bias.numpy(), sees, gives

    return Job(name, float(groups * cols**2 * (cols + rows)), arguments)
