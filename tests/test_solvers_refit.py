"""The refit against least squares on the support, row by row, in float64."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from taco.errors import SolverError
from taco.solvers import refit
from taco.solvers.problem import Problem
from taco.solvers.refit import refit_support


@dataclasses.dataclass(frozen=True, slots=True)
class Layer:
    """A random layer whose inputs span `rank` directions; some inputs are dead, some rows whole or empty."""

    groups: int
    rows: int
    cols: int
    rank: int
    share: float
    dead: int
    seed: int
    scale: float = 1.0

    def make(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return W, H and a mask."""
        generator = torch.Generator().manual_seed(self.seed)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        X = normal(self.groups, self.cols, self.rank) @ normal(self.groups, self.rank, 2 * self.rank)
        X[:, : min(self.dead, self.cols - 1)] = 0
        W = normal(self.groups, self.rows, self.cols)
        mask = torch.rand(W.shape, generator=generator) < self.share
        mask[0, 0] = True
        mask[-1, -1] = False
        return W, self.scale * X @ X.transpose(1, 2) / self.rank, mask


layers = st.builds(
    Layer,
    groups=st.sampled_from([1, 1, 2, 5, 16]),
    rows=st.integers(1, 5),
    cols=st.integers(1, 40),
    rank=st.integers(1, 60),
    share=st.sampled_from([0.02, 0.3, 0.5, 0.7, 0.98]),
    dead=st.sampled_from([0, 0, 1, 3]),
    seed=st.integers(0, 2**31),
    scale=st.sampled_from([1e-8, 1.0, 1e8]),
)


def least_squares(problem: Problem, mask: torch.Tensor) -> torch.Tensor:
    """Minimise ||(v - w) C||, H = C C^T, over every row's kept columns with torch's own solver."""
    V = torch.zeros_like(problem.W)
    for g, C in enumerate(torch.linalg.cholesky(problem.H)):
        for r, kept in enumerate(mask[g]):
            if kept.any():
                V[g, r, kept] = torch.linalg.lstsq(C[kept].T, (problem.W[g, r] @ C)[:, None]).solution[:, 0]
    return V


def assert_optimal(V: torch.Tensor, problem: Problem, mask: torch.Tensor, tolerance: float = 1e-8) -> None:
    """Zero off the support, and on it the gradient vanishes beside W H."""
    assert (V[~mask] == 0).all()
    gradient = (((V - problem.W) @ problem.H) * mask).norm()
    assert gradient <= tolerance * problem.WH.norm()


@settings(max_examples=80)
@given(layers)
def test_it_is_the_least_squares_optimum_of_every_support(layer: Layer) -> None:
    W, H, mask = layer.make()
    problem = Problem.of(W, H, 1e-2)
    V = refit_support(problem, mask)
    expected = least_squares(problem, mask)
    assert (V[~mask] == 0).all()
    assert torch.allclose(V, expected, rtol=1e-7, atol=1e-7 * float(problem.W.abs().max()))


@settings(max_examples=25)
@given(layers)
def test_what_stays_whole_is_unchanged_and_what_goes_whole_is_zero(layer: Layer) -> None:
    W, H, mask = layer.make()
    problem = Problem.of(W, H, 1e-2)
    V = refit_support(problem, mask)
    assert torch.equal(V[mask.all(2)], problem.W[mask.all(2)])
    assert (V[~mask.any(2)] == 0).all()


@settings(max_examples=25)
@given(layers)
def test_no_other_weights_on_the_support_do_better(layer: Layer) -> None:
    W, H, mask = layer.make()
    problem = Problem.of(W, H, 1e-2)
    V = refit_support(problem, mask)
    noise = torch.randn(V.shape, generator=torch.Generator().manual_seed(layer.seed), dtype=V.dtype) * mask
    best = problem.loss(V)
    assert all(problem.loss(V + size * noise) >= best * (1 - 1e-9) for size in (1.0, 1e-2, 1e-4))


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("rank", [100, 1000])
def test_wide_systems_factored_in_float32_are_refined_to_float64(rank: int, share: float) -> None:
    W, H, mask = Layer(1, 6, 460, rank, share, dead=3, seed=5).make()
    problem = Problem.of(W, H, 1e-2)
    assert_optimal(refit_support(problem, mask), problem, mask, 1e-9)


def test_where_float32_cannot_factor_float64_does() -> None:
    W, H, mask = Layer(1, 4, 460, 100, 0.5, dead=0, seed=5).make()
    problem = Problem.of(W, H, 1e-9)
    kept = mask[0, 1].nonzero()[:, 0]
    factor, info = torch.linalg.cholesky_ex(problem.H[0][kept][:, kept].float())
    assert info > 0 or not torch.allclose(factor @ factor.T @ torch.cholesky_inverse(factor), torch.eye(len(kept)))
    assert_optimal(refit_support(problem, mask), problem, mask, 1e-8)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_conjugate_gradients_come_within_their_residual_of_the_optimum(groups: int, share: float) -> None:
    W, H, mask = Layer(groups, 6, 120, 40, share, dead=2, seed=3).make()
    problem = Problem.of(W, H, 1e-2)
    exact, iterated = refit_support(problem, mask), refit_support(problem, mask, widest=8)
    residual = ((problem.WH - iterated @ problem.H) * mask).norm(dim=2)
    assert (residual <= 1.01e-4 * (problem.WH * mask).norm(dim=2)).all()
    assert problem.loss(iterated) <= problem.loss(exact) * (1 + 1e-4)


def test_small_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    W, H, mask = Layer(3, 20, 30, 50, 0.4, dead=1, seed=1).make()
    problem = Problem.of(W, H, 1e-2)
    whole = refit_support(problem, mask)
    monkeypatch.setattr(refit, "_BATCH_BYTES", 1)
    assert torch.allclose(refit_support(problem, mask), whole, rtol=1e-10, atol=1e-12)


def test_a_singular_support_is_refused_with_a_damping_to_try() -> None:
    W, H, mask = Layer(1, 2, 20, 3, 0.5, dead=0, seed=0).make()
    mask[:] = torch.arange(20) < 10
    with pytest.raises(SolverError, match="not positive definite at damping 0") as caught:
        refit_support(Problem.of(W, H, 0.0), mask)
    assert "0.0001" in str(caught.value)


def test_the_problem_and_the_mask_are_not_modified() -> None:
    W, H, mask = Layer(1, 5, 220, 300, 0.5, dead=1, seed=2).make()
    problem = Problem.of(W, H, 1e-2)
    before = [problem.W.clone(), problem.H.clone(), mask.clone()]
    refit_support(problem, mask)
    assert all(torch.equal(a, b) for a, b in zip(before, (problem.W, problem.H, mask), strict=True))
