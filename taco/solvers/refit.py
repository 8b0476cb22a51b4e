"""The least-squares optimum on a support: the best weights once it is settled which of them stay.

For every row, with S its kept columns and R the others, v_S = (H_SS)^-1 (w H)_S; the same from the other side, cheaper
when few weights go, is v = w - w_R ((H^-1)_RR)^-1 (H^-1)_R:. Either needs the solution of one small system a row.
Systems of up to about a thousand unknowns are factored, the large ones in float32 and refined in float64 until they are
as good; beyond that all rows are solved at once by conjugate gradients, to a relative residual of 1e-4. The few large
eigenvalues that inputs which are nearly copies of each other have are taken out first (`taco.solvers.deflation`); what
has not come to rest after `_MOST` products all the same is factored.
"""

from __future__ import annotations

import dataclasses
import functools

import torch
from torch.nn import functional as F

from taco.solvers.deflation import Preconditioner
from taco.solvers.problem import Problem, cholesky

_BATCH_BYTES = 192 * 2**20  # every correction of a batch reads all of H once
_WIDEST = 1408  # unknowns of a row; beyond, conjugate gradients first
_SINGLE = 192  # unknowns from which a float32 factorisation with refinement is faster
_REFINED, _STEPS = 1e-7, 5  # relative residual, most corrections
_RESIDUAL, _MOST = 1e-4, 150  # relative residual, most iterations


def refit_support(problem: Problem, mask: torch.Tensor, widest: int = _WIDEST) -> torch.Tensor:
    """Return the optimal weights on a support, (groups, rows, cols) float64, zero elsewhere.

    Args:
        problem: The layer.
        mask: (groups, rows, cols) bool, True stays.
        widest: Rows with more than so many unknowns, from either side, are solved iteratively.

    Raises:
        SolverError: H or H_SS is not positive definite.
    """
    kept, gone = mask.sum(2), (~mask).sum(2)
    iterative = torch.minimum(kept, gone) > widest
    V = torch.where((gone == 0)[:, :, None], problem.W, 0.0)
    for g in iterative.any(1).nonzero()[:, 0].tolist():
        rows = iterative[g].nonzero()[:, 0]
        V[g, rows], settled = _descend(problem, g, mask[g, rows], rows)
        iterative[g, rows] = settled
    from_kept, from_gone = (kept <= gone) & ~iterative, (kept > gone) & ~iterative & (gone > 0)
    if from_kept.any():
        direct = _Systems(problem.H, problem.WH, mask, problem.damping).solve(from_kept)
        V = torch.where(from_kept[:, :, None], direct, V)
    if from_gone.any():
        multipliers = _Systems(problem.inverse, problem.W, ~mask, problem.damping).solve(from_gone)
        V = torch.where(from_gone[:, :, None], (problem.W - multipliers @ problem.inverse) * mask, V)
    return V


@dataclasses.dataclass(frozen=True, eq=False)
class _Systems:
    """x_S A_SS = b_S for every row, x zero elsewhere.

    Attributes:
        A: (groups, cols, cols) float64, positive definite.
        b: (groups, rows, cols) float64.
        mask: (groups, rows, cols) bool, True for the unknowns.
        damping: For the error's text.
    """

    A: torch.Tensor
    b: torch.Tensor
    mask: torch.Tensor
    damping: float

    def solve(self, chosen: torch.Tensor) -> torch.Tensor:
        """Solve the rows chosen by (groups, rows) bool; the others are zero. Batches hold rows of similar width."""
        x = torch.zeros_like(self.b)
        width = self.mask.sum(2)
        g, r = (chosen & (width > 0)).nonzero(as_tuple=True)
        order = width[g, r].argsort(descending=True, stable=True)
        g, r = g[order], r[order]
        widths = width[g, r].tolist()
        start = 0
        while start < len(widths):
            widest = widths[start]
            stop = min(len(widths), start + self._together(widest))
            while widest - widths[stop - 1] > _spread(widest):
                stop = start + (stop - start) // 2
            x[g[start:stop], r[start:stop]] = self._batch(g[start:stop], r[start:stop], widest)
            start = stop
        return x

    def _together(self, width: int, *, single: bool = True) -> int:
        """How many rows of so many unknowns are solved at a time: one float32 matrix each, or two in float64."""
        each = 4 if single and self._is_single(width) else 16
        return max(1, _BATCH_BYTES // (each * width * width))

    def _is_single(self, width: int) -> bool:
        return width >= _SINGLE and len(self.A) == 1

    def _batch(self, g: torch.Tensor, r: torch.Tensor, width: int) -> torch.Tensor:
        """Solve some rows, (len(g), cols). Shorter supports are filled up with unit equations behind the columns."""
        mask, b = self.mask[g, r], self.b[g, r]
        fill = torch.arange(_spread(width)) < (width - mask.sum(1))[:, None]
        index = torch.cat([mask, fill], 1).nonzero()[:, 1].view(len(g), width)
        b = F.pad(b * mask, (0, fill.shape[1]))
        x = self._refined(b, mask, index) if self._is_single(width) else None
        if x is None:
            x, A = torch.zeros_like(b), _widened(self.A, fill.shape[1])
            for rows in torch.arange(len(g)).split(self._together(width, single=False)):
                factor = cholesky(_gathered(A, g[rows], index[rows]), self.damping)
                found = _substituted(factor, b[rows].gather(1, index[rows]))
                x[rows] = torch.zeros_like(b[rows]).scatter_(1, index[rows], found)
        return x[:, : mask.shape[1]]

    @functools.cached_property
    def _single(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The float32 matrix scaled to a unit diagonal and widened for the widest batch, and the scale."""
        scale = self.A[0].diagonal().sqrt()
        most = _spread(self.A.shape[2])
        return _widened((self.A / (scale[:, None] * scale)).float(), most), F.pad(scale, (0, most), value=1.0)

    def _refined(self, b: torch.Tensor, mask: torch.Tensor, index: torch.Tensor) -> torch.Tensor | None:
        """Solve by a float32 factorisation and residuals in float64; None when that does not converge."""
        single, scale = self._single
        scale = scale[: b.shape[1]]
        cols = mask.shape[1]
        factor = self._factored(single[0], index)
        if factor is None:
            return None
        x, residual, goal = torch.zeros_like(b), b, _REFINED * b.norm(dim=1)
        for _ in range(_STEPS):
            step = _substituted(factor, (residual / scale).gather(1, index).float())
            x += torch.zeros_like(x).scatter_(1, index, step.double()) / scale
            residual = F.pad((b[:, :cols] - x[:, :cols] @ self.A[0]) * mask, (0, b.shape[1] - cols))
            if (residual.norm(dim=1) <= goal).all():
                return x
        return None

    @functools.cached_property
    def _room(self) -> torch.Tensor:
        """Memory for the factors of one batch, used again by every batch: fresh pages cost as much as factoring."""
        return torch.empty(max(_BATCH_BYTES // 4, (self.A.shape[1] + _spread(self.A.shape[1])) ** 2))

    def _factored(self, A: torch.Tensor, index: torch.Tensor) -> torch.Tensor | None:
        """Factor A[index, index] of every row in its own place, one while it is in the cache; None if one fails.

        Args:
            A: (any, any) float32.
            index: (rows, width) int64.

        Returns:
            (rows, width, width) lower factors.
        """
        rows, width = index.shape
        factors = self._room[: rows * width * width].view(rows, width, width)
        some, info = A.new_empty(width, A.shape[1]), torch.empty((), dtype=torch.int32)
        for own, columns in zip(factors, index, strict=True):
            torch.index_select(A, 0, columns, out=some)
            torch.index_select(some, 1, columns, out=own)
            lower = own.mT  # column-major, as LAPACK wants it: no copy
            torch.linalg.cholesky_ex(lower, out=(lower, info))
            if info:
                return None
        return factors.mT


def _spread(width: int) -> int:
    """How many fewer unknowns than the widest a row of a batch may have."""
    return width // 5 + 4


def _widened(A: torch.Tensor, by: int) -> torch.Tensor:
    """Append unit equations: (groups, cols, cols) becomes (groups, cols + by, cols + by)."""
    wide = F.pad(A, (0, by, 0, by))
    wide.diagonal(dim1=1, dim2=2)[:, A.shape[1] :] = 1.0
    return wide


def _gathered(A: torch.Tensor, g: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Return A[g][index, index] of every row; one by one where that is large, which is kinder to the cache."""
    if len(A) > 1:
        return A[g[:, None, None], index[:, :, None], index[:, None, :]]
    if index.shape[1] < 48:
        return A[0][index[:, :, None], index[:, None, :]]
    picked = torch.empty(len(index), index.shape[1], index.shape[1], dtype=A.dtype)
    for out, columns in zip(picked, index, strict=True):
        torch.index_select(A[0].index_select(0, columns), 1, columns, out=out)
    return picked


def _substituted(factor: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Solve L L^T x = b; for one right-hand side this is several times faster than `cholesky_solve`."""
    y = torch.linalg.solve_triangular(factor, b[:, :, None], upper=False)
    x: torch.Tensor = torch.linalg.solve_triangular(factor.transpose(1, 2), y, upper=True)
    return x[:, :, 0]


def _descend(problem: Problem, g: int, mask: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Solve wide rows of one group by conjugate gradients in float32, restarted from a float64 residual.

    Returns:
        (len(rows), cols) float64, and which rows reached the residual, (len(rows),) bool.
    """
    H, b = problem.H[g], problem.WH[g, rows] * mask
    goal = _RESIDUAL * b.norm(dim=1, keepdim=True)
    scale = H.diagonal().sqrt()
    single = (H / (scale[:, None] * scale)).float()
    precondition = problem.deflation(g, single).on(mask)
    V = problem.W[g, rows] * mask
    residual = (b - V @ H) * mask
    left = _MOST
    while left > 0 and (residual.norm(dim=1, keepdim=True) > goal).any():
        limit = (0.5 * goal).float(), scale.float()
        step, used = _conjugate(single, (residual / scale).float(), precondition, limit, left)
        V += step.double() / scale
        residual = (b - V @ H) * mask
        left -= max(1, used)
    return V, (residual.norm(dim=1, keepdim=True) <= goal)[:, 0]


def _conjugate(
    A: torch.Tensor,
    b: torch.Tensor,
    precondition: Preconditioner,
    goal: tuple[torch.Tensor, torch.Tensor],
    most: int,
) -> tuple[torch.Tensor, int]:
    """Solve x A = b on each row's columns, A of unit diagonal, until |residual * scale| is below the goal in every row.

    Args:
        A: (cols, cols) float32.
        b: (rows, cols) float32, zero outside the rows' columns.
        precondition: For these rows.
        goal: (rows, 1) and the scale (cols,), float32.
        most: Products with A.

    Returns:
        x and the number of products.
    """
    limit, scale = goal
    x, residual = torch.zeros_like(b), b.clone()
    direction = precondition(residual)
    square = (direction * residual).sum(1, keepdim=True)
    for count in range(most):
        if ((residual * scale).norm(dim=1, keepdim=True) <= limit).all():
            return x, count
        image = (direction @ A) * precondition.kept
        step = square / (direction * image).sum(1, keepdim=True).clamp_min(1e-30)
        x += step * direction
        residual -= step * image
        preconditioned = precondition(residual)
        before, square = square, (preconditioned * residual).sum(1, keepdim=True)
        direction = preconditioned + square / before.clamp_min(1e-30) * direction
    return x, most
