"""Keep the largest weights, change nothing else: the baseline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from taco.solvers.masks import keep_largest
from taco.solvers.problem import Problem
from taco.solvers.solver import LayerSolver
from taco.solvers.spec import Spec


def solve(problem: Problem, specs: Sequence[Spec]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the largest weights of every level as they are."""
    for spec in specs:
        mask = keep_largest(problem.W.square(), spec)
        yield problem.W * mask, mask


SOLVER = LayerSolver("magnitude", frozenset({"unstructured", "nm", "block"}), solve)
