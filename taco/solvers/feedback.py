"""Quantisation with second-order error feedback (OBQ in a fixed column order, as in GPTQ; Frantar et al. 2023).

Columns are rounded one after the other; the error of each is spread over the columns that are still free by the rows of
the upper Cholesky factor of H^-1, which minimises the layer-wise objective given all that is rounded already.
"""

from __future__ import annotations

import torch

from taco.solvers.grid import Grid, grid_of
from taco.solvers.problem import Problem, cholesky
from taco.solvers.spec import Quantization


def quantize(problem: Problem, V: torch.Tensor, mask: torch.Tensor, how: Quantization) -> tuple[torch.Tensor, Grid]:
    """Round weights to a grid, the rest of each row making up for it; masked weights stay zero.

    Args:
        problem: The layer.
        V: (groups, rows, cols) float64, zero where the mask is False.
        mask: (groups, rows, cols) bool.
        how: The grid.

    Returns:
        The rounded weights and their grid.
    """
    grid = grid_of(V, how)
    upper = cholesky(problem.inverse, problem.damping).transpose(1, 2)
    free, rounded = V.clone(), torch.zeros_like(V)
    for j in range(V.shape[2]):
        w = free[:, :, j : j + 1]
        q = grid.nearest(w) * mask[:, :, j : j + 1]
        rounded[:, :, j : j + 1] = q
        error = (w - q) * mask[:, :, j : j + 1] / upper[:, j, j, None, None]
        free[:, :, j + 1 :] -= error * upper[:, None, j, j + 1 :] * mask[:, :, j + 1 :]
    return rounded, grid
