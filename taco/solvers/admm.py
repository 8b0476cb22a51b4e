"""ADMM with a rising penalty, then the least-squares optimum on the support found (ALPS; Meng et al., NeurIPS 2024).

min 1/2 tr((V - W) H (V - W)^T) with V = D, D in the pattern:
    V = (W H + rho (D - U)) (H + rho I)^-1,   D = project(V + U),   U = U + V - D.
One eigendecomposition H = Q L Q^T makes every V-step two matrix products, whatever rho. H is scaled to a unit diagonal
first, so that one penalty suits all columns, and rho rises until the support no longer changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from taco.solvers.masks import keep_largest
from taco.solvers.problem import Problem
from taco.solvers.refit import refit_support
from taco.solvers.solver import LayerSolver
from taco.solvers.spec import Spec

_ROUNDS = 60
_RHO, _GROWTH = 0.1, 1.12


def solve(problem: Problem, specs: Sequence[Spec]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the refitted weights of every level."""
    scale = problem.H.diagonal(dim1=1, dim2=2).sqrt()[:, None, :]
    H = problem.H / (scale.transpose(1, 2) * scale)
    L, Q = torch.linalg.eigh(H)
    W = problem.W * scale
    for spec in specs:
        mask = _support(W, Q, L[:, None, :], spec)
        yield refit_support(problem, mask), mask


def _support(W: torch.Tensor, Q: torch.Tensor, L: torch.Tensor, spec: Spec) -> torch.Tensor:
    WHQ = (W @ Q) * L
    D, U, rho = W.clone(), torch.zeros_like(W), _RHO
    mask = keep_largest(W.square(), spec)
    for _ in range(_ROUNDS):
        V = (WHQ + rho * ((D - U) @ Q)) / (L + rho) @ Q.transpose(1, 2)
        mask = keep_largest((V + U).square(), spec)
        D = (V + U) * mask
        U = U + V - D
        rho *= _GROWTH
        U /= _GROWTH  # U is the multiplier over rho
    return mask


SOLVER = LayerSolver("admm", frozenset({"unstructured", "nm", "block"}), solve)
