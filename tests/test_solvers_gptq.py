"""Grids, and rounding with error feedback against plain rounding and against a loop over all columns."""

from __future__ import annotations

import pytest
import torch

from taco.errors import SolverError
from taco.solvers import Quantization, Spec, load_solver
from taco.solvers.feedback import quantize, settle_columns
from taco.solvers.grid import grid_of
from taco.solvers.problem import Problem
from taco.testing.layers import Layer

SOLVER = load_solver("gptq")


@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("per_channel", [True, False])
def test_feedback_is_better_than_plain_rounding_on_average(bits: int, symmetric: bool, per_channel: bool) -> None:
    ours = plain = 0.0
    for seed in range(5):
        W, H = Layer(groups=2, rows=6, blocks=12, samples=100, seed=seed).make()
        problem = Problem.of(W, H, 1e-2)
        ours += SOLVER(W, H, Spec.quantize(bits, symmetric, per_channel)).loss
        plain += problem.loss(grid_of(W, Quantization(bits, symmetric, per_channel)).nearest(W))
    assert ours < 0.8 * plain


def test_chunks_change_nothing() -> None:
    W, H = Layer(groups=3, rows=4, blocks=20, samples=100, seed=1).make()
    problem = Problem.of(W, H, 1e-2)
    grid = grid_of(problem.W, Quantization(4))

    def value(free: torch.Tensor, j: int) -> torch.Tensor:
        return grid.nearest(free[:, :, j : j + 1])[:, :, 0]

    at_once = settle_columns(problem.W, problem.upper, value, chunk=80)
    for chunk in (1, 7, 64):
        torch.testing.assert_close(settle_columns(problem.W, problem.upper, value, chunk), at_once)


def test_each_error_is_made_up_for_as_least_squares_would() -> None:
    W, H = Layer(rows=2, blocks=3, samples=50, seed=2).make()
    problem = Problem.of(W, H, 1e-2)
    seen = []

    def value(free: torch.Tensor, j: int) -> torch.Tensor:
        seen.append(free.clone())
        return free[:, :, j].round()

    settled = settle_columns(problem.W, problem.upper, value)
    S, F = torch.arange(6, 12), torch.arange(6)
    A, D = problem.H[0], (problem.W - settled)[0]
    best = problem.W[0][:, S] + torch.linalg.solve(A[S][:, S], A[S][:, F] @ D[:, F].T).T
    torch.testing.assert_close(seen[6][0][:, S], best)


@pytest.mark.parametrize("pattern", [Spec.nm(2, 4, 3), Spec.unstructured(0.5), Spec.channels(10, 3)], ids=str)
def test_masked_weights_are_made_up_for_too(pattern: Spec) -> None:
    name = "channels" if pattern.pattern == "channels" else "magnitude_refit"
    ours = plain = 0.0
    for seed in range(4):
        W, H = Layer(groups=2, rows=6, stride=3, blocks=5, samples=100, seed=seed).make()
        spec, how = pattern.then(Spec.quantize(3)), Quantization(3)
        sparse, both = load_solver(name).levels(W, H, [pattern, spec])
        assert torch.equal(both.mask, sparse.mask)
        assert (both.weight[~both.mask] == 0).all()
        ours += both.loss
        plain += Problem.of(W, H, 1e-2).loss(grid_of(sparse.weight, how).nearest(sparse.weight))
    assert ours < plain


def test_eight_bits_after_a_pattern_cost_next_to_nothing() -> None:
    W, H = Layer(rows=8, blocks=8, samples=100, seed=3).make()
    sparse, both = load_solver("admm").levels(W, H, [Spec.nm(2, 4), Spec.nm(2, 4).then(Spec.quantize(8))])
    assert sparse.loss < both.loss < 1.01 * sparse.loss


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("bits", [2, 5, 8, 16])
@pytest.mark.parametrize("symmetric", [True, False])
def test_the_integers_can_be_had_back(dtype: torch.dtype, bits: int, symmetric: bool) -> None:
    W, H = Layer(groups=2, rows=3, blocks=4, dead=(2,), seed=4, dtype=dtype).make()
    solution = SOLVER(W, H, Spec.quantize(bits, symmetric))
    grid = solution.grid
    assert grid is not None
    integers = grid.integers(solution.weight.double())
    assert float(integers.min()) >= grid.low
    assert float(integers.max()) <= grid.high
    rebuilt = ((integers - grid.zero) * grid.scale).to(dtype)
    assert torch.equal(rebuilt, solution.weight)


def test_a_grid_clips_few_large_weights_when_bits_are_few() -> None:
    W = torch.cat([torch.linspace(-1, 1, 99), torch.tensor([3.0])])[None, None]
    grid = grid_of(W, Quantization(3))
    assert float(grid.scale) * grid.high < 2.5
    assert float(grid_of(W, Quantization(8)).scale) * 127 == pytest.approx(3.0)


def test_a_layer_of_zeros_has_a_grid() -> None:
    solution = SOLVER(torch.zeros(1, 2, 4), torch.eye(4)[None], Spec.quantize(4, symmetric=False))
    assert (solution.weight == 0).all()
    assert solution.loss == 0


def test_a_pattern_is_not_its_own() -> None:
    with pytest.raises(SolverError, match="gptq makes no nm pattern"):
        SOLVER(torch.ones(1, 2, 4), torch.eye(4)[None], Spec.nm(2, 4))


def test_a_factor_that_fails_names_a_damping() -> None:
    problem = Problem.of(torch.ones(1, 1, 6), torch.ones(1, 6, 6), 0.0)
    with pytest.raises(SolverError, match="not positive definite at damping 0"):
        quantize(problem, problem.W, torch.ones(1, 1, 6, dtype=torch.bool), Quantization(4))
