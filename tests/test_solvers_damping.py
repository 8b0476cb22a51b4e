"""The damping that held-out moments ask for."""

from __future__ import annotations

import pytest
import torch

from taco.errors import InputError, SolverError
from taco.solvers import Spec, load_solver
from taco.solvers.damping import CANDIDATES, choose_damping

SPEC = Spec.unstructured(0.6)


def moments(n: int, seed: int, cols: int = 24, groups: int = 1) -> torch.Tensor:
    """2 X X^T / n of inputs with a decaying spectrum."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(cols, cols, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    X = torch.randn(groups, cols, n, generator=generator, dtype=torch.float64) * torch.logspace(0, -2, cols)[:, None]
    X = mixing @ X
    return 2 * X @ X.transpose(1, 2) / n


def weights(groups: int = 1, rows: int = 8, cols: int = 24) -> torch.Tensor:
    return torch.randn(groups, rows, cols, generator=torch.Generator().manual_seed(3))


def held_out_loss(W: torch.Tensor, H: torch.Tensor, H_held_out: torch.Tensor, damping: float) -> float:
    D = (load_solver("magnitude_refit")(W, H, SPEC, damping).weight - W).double()
    return float(torch.einsum("grc,gcd,grd->", D, H_held_out, D) / 2)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("n", [6, 30, 3000])
def test_it_is_the_candidate_of_least_held_out_loss(n: int, groups: int) -> None:
    W, H, H_held_out = weights(groups), moments(n, 0, groups=groups), moments(3000, 1, groups=groups)
    candidates = (1e-5, 1e-3, 1e-1, 10.0)
    best = min(candidates, key=lambda damping: held_out_loss(W, H, H_held_out, damping))
    assert choose_damping(W, H, H_held_out, SPEC, candidates=candidates) == best


def test_the_usual_damping_stays_unless_another_is_clearly_better() -> None:
    W, H, H_held_out = weights(), moments(5000, 0), moments(5000, 1)
    usual, other = (held_out_loss(W, H, H_held_out, damping) for damping in (1e-2, 7e-3))
    assert other < usual < 1.02 * other
    assert choose_damping(W, H, H_held_out, SPEC, candidates=(7e-3, 1e-2)) == 1e-2
    other = held_out_loss(W, H, H_held_out, 1e-5)
    assert 1.02 * other < usual
    assert choose_damping(W, H, H_held_out, SPEC, candidates=(1e-5, 1e-2)) == 1e-5


def test_few_inputs_ask_for_more_damping_than_many() -> None:
    W, H_held_out = weights(), moments(5000, 1)
    few = choose_damping(W, moments(8, 0), H_held_out, SPEC)
    many = choose_damping(W, moments(5000, 2), H_held_out, SPEC)
    assert few > many
    assert {few, many} <= set(CANDIDATES)


def test_a_candidate_that_cannot_be_factored_is_left_out() -> None:
    W, H = weights(), moments(5, 0)
    with pytest.raises(SolverError):
        load_solver("magnitude_refit")(W, H, SPEC, 0.0)
    assert choose_damping(W, H, H, SPEC, candidates=(0.0, 1e-1)) == 1e-1


def test_when_none_works_the_error_names_all_of_them() -> None:
    with pytest.raises(SolverError, match="no damping of 0, 1e-30 works") as caught:
        choose_damping(weights(), moments(5, 0), moments(5, 1), SPEC, candidates=(0.0, 1e-30))
    assert "not positive definite" in str(caught.value)
    with pytest.raises(SolverError, match="no damping of none"):
        choose_damping(weights(), moments(5, 0), moments(5, 1), SPEC, candidates=())


def test_of_equals_the_first_wins() -> None:
    W, H = weights(), moments(50, 0)
    assert choose_damping(W, H, H, Spec(), candidates=(0.3, 0.1)) == 0.3


def test_another_solver_can_be_named() -> None:
    assert choose_damping(weights(), moments(50, 0), moments(50, 1), SPEC, "admm") in CANDIDATES
    with pytest.raises(InputError, match="no solver 'adm'"):
        choose_damping(weights(), moments(50, 0), moments(50, 1), SPEC, "adm")


def test_held_out_moments_of_another_shape_are_refused() -> None:
    with pytest.raises(SolverError, match="not of the shape"):
        choose_damping(weights(), moments(50, 0), moments(50, 1, cols=12), SPEC)


def test_nothing_is_modified() -> None:
    given = [weights(), moments(50, 0), moments(50, 1)]
    before = [x.clone() for x in given]
    choose_damping(given[0], given[1], given[2], SPEC)
    assert all(torch.equal(a, b) for a, b in zip(before, given, strict=True))
