"""The least-squares optimum on a support: the best weights once it is settled which of them stay.

For every row, with S its kept columns, v_S = (H_SS)^-1 (w H)_S: the exact minimiser of the layer-wise objective.
"""

from __future__ import annotations

import torch

from taco.solvers.problem import Problem, cholesky

_BATCH_BYTES = 256 * 2**20


def refit_support(problem: Problem, mask: torch.Tensor) -> torch.Tensor:
    """Return the optimal weights on a support, (groups, rows, cols) float64, zero elsewhere.

    Args:
        problem: The layer.
        mask: (groups, rows, cols) bool, True stays.

    Raises:
        SolverError: H_SS is not positive definite.
    """
    V = torch.zeros_like(problem.W)
    for g in range(len(V)):
        count = mask[g].sum(1)
        order = count.argsort()
        start = 0
        while start < len(order):
            widest = int(count[order[start:]].max())
            size = max(1, _BATCH_BYTES // max(1, 8 * widest * widest))
            rows = order[start : start + size]
            V[g, rows] = _rows(problem, g, mask[g, rows], rows)
            start += size
    return V


def _rows(problem: Problem, g: int, mask: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Solve some rows of one group at once; shorter supports are padded with unit equations."""
    width = int(mask.sum(1).max())
    solved = torch.zeros(mask.shape, dtype=torch.float64)
    if not width:
        return solved
    index = mask.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :width]
    real = mask.gather(1, index)
    A = problem.H[g][index[:, :, None], index[:, None, :]]
    A = A * (real[:, :, None] & real[:, None, :])
    A.diagonal(dim1=1, dim2=2).add_((~real).double())
    b = problem.WH[g, rows].gather(1, index) * real
    v = torch.cholesky_solve(b[:, :, None], cholesky(A, problem.damping))[:, :, 0]
    return solved.scatter_(1, index, v * real)
