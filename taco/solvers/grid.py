"""Integer grids for weights."""

from __future__ import annotations

import dataclasses

import torch

from taco.solvers.spec import Quantization

_SHARES = tuple(share / 100 for share in range(98, 38, -2))  # of the range of the weights


@dataclasses.dataclass(frozen=True, slots=True)
class Grid:
    """weight = scale * (q - zero), q an integer from low to high.

    Attributes:
        scale: (groups, rows, 1) float64.
        zero: (groups, rows, 1) float64, whole numbers; 0 when symmetric.
        low: Smallest integer.
        high: Largest integer.
    """

    scale: torch.Tensor
    zero: torch.Tensor
    low: int
    high: int

    def integers(self, w: torch.Tensor) -> torch.Tensor:
        """Return the nearest integers of weights (groups, rows, n), float64."""
        return (w / self.scale).round().add(self.zero).clamp(self.low, self.high)

    def nearest(self, w: torch.Tensor) -> torch.Tensor:
        """Return the nearest weights on the grid, (groups, rows, n) float64."""
        return (self.integers(w) - self.zero) * self.scale


def grid_of(W: torch.Tensor, how: Quantization) -> Grid:
    """Return the grid that holds zero exactly and is nearest to the weights (groups, rows, cols).

    The grid that spans all weights is shrunk, a row at a time or as a whole, to where the squared rounding error is
    least: with few bits it pays to clip the few largest.
    """
    W = W.double()
    over = (2,) if how.per_channel else (0, 1, 2)
    span = _spanning(W, how, over)
    best, least = span, _error(W, span, over)
    for share in _SHARES:
        tried = dataclasses.replace(span, scale=share * span.scale)
        error = _error(W, tried, over)
        best = dataclasses.replace(best, scale=torch.where(error < least, tried.scale, best.scale))
        least = torch.minimum(error, least)
    return best


def _spanning(W: torch.Tensor, how: Quantization, over: tuple[int, ...]) -> Grid:
    if how.symmetric:
        high = 2 ** (how.bits - 1) - 1
        scale = _positive(W.abs().amax(over, keepdim=True) / high)
        zero = torch.zeros_like(scale)
        low = -high
    else:
        low, high = 0, 2**how.bits - 1
        bottom, top = W.amin(over, keepdim=True).clamp_max(0), W.amax(over, keepdim=True).clamp_min(0)
        scale = _positive((top - bottom) / high)
        zero = (-bottom / scale).round()
    shape = (*W.shape[:2], 1)
    return Grid(scale.expand(shape), zero.expand(shape), low, high)


def _error(W: torch.Tensor, grid: Grid, over: tuple[int, ...]) -> torch.Tensor:
    return (grid.nearest(W) - W).square().sum(over, keepdim=True)


def _positive(scale: torch.Tensor) -> torch.Tensor:
    """A row of zeros needs a scale too."""
    return torch.where(scale > 0, scale, torch.ones_like(scale))
