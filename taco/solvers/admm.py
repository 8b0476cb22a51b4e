"""ADMM with a rising penalty, then the least-squares optimum on the support found (ALPS; Meng et al., NeurIPS 2024).

min 1/2 tr((V - W) H (V - W)^T) with V = D, D in the pattern, over-relaxed (Boyd et al. 2011, 3.4.3):
    V = W + rho (D - U - W) (H + rho I)^-1,   A = a V + (1 - a) D + U,   D = project(A),   U = A - D.
Where that comes to rest, a kept weight outranks one that is gone if |v_i| > |g_j| / rho, g the gradient. What removing
the one costs and adding the other gains is v_i^2 c_i / 2 and g_j^2 / (2 c_j), c the variance of a column that the rest
of the support does not explain; the two orders agree where c = rho. So columns are scaled to c = 1 first (`_scale`) and
the penalty starts a little below.

One eigendecomposition H = Q L Q^T serves every penalty, and every level goes through the same penalties, so that the
inverse is formed once for all of them. No level knows of the others: a level's result is that of solving it alone, up
to rounding.

A depthwise layer has one small row a group, where removing weight by weight (`exactobs`) is both faster and better; its
`unstructured` and `block` levels go there. N:M levels never do, or a row's result would depend on the rows beside it.

The iterations only choose the support and run in float32; the weights on it come from `refit_support`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from taco.solvers import exactobs
from taco.solvers.masks import keep_largest
from taco.solvers.problem import Problem, cholesky
from taco.solvers.refit import refit_support
from taco.solvers.solver import LayerSolver
from taco.solvers.spec import Spec

_ROUNDS = 100  # most; the support settles after 20 to 40
_RHO, _GROWTH = 0.8, 1.05
_NOISE, _LEAST = 0.5, 1e-3  # of a column's second moment; see `_scale`
_RELAXED = 1.4
_SMALL = 49  # columns of a depthwise layer of 7 x 7
_CALM = 2  # rounds without a change of the support: of a row by itself if N:M, else of the layer
_STATE_BYTES = 256 * 2**20


def solve(problem: Problem, specs: Sequence[Spec]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the refitted weights of every level."""
    greedy = [_is_small(problem, spec) for spec in specs]
    one_by_one = exactobs.solve(problem, [spec for spec, small in zip(specs, greedy, strict=True) if small])
    at_once = _solve(problem, [spec for spec, small in zip(specs, greedy, strict=True) if not small])
    for small in greedy:
        yield next(one_by_one if small else at_once)


def _is_small(problem: Problem, spec: Spec) -> bool:
    _, rows, cols = problem.W.shape
    return rows == 1 and cols <= _SMALL and spec.pattern != "nm"


def _solve(problem: Problem, specs: Sequence[Spec]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    scale = _scale(problem)
    L, Q = torch.linalg.eigh((problem.H / (scale.transpose(1, 2) * scale)).float())
    shrink = _Shrink(L.clamp_min(0)[:, None, :], Q)
    W = (problem.W * scale).float()
    together = max(1, _STATE_BYTES // (16 * W.numel()))
    for start in range(0, len(specs), together):
        for mask in _supports(W, shrink, specs[start : start + together]):
            yield refit_support(problem, mask), mask


def _scale(problem: Problem) -> torch.Tensor:
    """Return the root of what the other columns leave unexplained of each, (groups, 1, cols) float64.

    The support is not known yet, and a level keeps only some of the others; they are all taken, but with noise, which
    says as much as some of them without. It also keeps moments of few inputs from making everything explained.
    """
    diagonal = problem.H.diagonal(dim1=1, dim2=2)
    root = diagonal.sqrt()
    noisy = problem.H / (root[:, :, None] * root[:, None, :])
    noisy.diagonal(dim1=1, dim2=2).add_(_NOISE)
    inverse = torch.cholesky_inverse(cholesky(noisy, problem.damping))
    left = (1 / inverse.diagonal(dim1=1, dim2=2) - _NOISE).clamp_min(_LEAST)
    return (diagonal * left).sqrt()[:, None, :]


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
