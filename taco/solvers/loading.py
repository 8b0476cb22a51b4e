"""Find a solver by name: our own modules first, then entry points of other packages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch

from taco.plugins import Family
from taco.solvers.solver import Solution, Solver
from taco.solvers.spec import Spec

OWN = ("admm", "exactobs", "fastobc", "magnitude", "magnitude_refit", "channels", "gptq")
GROUP = "taco.solvers"


def load_solver(name: str) -> Solver:
    """Return the solver `name`.

    Raises:
        InputError: There is none of that name (the nearest is suggested), or another package's cannot be loaded.
    """
    return cast(Solver, _FAMILY.load(name))


def _fault(found: object) -> str:
    solves = callable(found) and callable(getattr(found, "levels", None)) and not isinstance(found, type)
    return "" if solves else "it lacks a call or `levels`"


_FAMILY = Family("solver", GROUP, OWN, "SOLVER", _fault)


def solve_levels(
    W: torch.Tensor, H: torch.Tensor, specs: Sequence[Spec], solver: str = "admm", damping: float = 1e-2
) -> list[Solution]:
    """Solve several levels of one layer; factorisations are shared.

    Args:
        W: (groups, rows, cols) float32 or float64; not modified.
        H: (groups, cols, cols), 2 X X^T / n; not modified.
        specs: The levels.
        solver: Name of the solver.
        damping: Multiple of mean(diag H) added to the diagonal.

    Raises:
        InputError: There is no such solver.
        SolverError: Shapes do not fit, the pattern is not this solver's, or a factorisation fails.
    """
    return load_solver(solver).levels(W, H, specs, damping)
