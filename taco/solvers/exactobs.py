"""ExactOBS: remove weights one by one, each row by its own inverse Hessian (OBC; Frantar & Alistarh, NeurIPS 2022).

Removing unit q of a row (a weight, or a block of weights) with the best compensation by the rest costs
    1/2 w_q [(H^-1)_qq]^-1 w_q^T,
after which w and H^-1 are conditioned on w_q = 0 (eq. 3, 4 and 7). All rows of all groups go side by side. One run down
to nothing gives the order of every row; a level is a prefix of each, and since costs are compared over the whole layer
by their running maximum, a cheap step after a dear one never goes before it. The conditioning is lazy: some steps are
kept as thin factors, then applied at once to the columns that are left.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import torch

from taco.errors import SolverError
from taco.solvers.problem import Problem, cholesky, indefinite
from taco.solvers.refit import refit_support
from taco.solvers.solver import LayerSolver
from taco.solvers.spec import Spec

_BATCH_BYTES = 128 * 2**20
_LAZY = 32  # columns that leave before H^-1 is updated
_COMPACT = 0.8  # of the columns left: time to forget the others
#: The largest rows * cols^3, and how many of it a second: about two minutes on one core.
_LIMIT, _PER_SECOND = 5e11, 4e9


@dataclasses.dataclass(frozen=True, slots=True)
class Trace:
    """The order in which the units of every row leave.

    Attributes:
        order: (rows, steps) int64, units.
        cost: (rows, steps) float64, what each step adds to the loss of its row.
    """

    order: torch.Tensor
    cost: torch.Tensor


@dataclasses.dataclass(slots=True)
class _Rows:
    """What is left of some rows.

    Attributes:
        unit: (rows, units) int64, the names of the units.
        gone: (rows, units) bool, those that left already; as many in each row.
        w: (rows, units * size) their weights.
        P: (rows, units * size, units * size) their part of the inverse.
        per: Units a block.
        quota: (rows, blocks) int64, how many units of each block may still leave.
    """

    unit: torch.Tensor
    gone: torch.Tensor
    w: torch.Tensor
    P: torch.Tensor
    per: int
    quota: torch.Tensor

    @property
    def size(self) -> int:
        """Columns a unit."""
        return self.w.shape[1] // self.unit.shape[1]

    def compact(self) -> None:
        """Forget what left once it is a good part of the whole."""
        rows, units = self.unit.shape
        left = units - int(self.gone[0].sum())
        if left > _COMPACT * units:
            return
        stay = (~self.gone).nonzero()[:, 1].reshape(rows, left)
        columns = (stay[:, :, None] * self.size + torch.arange(self.size)).flatten(1)
        every = torch.arange(rows)[:, None, None]
        self.P = self.P[every, columns[:, :, None], columns[:, None, :]]
        self.unit, self.w = self.unit.gather(1, stay), self.w.gather(1, columns)
        self.gone = torch.zeros_like(self.unit, dtype=torch.bool)


def solve(problem: Problem, specs: Sequence[Spec]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the least-squares optimum on the mask of every level."""
    _check_size(problem)
    traces: dict[tuple[object, ...], Trace] = {}
    for spec in specs:
        key = (spec.pattern, spec.n, spec.size, spec.stride)
        if key not in traces:
            traces[key] = trace(problem, spec)
        mask = _mask(traces[key], spec, problem.W.shape)
        yield refit_support(problem, mask), mask


def trace(problem: Problem, spec: Spec) -> Trace:
    """Remove the units of every row one by one.

    Args:
        problem: The layer.
        spec: `unstructured` and `block` go down to nothing; `nm` to n weights of each block.

    Returns:
        The order of all rows of all groups, groups first.

    Raises:
        SolverError: H is not positive definite.
    """
    groups, rows, cols = problem.W.shape
    columns = spec.blocks(cols).flatten()
    W, P = problem.W[:, :, columns].flatten(0, 1), problem.inverse[:, columns][:, :, columns]
    size = 1 if spec.pattern == "nm" else spec.size
    per, leave = (spec.size, spec.size - spec.n) if spec.pattern == "nm" else (cols // size, cols // size)
    steps = cols // (size * per) * leave
    parts = []
    batch = max(1, _BATCH_BYTES // (8 * cols * cols))
    for of_batch in torch.arange(groups * rows).split(batch):
        unit = torch.arange(cols // size).expand(len(of_batch), -1)
        gone = torch.zeros(unit.shape, dtype=torch.bool)
        quota = torch.full((len(of_batch), cols // size // per), leave)
        state = _Rows(unit, gone, W[of_batch], P[of_batch // rows], per, quota)
        parts.append(_run(state, steps, problem.damping))
    return Trace(torch.cat([p.order for p in parts]), torch.cat([p.cost for p in parts]))


def _run(state: _Rows, steps: int, damping: float) -> Trace:
    parts = []
    for start in range(0, steps, max(1, _LAZY // state.size)):
        count = min(steps - start, max(1, _LAZY // state.size))
        parts.append(_remove(state, count, damping))
        state.compact()
    return Trace(torch.cat([p.order for p in parts], 1), torch.cat([p.cost for p in parts], 1))


def _remove(state: _Rows, count: int, damping: float) -> Trace:
    """Remove `count` units of each row, then condition the inverse on them."""
    (rows, units), size, w = state.unit.shape, state.size, state.w
    every, block = torch.arange(rows), state.unit // state.per
    D = state.P.unflatten(1, (units, size)).unflatten(3, (units, size)).diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)
    D = D.clone()  # kept up to date, unlike the rest of P
    D[state.gone] = unit = torch.eye(size, dtype=torch.float64)  # of no more use, but it must not fail to factor
    U = torch.empty(rows, count * size, units * size, dtype=torch.float64)
    order, cost = torch.empty(rows, count, dtype=torch.int64), torch.empty(rows, count, dtype=torch.float64)
    for t in range(count):
        barred = state.gone | (state.quota.gather(1, block) <= 0)
        cost[:, t], picked = _costs(w, D, damping).masked_fill_(barred, torch.inf).min(1)
        out = picked[:, None] * size + torch.arange(size)
        past = U[:, : t * size]
        across = state.P[every[:, None], out] - past.gather(2, out[:, None].expand(-1, t * size, -1)).mT @ past
        new = _whiten(D[every, picked], across, damping)
        w -= (_whiten(D[every, picked], w.gather(1, out)[:, :, None], damping).mT @ new)[:, 0]
        blocks = new.unflatten(2, (units, size))
        D -= torch.einsum("rtui,rtuj->ruij", blocks, blocks)
        D[every, picked] = unit
        U[:, t * size : (t + 1) * size] = new
        state.gone[every, picked] = True
        order[:, t] = state.unit[every, picked]
        state.quota[every, block[every, picked]] -= 1
    state.P.baddbmm_(U.mT, U, alpha=-1)
    return Trace(order, cost)


def _costs(w: torch.Tensor, D: torch.Tensor, damping: float) -> torch.Tensor:
    """Return 1/2 w_q [P_qq]^-1 w_q^T of every unit, (rows, units)."""
    by_unit = w.unflatten(1, D.shape[1:3])
    if D.shape[2] == 1:
        cost: torch.Tensor = 0.5 * (by_unit.square() / D[..., 0])[..., 0]
        return cost
    return 0.5 * _whiten(D, by_unit[..., None], damping).square().sum((2, 3))


def _whiten(A: torch.Tensor, B: torch.Tensor, damping: float) -> torch.Tensor:
    """Return L^-1 B with A = L L^T."""
    if A.shape[-1] == 1:
        if not (A > 0).all():
            raise indefinite(1, damping)
        return B / A.sqrt()
    solved: torch.Tensor = torch.linalg.solve_triangular(cholesky(A, damping), B, upper=False)
    return solved


def _mask(found: Trace, spec: Spec, shape: torch.Size) -> torch.Tensor:
    """Return the mask that a prefix of every row's order leaves, (groups, rows, cols) bool."""
    groups, rows, cols = shape
    lines, steps = found.order.shape
    size = 1 if spec.pattern == "nm" else spec.size
    count = torch.full((lines,), steps)
    if spec.pattern != "nm":
        dearest = found.cost.cummax(1).values.flatten()
        first = dearest.argsort(stable=True)[: round(spec.sparsity * lines * steps)]
        count = (first // steps).bincount(minlength=lines)
    leaves = torch.arange(steps) < count[:, None]
    units = torch.ones(lines, cols // size, dtype=torch.bool)
    units.scatter_(1, found.order, ~leaves)
    mask = torch.empty(groups, rows, cols, dtype=torch.bool)
    mask[..., spec.blocks(cols).flatten()] = units.repeat_interleave(size, 1).reshape(groups, rows, cols)
    return mask


def _check_size(problem: Problem) -> None:
    groups, rows, cols = problem.W.shape
    work = groups * rows * cols**3
    if work > _LIMIT:
        memory = 3 * 8 * groups * cols**2 + 3 * max(_BATCH_BYTES, 8 * cols**2)
        raise SolverError(
            f"exactobs would take about {work / _PER_SECOND / 60:,.0f} minutes and {memory / 2**30:,.1f} GiB "
            f"for {groups} x {rows} rows of {cols} columns",
            "Take admm",
        )


SOLVER = LayerSolver("exactobs", frozenset({"unstructured", "nm", "block"}), solve)
