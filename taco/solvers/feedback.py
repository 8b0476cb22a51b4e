"""Settle columns one after the other, the rest of each row making up for the error (Frantar et al. 2023, GPTQ).

With H^-1 = U^T U, U upper triangular: once columns before j are settled, row j of U over U_jj is how the columns after
j best make up for an error in column j. That serves rounding to a grid here and masks in `taco.solvers.fastobc`.
Columns beyond the present chunk are updated once a chunk.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from taco.solvers.grid import Grid, grid_of
from taco.solvers.problem import Problem
from taco.solvers.spec import Quantization

_CHUNK = 64


def settle_columns(
    W: torch.Tensor, U: torch.Tensor, value: Callable[[torch.Tensor, int], torch.Tensor], chunk: int = _CHUNK
) -> torch.Tensor:
    """Return the settled weights, (batch, rows, cols) float64.

    Args:
        W: (batch, rows, cols) float64, the weights wanted; not modified.
        U: (batch, cols, cols) float64, the upper factor of H^-1.
        value: From all columns and a number j to what column j becomes, (batch, rows). Columns from j to the end of the
            chunk are up to date; at its first column all are.
        chunk: Columns between two updates of all the rest.
    """
    free = W.clone()
    cols = W.shape[2]
    for a in range(0, cols, chunk):
        b = min(a + chunk, cols)
        errors = torch.empty(*W.shape[:2], b - a, dtype=torch.float64)
        for j in range(a, b):
            settled = value(free, j)
            error = (free[:, :, j] - settled) / U[:, j, j, None]
            free[:, :, j] = settled
            free[:, :, j + 1 : b] -= error[:, :, None] * U[:, None, j, j + 1 : b]
            errors[:, :, j - a] = error
        free[:, :, b:] -= errors @ U[:, a:b, b:]
    return free


def quantize(problem: Problem, V: torch.Tensor, mask: torch.Tensor, how: Quantization) -> tuple[torch.Tensor, Grid]:
    """Round weights to a grid, the rest of each row making up for it; masked weights stay zero.

    A masked column that is still to come may take up some of an error for a while: when its turn comes it is settled at
    zero and hands everything on, so that all rows share one factor whatever their masks.

    Args:
        problem: The layer.
        V: (groups, rows, cols) float64, zero where the mask is False.
        mask: (groups, rows, cols) bool.
        how: The grid.

    Returns:
        The rounded weights and their grid.

    Raises:
        SolverError: H is not positive definite.
    """
    grid = grid_of(V, how)

    def rounded(free: torch.Tensor, j: int) -> torch.Tensor:
        return (grid.nearest(free[:, :, j : j + 1]) * mask[:, :, j : j + 1])[:, :, 0]

    return settle_columns(V, problem.upper, rounded), grid
