"""Find a solver by name: our own modules first, then entry points of other packages."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import cast

import torch

from taco.errors import InputError
from taco.solvers.solver import Solution, Solver
from taco.solvers.spec import Spec
from taco.wording import nearest

OWN = ("admm", "exactobs", "fastobc", "magnitude", "magnitude_refit", "channels", "gptq")
GROUP = "taco.solvers"


def load_solver(name: str) -> Solver:
    """Return the solver `name`.

    Raises:
        InputError: There is none of that name (the nearest is suggested), or another package's cannot be loaded.
    """
    if name in OWN:
        return cast(Solver, importlib.import_module(f"taco.solvers.{name}").SOLVER)
    foreign = {point.name: point for point in entry_points(group=GROUP)}
    if name in foreign:
        return _load(foreign[name])
    known = sorted({*OWN, *foreign})
    raise InputError(f"there is no solver {name!r}", f"{nearest(name, known)} Solvers are: {', '.join(known)}")


def _load(point: EntryPoint) -> Solver:
    try:
        solver = point.load()
    except (ImportError, AttributeError) as error:
        raise InputError(f"solver {point.name!r} ({point.value}) cannot be loaded: {error}", "Repair it") from error
    if isinstance(solver, type) or not callable(solver) or not callable(getattr(solver, "levels", None)):
        raise InputError(
            f"{point.value} is no solver: it lacks a call or `levels`", "Let the entry point name the constant SOLVER"
        )
    return cast(Solver, solver)


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
