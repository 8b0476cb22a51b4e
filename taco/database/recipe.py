"""How a database is solved: at which levels, by which solver, with which damping."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
from importlib.metadata import entry_points
from pathlib import Path
from typing import Literal

import taco.solvers.loading
from taco.errors import InputError
from taco.levels import Level
from taco.solvers.loading import GROUP, OWN, load_solver

SPARSITIES = (0.3, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.97, 0.98)
DEFAULT_LEVELS = (*(Level("unstructured", s) for s in SPARSITIES), Level("nm", "2:4"))
#: "auto" takes ADMM up to so many columns, whose eigenvectors cost the cube of it, and FastOBC above.
ADMM_COLUMNS = 1536
#: "auto" chooses the damping at this level, whatever levels are asked for, so that more levels change nothing.
DAMPING_LEVEL = Level("unstructured", 0.75)


@dataclasses.dataclass(frozen=True, slots=True)
class Recipe:
    """What to solve.

    Attributes:
        levels: Of every layer that they fit.
        solver: Name of a solver; "auto" decides by the number of columns.
        damping: Multiple of mean(diag H); "auto" takes, layer by layer, what does best on held-out pictures.
    """

    levels: tuple[Level, ...] = DEFAULT_LEVELS
    solver: str = "auto"
    damping: float | Literal["auto"] = "auto"

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            InputError: There is no such solver, no level, or the damping is no number from 0.
        """
        if self.solver != "auto":
            load_solver(self.solver)
        if not self.levels or len(set(self.levels)) != len(self.levels):
            raise InputError(
                "the levels are none, or one is there twice", "Give levels such as unstructured:0.9,nm:2:4"
            )
        if self.damping != "auto" and not 0 <= self.damping < math.inf:
            raise InputError(f"a damping of {self.damping} does not exist", "Give auto, or a number such as 0.01")

    def solver_for(self, columns: int) -> str:
        """Return the solver of a layer."""
        if self.solver != "auto":
            return self.solver
        return "admm" if columns <= ADMM_COLUMNS else "fastobc"


def read_damping(text: str) -> float | Literal["auto"]:
    """Read `--damping`.

    Raises:
        InputError: It is neither "auto" nor a number.
    """
    if text == "auto":
        return "auto"
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"--damping {text!r} is no number", "Give auto, or a number such as 0.01") from error


def solver_version(name: str) -> str:
    """Say which mathematics a solver's name stands for: a hash of our sources, or the version of another package."""
    if name in OWN:
        return _sources()
    dist = next((point.dist for point in entry_points(group=GROUP) if point.name == name), None)
    return "unknown" if dist is None else f"{dist.name} {dist.version}"


@functools.cache
def _sources() -> str:
    """Hash our solvers' sources, once a process."""
    digest = hashlib.sha256()
    for path in sorted(Path(taco.solvers.loading.__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
