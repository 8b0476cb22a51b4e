"""ADMM: better supports than the baselines, exact weights on them, the same result whichever levels come along."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from taco.solvers import Spec, load_solver
from taco.solvers.problem import Problem
from taco.solvers.refit import refit_support

ADMM = load_solver("admm")


@dataclasses.dataclass(frozen=True, slots=True)
class Layer:
    """Inputs as after a ReLU of a low-rank mixture; columns of W of uneven scale."""

    name: str
    groups: int
    rows: int
    cols: int

    def make(self, seed: int = 0, n: int = 2000) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(self.groups, *shape, generator=generator)

        rank = max(1, self.cols // 3)
        X = normal(self.cols, rank) @ normal(rank, n) / rank**0.5 + 0.3 * normal(self.cols, n)
        X = X.add(0.1).relu()
        return normal(self.rows, self.cols) * normal(1, self.cols).mul(0.5).exp(), 2 * X @ X.transpose(1, 2) / n


LAYERS = (
    Layer("few columns", 1, 64, 16),
    Layer("many columns", 1, 16, 192),
    Layer("depthwise", 24, 1, 9),
    Layer("groups", 3, 8, 32),
)
SPECS = (Spec.unstructured(0.5), Spec.unstructured(0.8))
BLOCKED = (Spec.nm(2, 4), Spec.nm(1, 4, stride=2), Spec.block(4, 0.5))


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.sparsity:g}")
def test_its_loss_is_below_that_of_both_baselines(layer: Layer, spec: Spec) -> None:
    W, H = layer.make()
    ours = ADMM(W, H, spec).loss
    assert ours < load_solver("magnitude_refit")(W, H, spec).loss < load_solver("magnitude")(W, H, spec).loss


@pytest.mark.parametrize("spec", BLOCKED, ids=lambda spec: f"{spec.pattern} {spec.n}:{spec.size} {spec.stride}")
def test_blocked_patterns_gain_too(spec: Spec) -> None:
    W, H = Layer("", 2, 12, 48).make()
    assert ADMM(W, H, spec).loss < load_solver("magnitude_refit")(W, H, spec).loss


@pytest.mark.parametrize("sparsity", [0.5, 0.75])
@pytest.mark.parametrize("seed", range(2))
def test_columns_that_others_explain_to_very_different_shares_cost_no_more_than_by_exactobs(
    seed: int, sparsity: float
) -> None:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(1, *shape, generator=generator)

    own = torch.logspace(-1, 0, 64)[:, None]
    X = normal(64, 4) @ normal(4, 1000) / 2 + own * normal(64, 1000)
    W, H, spec = normal(32, 64), 2 * X @ X.transpose(1, 2) / 1000, Spec.unstructured(sparsity)
    assert ADMM(W, H, spec).loss < 1.05 * load_solver("exactobs")(W, H, spec).loss  # by one penalty for all: 1.2 to 1.4


def test_a_depthwise_layer_is_solved_weight_by_weight() -> None:
    W, H = LAYERS[2].make()
    specs = [SPECS[1], Spec.nm(2, 3), Spec.block(3, 0.5), SPECS[0]]
    ours = ADMM.levels(W, H, specs)
    for i in (0, 2, 3):
        assert torch.equal(ours[i].weight, load_solver("exactobs")(W, H, specs[i]).weight)
    assert torch.equal(ours[1].mask, ADMM(W, H, specs[1]).mask)
    assert torch.equal(ours[1].mask.sum(2), torch.full((24, 1), 6))


def test_a_row_by_itself_gets_the_nm_pattern_that_it_gets_in_its_layer() -> None:
    W, H = LAYERS[0].make()
    together = ADMM(W[:, :8], H, Spec.nm(2, 4)).mask
    assert torch.equal(together, torch.cat([ADMM(W[:, i : i + 1], H, Spec.nm(2, 4)).mask for i in range(8)], 1))


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def test_the_weights_are_the_optimum_of_its_mask(layer: Layer) -> None:
    W, H = layer.make()
    solution = ADMM(W.double(), H.double(), SPECS[1])
    problem = Problem.of(W, H, 1e-2)
    assert solution.loss == pytest.approx(problem.loss(refit_support(problem, solution.mask)), rel=1e-9)


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def test_a_level_does_not_depend_on_which_others_are_asked_for(layer: Layer) -> None:
    W, H = layer.make()
    specs = [Spec.unstructured(s) for s in (0.3, 0.5, 0.7, 0.9, 0.97)]
    for spec, together in zip(specs, ADMM.levels(W, H, specs), strict=True):
        alone = ADMM(W, H, spec)
        # float32 products of other shapes round differently, which may turn near ties
        assert (alone.mask == together.mask).float().mean() > 0.995
        assert alone.loss == pytest.approx(together.loss, rel=5e-3)


def test_the_same_call_gives_the_same_bits() -> None:
    W, H = LAYERS[1].make()
    first, second = ADMM(W, H, SPECS[0]), ADMM(W, H, SPECS[0])
    assert torch.equal(first.weight, second.weight)


def test_uncorrelated_inputs_keep_what_weighs_most_and_change_nothing() -> None:
    W = LAYERS[0].make()[0]
    scale = torch.linspace(0.1, 3.0, W.shape[2])
    solution = ADMM(W, torch.diag(scale)[None], SPECS[0], damping=0.0)
    score = (W.square() * scale).flatten()
    assert torch.equal(solution.mask, (W.square() * scale) >= score.sort(descending=True).values[len(score) // 2 - 1])
    assert torch.allclose(solution.weight, W * solution.mask, atol=1e-6)


def test_scaling_inputs_and_weights_against_each_other_changes_nothing() -> None:
    W, H = (x.double() for x in LAYERS[1].make())
    by = torch.logspace(-1, 1, W.shape[2], dtype=torch.float64)
    plain = ADMM(W, H, SPECS[0], damping=0.0)
    scaled = ADMM(W / by, H * by[:, None] * by, SPECS[0], damping=0.0)
    assert (plain.mask == scaled.mask).float().mean() > 0.995
    assert scaled.loss == pytest.approx(plain.loss, rel=5e-3)


def test_many_levels_of_a_large_layer_are_solved_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    W, H = LAYERS[0].make()
    together = ADMM.levels(W, H, SPECS)
    monkeypatch.setattr("taco.solvers.admm._STATE_BYTES", 1)
    for a, b in zip(together, ADMM.levels(W, H, SPECS), strict=True):
        assert a.loss == pytest.approx(b.loss, rel=5e-3)


def test_a_layer_without_any_input_is_solved() -> None:
    W = LAYERS[0].make()[0]
    solution = ADMM(W, torch.zeros(1, 16, 16), SPECS[0])
    assert solution.loss == 0
    assert int((~solution.mask).sum()) == SPECS[0].removed(*W.shape)


@pytest.mark.slow
def test_a_layer_of_4608_columns_is_solved_and_within_the_residual_of_the_optimum() -> None:
    layer = Layer("ResNet-50's widest", 1, 16, 4608)
    W, H = layer.make(n=600)
    solution, baseline = (
        ADMM(W, H, Spec.unstructured(0.5)),
        load_solver("magnitude_refit")(W, H, Spec.unstructured(0.5)),
    )
    assert solution.loss < baseline.loss
    problem = Problem.of(W, H, 1e-2)
    residual = ((problem.WH - solution.weight.double() @ problem.H) * solution.mask).norm(dim=2)
    assert (residual <= 2e-4 * (problem.WH * solution.mask).norm(dim=2)).all()
