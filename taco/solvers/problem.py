"""The layer-wise problem that every solver gets: min over V in a class of 1/2 tr((V - W) H (V - W)^T) (METHOD.md 1).

Damping makes H positive definite: lambda = damping * mean(diag H) is added to the diagonal. An input that is never
anything but zero has no say: its H_ii becomes 1, its weights count as zero. Factorisations are computed once and shared
by all levels.
"""

from __future__ import annotations

import dataclasses
import functools

import torch

from taco.errors import SolverError
from taco.solvers.deflation import Deflation

_DEAD = 1e-12  # of the largest diagonal element
_ROUNDING = 1e-3  # of the largest element; float32 sums stay far below


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """One layer, ready to be solved. Nobody changes its tensors.

    Attributes:
        W: (groups, rows, cols) float64, dead columns zero.
        H: (groups, cols, cols) float64, damped, dead inputs decoupled.
        dead: (groups, cols) bool.
        damping: Multiple of mean(diag H) that was added.
    """

    W: torch.Tensor
    H: torch.Tensor
    dead: torch.Tensor
    damping: float

    @classmethod
    def of(cls, W: torch.Tensor, H: torch.Tensor, damping: float) -> Problem:
        """Damp and check.

        Args:
            W: (groups, rows, cols) weights.
            H: (groups, cols, cols) second moments, 2 X X^T / n.
            damping: Multiple of mean(diag H), at least 0.

        Raises:
            SolverError: Shapes do not fit, or a number is not finite.
        """
        _check(W, H, damping)
        W, H = (x.detach().to(torch.float64, copy=True) for x in (W, H))
        diagonal = H.diagonal(dim1=1, dim2=2)  # a view
        ridge = damping * diagonal.mean(1, keepdim=True)
        dead = diagonal <= _DEAD * diagonal.amax(1, keepdim=True)
        H.masked_fill_(dead[:, :, None] | dead[:, None, :], 0.0)
        diagonal += torch.where(dead, 1.0, ridge)
        return cls(W.masked_fill_(dead[:, None, :], 0.0), H, dead, damping)

    @functools.cached_property
    def inverse(self) -> torch.Tensor:
        """H^-1, (groups, cols, cols)."""
        inverse: torch.Tensor = torch.cholesky_inverse(cholesky(self.H, self.damping))
        return inverse

    @functools.cached_property
    def upper(self) -> torch.Tensor:
        """Upper Cholesky factor U of H^-1 = U^T U, (groups, cols, cols)."""
        return upper_of_inverse(self.H, self.damping)

    @functools.cached_property
    def WH(self) -> torch.Tensor:
        """W H, (groups, rows, cols)."""
        return self.W @ self.H

    @functools.cached_property
    def _deflations(self) -> dict[int, Deflation]:
        return {}

    def deflation(self, g: int, A: torch.Tensor) -> Deflation:
        """Return the leading eigenvectors of a group's scaled H, found once.

        Args:
            g: The group.
            A: (cols, cols) float32, H of that group scaled to a unit diagonal.
        """
        if g not in self._deflations:
            self._deflations[g] = Deflation.of(A)
        return self._deflations[g]

    def loss(self, V: torch.Tensor) -> float:
        """Return 1/2 tr((V - W) H (V - W)^T), summed over the groups."""
        D = V.double() - self.W
        return float(0.5 * ((D @ self.H) * D).sum())


def cholesky(A: torch.Tensor, damping: float) -> torch.Tensor:
    """Factor a matrix or a batch of them.

    Raises:
        SolverError: One is not positive definite; names a damping to try.
    """
    factor: torch.Tensor
    factor, info = torch.linalg.cholesky_ex(A)
    if info.any() or not factor.isfinite().all():
        raise indefinite(A.shape[-1], damping)
    return factor


def upper_of_inverse(H: torch.Tensor, damping: float) -> torch.Tensor:
    """Return the upper triangular U of H^-1 = U^T U for a batch (b, n, n).

    H with its columns turned round is L L^T, so that H = R R^T with an upper R, and U = R^-1: one factorisation, and
    H^-1 is never formed.

    Raises:
        SolverError: One is not positive definite; names a damping to try.
    """
    R = cholesky(H.flip(1, 2), damping).flip(1, 2)
    unit = torch.eye(H.shape[-1], dtype=H.dtype).expand_as(H)
    U: torch.Tensor = torch.linalg.solve_triangular(R, unit, upper=True)
    return U


def indefinite(columns: int, damping: float) -> SolverError:
    """Return the error of a failed factorisation; it names a damping to try."""
    return SolverError(
        f"second moments of {columns} columns are not positive definite at damping {damping:g}",
        f"Raise the damping to {max(10 * damping, 1e-4):g}",
    )


def _check(W: torch.Tensor, H: torch.Tensor, damping: float) -> None:
    if W.ndim != 3 or not W.numel() or tuple(H.shape) != (W.shape[0], W.shape[2], W.shape[2]):
        raise SolverError(
            f"W {tuple(W.shape)} and H {tuple(H.shape)} do not fit together",
            "Give W (groups, rows, cols) and H (groups, cols, cols)",
        )
    if not W.is_floating_point() or not H.is_floating_point():
        raise SolverError(f"W is {W.dtype} and H is {H.dtype}", "Give float32 or float64")
    if not W.isfinite().all():
        raise SolverError("the weights are not finite", "Check the weight file")
    if not H.isfinite().all():
        raise SolverError("the second moments are not finite", "Check the pictures and the weights")
    largest = H.abs().amax()
    if (H.diagonal(dim1=1, dim2=2) < -_ROUNDING * largest).any():
        raise SolverError("a second moment is negative", "Give 2 X X^T / n")
    if ((H - H.transpose(1, 2)).abs() > _ROUNDING * largest).any():
        raise SolverError("the second moments are not symmetric", "Give 2 X X^T / n")
    if not 0 <= damping < float("inf"):
        raise SolverError(f"a damping of {damping} does not exist", "Give a number from 0, such as 0.01")
