"""Layer-wise solvers: pure functions on (W, H). No nn.Module, no hooks, inputs not modified (METHOD.md 2-5)."""

from taco.solvers.loading import load_solver, solve_levels
from taco.solvers.solver import Solution, Solver
from taco.solvers.spec import Quantization, Spec

__all__ = ["Quantization", "Solution", "Solver", "Spec", "load_solver", "solve_levels"]
