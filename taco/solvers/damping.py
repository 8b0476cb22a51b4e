"""Choose the damping of a layer on second moments that the solver has not seen (METHOD.md 3).

Few pictures make H a noisy estimate, and the noise asks for damping; many do not. Which it is differs from layer to
layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from taco.errors import SolverError
from taco.solvers.loading import load_solver
from taco.solvers.spec import Spec

CANDIDATES = (1e-3, 1e-2, 1e-1, 1.0)
USUAL = 1e-2
_MARGIN = 1.02  # half of the pictures ask for more damping than all of them: smaller gains are no reason to move


def choose_damping(
    W: torch.Tensor,
    H_fit: torch.Tensor,
    H_held_out: torch.Tensor,
    spec: Spec,
    solver: str = "magnitude_refit",
    candidates: Sequence[float] = CANDIDATES,
) -> float:
    """Return the damping whose solution has the least loss on held-out second moments.

    The usual 1e-2, when it is a candidate, stays unless another one is more than 2 % better.

    Args:
        W: (groups, rows, cols) float32 or float64; not modified.
        H_fit: (groups, cols, cols), 2 X X^T / n of the pictures that are solved on; not modified.
        H_held_out: (groups, cols, cols) of other pictures; not damped.
        spec: One representative level.
        solver: Name of the solver that is tried; it must refit. The default's support does not depend on the damping,
            which makes it cheap and smooth.
        candidates: Multiples of mean(diag H_fit). One that cannot be factored is left out; of equals the first wins.

    Raises:
        SolverError: None of them works, or the held-out moments do not fit.
        InputError: There is no such solver.
    """
    if H_held_out.shape != H_fit.shape:
        raise SolverError(
            f"held-out moments {tuple(H_held_out.shape)} are not of the shape {tuple(H_fit.shape)} of the others",
            "Calibrate the same layer twice",
        )
    solve, losses = load_solver(solver), dict[float, float]()
    failure: SolverError | None = None
    for damping in candidates:
        try:
            weight = solve(W, H_fit, spec, damping).weight
        except SolverError as error:
            failure = error
            continue
        losses[damping] = _loss(weight - W, H_held_out)
    if not losses:
        tried = ", ".join(f"{damping:g}" for damping in candidates)
        raise SolverError(f"no damping of {tried or 'none'} works: {failure}", "Try a larger one") from failure
    best = min(losses, key=losses.__getitem__)
    return USUAL if losses.get(USUAL, float("inf")) <= _MARGIN * losses[best] else best


def _loss(D: torch.Tensor, H: torch.Tensor) -> float:
    """1/2 tr(D H D^T), summed over the groups."""
    D = D.double()
    return float(0.5 * ((D @ H.double()) * D).sum())
