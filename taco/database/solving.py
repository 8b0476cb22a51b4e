"""One job: a layer at some levels. It runs wherever the executor puts it and gets and gives plain arrays and bytes."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy.typing as npt
import safetensors.torch
import torch

from taco.database.recipe import DAMPING_LEVEL
from taco.errors import SolverError
from taco.moments.sums import LayerMoments, Moments
from taco.moments.triangle import from_lower_triangle, lower_triangle
from taco.solvers.damping import CANDIDATES, choose_damping
from taco.solvers.loading import solve_levels
from taco.solvers.problem import Problem
from taco.solvers.spec import Spec
from taco.sparse.stored import pack

#: Second moments without their upper triangle, means, and the number of positions.
Half = tuple[npt.NDArray[Any], npt.NDArray[Any], int]
#: Rows of a group on which the damping is chosen: what they lose between them tells one candidate from another, and all
#: rows of a wide layer take minutes.
_ROWS = 128


@dataclasses.dataclass(frozen=True, slots=True)
class Order:
    """What to solve.

    Attributes:
        layer: Its name, for errors.
        shape: Of its weight.
        specs: Level, as text -> what the solver must make.
        solver: Its name.
        damping: "auto" chooses it on held-out moments.
    """

    layer: str
    shape: tuple[int, ...]
    specs: dict[str, Spec]
    solver: str
    damping: float | Literal["auto"]


@dataclasses.dataclass(frozen=True, slots=True)
class Solved:
    """What came of it.

    Attributes:
        content: The packed weights as a safetensors file.
        damping: That was used.
        energy: 1/2 tr(W H W^T).
        found: Level -> (loss, kept weights).
    """

    content: bytes
    damping: float
    energy: float
    found: dict[str, tuple[float, int]]


def solve_layer(order: Order, W: npt.NDArray[Any], halves: list[Half | None]) -> Solved:  # noqa: N803
    """Solve a layer at all asked levels.

    Args:
        order: What to do.
        W: (groups, rows, cols) float32 or float64.
        halves: From `halves_of`; emptied, because of a wide layer they are much of the memory.

    Raises:
        SolverError: Names the layer and the damping.
    """
    damping: float | str = order.damping
    try:
        weight = _tensor(W)
        moments = _taken(halves)
        damping = _damping(weight, moments) if order.damping == "auto" else order.damping
        H = moments.all.H  # noqa: N806
        del moments  # of a wide layer they are most of the memory
        solutions = solve_levels(weight, H, list(order.specs.values()), order.solver, damping)
        energy = Problem.of(weight, H, damping).loss(torch.zeros_like(weight))
    except SolverError as error:
        raise SolverError(
            f"{order.layer}: {error.what} (solver {order.solver}, damping {damping})", error.todo
        ) from error
    tensors: dict[str, torch.Tensor] = {}
    found = {}
    for level, solution in zip(order.specs, solutions, strict=True):
        tensors |= pack(level, solution.weight.reshape(order.shape), solution.mask.reshape(order.shape))
        found[level] = (max(0.0, solution.loss), int(solution.mask.sum()))
    return Solved(safetensors.torch.save(tensors), damping, energy, found)


def halves_of(moments: LayerMoments) -> tuple[Half | None, ...]:
    """Return moments as `solve_layer` takes them: they wait for it, and cross to it, in half of the memory.

    Returns:
        Of the pictures to fit on: second moments (groups, cols * (cols + 1) / 2) and means (groups, cols), float64, and
        the number of positions; then the same of the held-out ones, None where `fit` is all.
    """
    return _half(moments.fit), None if moments.held_out is None else _half(moments.held_out)


def _taken(halves: list[Half | None]) -> LayerMoments:
    """Return the moments that `halves_of` gave, each half gone as soon as it is unpacked."""
    held_out = halves.pop()
    other = None if held_out is None else _moments(held_out)
    del held_out
    fit = halves.pop()
    if fit is None:
        raise ValueError("there are no moments to fit on")
    return LayerMoments(_moments(fit), other)


def _half(moments: Moments) -> Half:
    return lower_triangle(moments.second.numpy()), moments.mean.numpy(), moments.n


def _moments(half: Half) -> Moments:
    second, mean, n = half
    return Moments(torch.from_numpy(from_lower_triangle(second, mean.shape[1])), _tensor(mean), n)


def _tensor(array: npt.NDArray[Any]) -> torch.Tensor:
    """Take an array over; what came read-only is copied, because torch knows no such tensors. Nobody changes it."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _damping(W: torch.Tensor, moments: LayerMoments) -> float:  # noqa: N803
    """Return the candidate whose weights lose least on the held-out moments; the middle one when there are none.

    Where there are many rows, evenly spaced ones stand for all.
    """
    if moments.held_out is None:
        return CANDIDATES[len(CANDIDATES) // 2]
    spec = DAMPING_LEVEL.spec(torch.nn.Identity())
    rows = torch.linspace(0, W.shape[1] - 1, min(_ROWS, W.shape[1])).round().long()
    return choose_damping(W[:, rows], moments.fit.H, moments.held_out.H, spec)
