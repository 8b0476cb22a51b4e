"""ExactOBS against a plain loop over rows, and its masks from traces."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import pytest
import torch

from taco.errors import SolverError
from taco.solvers import Spec, load_solver
from taco.solvers.exactobs import trace
from taco.solvers.problem import Problem
from taco.testing.layers import Layer

SOLVER = load_solver("exactobs")


def plain(w: torch.Tensor, H: torch.Tensor, size: int) -> tuple[list[int], list[float]]:
    """One row, unit by unit, each time with a fresh inverse of what is left and fresh least squares."""
    left, order, costs, before = list(range(len(w) // size)), [], [], 0.0
    while left:
        losses = {}
        for unit in left:
            S = torch.tensor([u * size + i for u in left if u != unit for i in range(size)], dtype=torch.int64)
            d = w.clone()
            if len(S):
                d[S] -= torch.linalg.solve(H[S][:, S], (H @ w)[S])
            losses[unit] = 0.5 * float(d @ H @ d)
        best = min(losses, key=losses.__getitem__)
        left.remove(best)
        order.append(best)
        costs.append(losses[best] - before)
        before = losses[best]
    return order, costs


@pytest.mark.parametrize(("spec", "size"), [(Spec.unstructured(0.5), 1), (Spec.block(4, 0.5), 4)], ids=["1", "block"])
def test_every_row_leaves_in_the_order_of_a_plain_loop(spec: Spec, size: int) -> None:
    W, H = Layer(groups=2, rows=2, blocks=10, samples=60, seed=3).make()
    problem = Problem.of(W, H, 1e-2)
    found = trace(problem, spec)
    for line in range(4):
        order, costs = plain(problem.W.flatten(0, 1)[line], problem.H[line // 2], size)
        assert found.order[line].tolist() == order
        torch.testing.assert_close(found.cost[line], torch.tensor(costs, dtype=torch.float64), rtol=1e-6, atol=1e-9)


def test_rows_longer_than_a_lazy_step_lose_nothing_by_it() -> None:
    W, H = Layer(rows=2, blocks=25, samples=300, seed=4).make()
    problem = Problem.of(W, H, 1e-2)
    found = trace(problem, Spec.unstructured(0.5))
    assert torch.equal(found.order.sort(1).values, torch.arange(100).expand(2, -1))
    total = 0.5 * torch.einsum("rc,cd,rd->r", problem.W[0], problem.H[0], problem.W[0])
    torch.testing.assert_close(found.cost.sum(1), total, rtol=1e-9, atol=0)  # telescopes to losing everything


def test_more_sparsity_only_removes_more() -> None:
    W, H = Layer(groups=3, rows=4, blocks=6, samples=30, seed=5).make()
    solutions = SOLVER.levels(W, H, [Spec.unstructured(s) for s in (0.2, 0.5, 0.8, 0.97)])
    for light, heavy in pairwise(solutions):
        assert not (heavy.mask & ~light.mask).any()
        assert light.loss <= heavy.loss


def test_the_layer_loses_where_it_costs_least() -> None:
    W, H = Layer(rows=2, blocks=8, samples=200, seed=6).make()
    W[:, 1] *= 1e5
    mask = SOLVER(W, H, Spec.unstructured(0.5)).mask[0]
    assert int(mask[0].sum()) == 0
    assert mask[1].all()


def test_depthwise_layers_are_one_batch_with_the_answer_of_each_alone() -> None:
    W, H = Layer(groups=200, rows=1, stride=1, blocks=2, samples=50, seed=7).make()
    whole = SOLVER(W, H, Spec.nm(2, 4))
    for g in (0, 77, 199):
        alone = SOLVER(W[g : g + 1], H[g : g + 1], Spec.nm(2, 4))
        torch.testing.assert_close(whole.weight[g : g + 1], alone.weight)


def test_it_is_better_than_refitted_magnitude_where_inputs_depend_on_each_other() -> None:
    W, H = Layer(rows=8, blocks=16, samples=100, seed=8).make()
    for spec in (Spec.unstructured(0.7), Spec.nm(2, 4), Spec.block(4, 0.5)):
        assert SOLVER(W, H, spec).loss < load_solver("magnitude_refit")(W, H, spec).loss


def test_too_large_a_layer_is_refused_with_an_estimate() -> None:
    small = Problem.of(torch.ones(1, 1, 2), torch.eye(2)[None], 1e-2)
    large = dataclasses.replace(small, W=torch.empty(1, 512, 4608, device="meta"))
    with pytest.raises(SolverError, match=r"about [\d,]+ minutes and [\d.]+ GiB for 1 x 512 rows of 4608") as caught:
        next(iter(SOLVER.solve(large, [Spec.unstructured(0.5)])))  # type: ignore[attr-defined]
    assert "admm" in caught.value.todo
