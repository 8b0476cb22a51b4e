"""ADMM with a rising penalty, then the least-squares optimum on the support found (ALPS; Meng et al., NeurIPS 2024).

min 1/2 tr((V - W) H (V - W)^T) with V = D, D in the pattern, over-relaxed (Boyd et al. 2011, 3.4.3):
    V = W + rho (D - U - W) (H + rho I)^-1,   A = a V + (1 - a) D + U,   D = project(A),   U = A - D.
H is scaled to a unit diagonal first, so that one penalty suits all columns. One eigendecomposition H = Q L Q^T serves
every penalty, and every level goes through the same penalties, so that the inverse is formed once for all of them. No
level knows of the others: a level's result is that of solving it alone, up to rounding.

The iterations only choose the support and run in float32; the weights on it come from `refit_support`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from taco.solvers.masks import keep_largest
from taco.solvers.problem import Problem
from taco.solvers.refit import refit_support
from taco.solvers.solver import LayerSolver
from taco.solvers.spec import Spec

_ROUNDS = 100  # most; the support settles after 20 to 40
_RHO, _GROWTH = 0.25, 1.06
_RELAXED = 1.4
_CALM = 2  # rounds without a change of the support: of a row by itself if N:M, else of the layer
_STATE_BYTES = 256 * 2**20


def solve(problem: Problem, specs: Sequence[Spec]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the refitted weights of every level."""
    scale = problem.H.diagonal(dim1=1, dim2=2).sqrt()[:, None, :]
    L, Q = torch.linalg.eigh((problem.H / (scale.transpose(1, 2) * scale)).float())
    shrink = _Shrink(L.clamp_min(0)[:, None, :], Q)
    W = (problem.W * scale).float()
    together = max(1, _STATE_BYTES // (16 * W.numel()))
    for start in range(0, len(specs), together):
        for mask in _supports(W, shrink, specs[start : start + together]):
            yield refit_support(problem, mask), mask


class _Shrink:
    """Multiplies by rho (H + rho I)^-1."""

    def __init__(self, L: torch.Tensor, Q: torch.Tensor) -> None:
        self.L, self.Q = L, Q
        self.kept: tuple[float, torch.Tensor] = (0.0, Q)

    def __call__(self, X: torch.Tensor, rho: float) -> torch.Tensor:
        """Take and return (groups, any, cols) float32."""
        factors = rho / (self.L + rho)
        if X.shape[1] < X.shape[2]:
            return X @ self.Q * factors @ self.Q.transpose(1, 2)
        if self.kept[0] != rho:
            self.kept = (rho, self.Q * factors @ self.Q.transpose(1, 2))
        return X @ self.kept[1]


def _supports(W: torch.Tensor, shrink: _Shrink, specs: Sequence[Spec]) -> list[torch.Tensor]:
    """Return every level's mask. A is D where the mask is True, and U elsewhere."""
    target = W[:, None]
    A = target.expand(-1, len(specs), -1, -1).clone()
    found = _project(A, specs)
    masks, active = found.clone(), torch.arange(len(specs))
    calm = torch.zeros(found.shape[:3], dtype=torch.int64)
    alone = torch.tensor([spec.pattern == "nm" for spec in specs])[None, :, None]  # each row has its own answer
    rho, growth = _RHO, 1.0
    for _ in range(_ROUNDS):
        step = torch.where(found, A, A * (-1 / growth)) - target
        step = shrink(step.flatten(1, 2), rho).view_as(A)
        A *= torch.where(found, 1 - _RELAXED, 1 / growth)
        A += _RELAXED * (target + step)
        before, found = found, _project(A, [specs[i] for i in active.tolist()])
        settled = calm >= _CALM
        masks[:, active] = torch.where(settled[..., None], masks[:, active], found)
        changed = (found != before).any(3)
        changed = torch.where(alone, changed, changed.any(2, keepdim=True).any(0, keepdim=True))
        calm = torch.where(settled | ~changed, calm + 1, 0)
        moving = (calm < _CALM).any(2).any(0)
        if not moving.any():
            break
        if not moving.all():
            A, found, calm = A[:, moving], found[:, moving], calm[:, moving]
            active, alone = active[moving], alone[:, moving]
        rho, growth = rho * _GROWTH, _GROWTH
    return list(masks.unbind(1))


def _project(A: torch.Tensor, specs: Sequence[Spec]) -> torch.Tensor:
    """Return the mask of every level, (groups, levels, rows, cols)."""
    size = A.abs() if all(spec.pattern == "unstructured" for spec in specs) else A.square()
    return torch.stack([keep_largest(size[:, i], spec) for i, spec in enumerate(specs)], 1)


SOLVER = LayerSolver("admm", frozenset({"unstructured", "nm", "block"}), solve)
