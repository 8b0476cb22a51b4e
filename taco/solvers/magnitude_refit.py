"""Keep the largest weights and refit them by least squares: how much of a solver's gain is compensation alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from taco.solvers.masks import keep_largest
from taco.solvers.problem import Problem
from taco.solvers.refit import refit_support
from taco.solvers.solver import LayerSolver
from taco.solvers.spec import Spec


def solve(problem: Problem, specs: Sequence[Spec]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the largest weights of every level, refitted on their support."""
    for spec in specs:
        mask = keep_largest(problem.W.square(), spec)
        yield refit_support(problem, mask), mask


SOLVER = LayerSolver("magnitude_refit", frozenset({"unstructured", "nm", "block"}), solve)
