"""What a solver is: a pure function from (W, H, spec) to the best weights it can find.

A solver's own file holds one constant `SOLVER`, a `LayerSolver` around the function that does the mathematics on a
`Problem`. What is the same for all (checks, trivial levels, dead inputs, quantisation after a mask, the loss) is here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import torch

from taco.errors import SolverError
from taco.solvers.feedback import quantize
from taco.solvers.grid import Grid
from taco.solvers.problem import Problem
from taco.solvers.spec import Pattern, Spec

#: From a layer and levels of one solver's patterns to (V, mask) each: float64 and bool, (groups, rows, cols).
Solve = Callable[[Problem, Sequence[Spec]], Iterable[tuple[torch.Tensor, torch.Tensor]]]


@dataclasses.dataclass(frozen=True, slots=True)
class Solution:
    """Compressed weights of one layer.

    Attributes:
        weight: (groups, rows, cols), the dtype of W; zero where the mask is False.
        mask: (groups, rows, cols) bool, True stays.
        loss: 1/2 tr(dW H dW^T) of `weight` on the damped H; dead inputs count for nothing.
        grid: The integers behind quantised weights.
    """

    weight: torch.Tensor
    mask: torch.Tensor
    loss: float
    grid: Grid | None = None


class Solver(Protocol):
    """What `load_solver` returns."""

    def __call__(self, W: torch.Tensor, H: torch.Tensor, spec: Spec, damping: float = 1e-2) -> Solution:
        """Solve one level."""

    def levels(self, W: torch.Tensor, H: torch.Tensor, specs: Sequence[Spec], damping: float = 1e-2) -> list[Solution]:
        """Solve several levels and share what can be shared."""


@dataclasses.dataclass(frozen=True, slots=True)
class LayerSolver:
    """A solver made of its mathematics.

    Attributes:
        name: As `load_solver` knows it.
        patterns: What it can make.
        solve: The mathematics; see `Solve`. It gets no level that keeps every weight.
    """

    name: str
    patterns: frozenset[Pattern]
    solve: Solve

    def __call__(self, W: torch.Tensor, H: torch.Tensor, spec: Spec, damping: float = 1e-2) -> Solution:
        """Solve one level.

        Args:
            W: (groups, rows, cols) float32 or float64; not modified.
            H: (groups, cols, cols), 2 X X^T / n; not modified.
            spec: The level.
            damping: Multiple of mean(diag H) added to the diagonal.

        Raises:
            SolverError: Shapes do not fit, the pattern is not this solver's, or a factorisation fails.
        """
        return self.levels(W, H, [spec], damping)[0]

    def levels(self, W: torch.Tensor, H: torch.Tensor, specs: Sequence[Spec], damping: float = 1e-2) -> list[Solution]:
        """Solve several levels; arguments and errors as of a call."""
        problem = Problem.of(W, H, damping)
        cut = [i for i, spec in enumerate(specs) if self._cuts(spec, problem)]
        solved = dict(zip(cut, self.solve(problem, [specs[i] for i in cut]), strict=True)) if cut else {}
        return [self._finish(problem, W, spec, solved.get(i)) for i, spec in enumerate(specs)]

    def _cuts(self, spec: Spec, problem: Problem) -> bool:
        if spec.pattern == "dense":
            return False
        if spec.pattern not in self.patterns:
            raise SolverError(
                f"solver {self.name} makes no {spec.pattern} pattern", f"It makes: {', '.join(sorted(self.patterns))}"
            )
        return spec.removed(*problem.W.shape) > 0

    def _finish(
        self, problem: Problem, W: torch.Tensor, spec: Spec, solved: tuple[torch.Tensor, torch.Tensor] | None
    ) -> Solution:
        if solved is None and spec.quantization is None:
            return Solution(W.detach().clone(), torch.ones_like(W, dtype=torch.bool), 0.0)
        V, mask = solved or (problem.W, torch.ones_like(W, dtype=torch.bool))
        V = V.masked_fill(~mask | problem.dead[:, None, :], 0.0)
        grid = None
        if spec.quantization is not None:
            V, grid = quantize(problem, V, mask, spec.quantization)
        if not V.isfinite().all():
            raise SolverError(
                f"solver {self.name} gave weights that are not finite at damping {problem.damping:g}",
                f"Raise the damping to {max(10 * problem.damping, 1e-4):g}",
            )
        weight = V.to(W.dtype)
        return Solution(weight, mask, problem.loss(weight), grid)
