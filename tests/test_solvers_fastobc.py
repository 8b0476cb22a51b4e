"""FastOBC: exact counts whatever the chunks, and better than the masks that it replaces."""

from __future__ import annotations

import pytest
import torch

from taco.solvers import Spec, load_solver
from taco.testing.layers import Layer

SOLVER = load_solver("fastobc")
DEEP = Layer(rows=16, blocks=16, samples=200, seed=1)


@pytest.mark.parametrize("spec", [Spec.unstructured(0.6), Spec.nm(2, 4), Spec.block(4, 0.5)], ids=str)
def test_it_beats_refitted_magnitude_on_average(spec: Spec) -> None:
    ours, theirs = 0.0, 0.0
    for seed in range(6):
        W, H = Layer(rows=16, blocks=16, samples=200, seed=seed).make()
        ours += SOLVER(W, H, spec).loss
        theirs += load_solver("magnitude_refit")(W, H, spec).loss
    assert ours < 0.97 * theirs


def test_it_stays_near_exact_obs() -> None:
    W, H = DEEP.make()
    spec = Spec.unstructured(0.5)
    assert SOLVER(W, H, spec).loss < 1.3 * load_solver("exactobs")(W, H, spec).loss


@pytest.mark.parametrize("sparsity", [0.001, 0.01, 0.333, 0.9, 0.999])
@pytest.mark.parametrize("blocks", [1, 7, 60])
def test_the_count_is_exact_over_groups_and_odd_chunks(sparsity: float, blocks: int) -> None:
    W, H = Layer(groups=3, rows=5, blocks=blocks, seed=2).make()
    mask = SOLVER(W, H, Spec.unstructured(sparsity)).mask
    assert int((~mask).sum()) == round(sparsity * mask.numel())


def test_no_group_and_no_column_has_a_fixed_share() -> None:
    W, H = Layer(groups=2, rows=8, blocks=8, seed=3).make()
    W[0] *= 10
    mask = SOLVER(W, H, Spec.unstructured(0.5)).mask
    assert int(mask[0].sum()) > 0.8 * mask[0].numel()


def test_an_order_of_columns_is_undone() -> None:
    W, H = Layer(rows=4, blocks=4, samples=400, seed=4).make()
    W[:, :, 5] = 1e-6
    mask = SOLVER(W, H, Spec.unstructured(1 / 16)).mask
    assert mask.sum(1).tolist()[0] == [4, 4, 4, 4, 4, 0, *[4] * 10]


def test_a_wide_layer_needs_no_inverse_for_each_row() -> None:
    W, H = Layer(rows=64, stride=9, blocks=24, samples=100, dtype=torch.float32).make()  # 864 columns
    solution = SOLVER(W, H, Spec.nm(2, 4, 9))
    assert (solution.mask.reshape(1, 64, -1, 4, 9).sum(3) == 2).all()
    assert solution.loss < load_solver("magnitude")(W, H, Spec.nm(2, 4, 9)).loss
