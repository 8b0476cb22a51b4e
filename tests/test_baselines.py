"""Baselines for the order of removal: their scores by hand, and that second order beats them."""

from __future__ import annotations

import pytest
import torch
from families import CUT, SMALL, Family, build, pictures, units_of
from masking import difference
from torch import nn

from taco.compress import calibrate_units, solve_units, stitch
from taco.errors import SolverError
from taco.surgery.baselines import Elements, baseline_solutions, chance, channel_scores, squares, taylor
from taco.units import find_units


class Two(nn.Module):
    """Two layers with weights a person can sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 2, 1)
        self.block = nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU(), nn.Conv2d(3, 2, 1, bias=False))
        self.head = nn.Conv2d(2, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.block(self.stem(x))).mean((2, 3))  # type: ignore[no-any-return]


def two() -> Two:
    model = Two().eval()
    with torch.no_grad():
        model.block[0].weight.copy_(torch.tensor([[1.0, 2], [3, 4], [0, 1]])[:, :, None, None])  # type: ignore[operator,union-attr]
        model.block[0].bias.copy_(torch.tensor([1.0, 0, 2]))  # type: ignore[operator,union-attr]
        model.block[2].weight.copy_(torch.tensor([[1.0, 0, 1], [2, 1, 0]])[:, :, None, None])  # type: ignore[operator,union-attr]
    return model


def test_sizes_of_weights_by_hand() -> None:
    model = two()
    (unit,) = find_units(model, (3, 4, 4)).of("inner")
    # rows: 1+4, 9+16, 0+1; biases: 1, 0, 4; columns: 1+4, 0+1, 1+0
    assert channel_scores(model, unit, squares(model)).tolist() == [[5 + 1 + 5, 25 + 0 + 1, 1 + 4 + 1]]


def test_taylor_is_the_weight_times_its_gradient() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -2], [3, 0]]))
    x, label = torch.tensor([[1.0, 1]]), torch.tensor([0])
    p = torch.softmax(torch.tensor([-1.0, 3]), 0)
    expected = torch.stack([(p[0] - 1) * torch.tensor([1.0, -2]), p[1] * torch.tensor([3.0, 0])]).abs()
    found = taylor(model, [(x, label), (x, label)])
    torch.testing.assert_close(found["0.weight"], expected.double(), rtol=1e-5, atol=1e-6)
    assert model[0].weight.grad is None


def test_chance_is_seeded() -> None:
    model = two()
    assert all(torch.equal(a, b) for a, b in zip(chance(model, 1).values(), chance(model, 1).values(), strict=True))
    assert not torch.equal(chance(model, 1)["stem.weight"], chance(model, 2)["stem.weight"])


def figures(model: nn.Module, x: torch.Tensor) -> dict[str, Elements]:
    labels = torch.arange(len(x)) % 5
    return {"l2": squares(model), "taylor": taylor(model, [(x, labels)]), "random": chance(model, 0)}


@pytest.mark.parametrize("family", [SMALL[0], SMALL[2], next(f for f in CUT if f.label == "regnet")], ids=str)
def test_second_order_loses_least_and_all_of_them_stitch(family: Family) -> None:
    model, x, fresh = build(family), pictures(family, 8), pictures(family, 4, seed=5)
    units = units_of(family).within_blocks[:6]
    moments = calibrate_units(model, units, [x])
    ours = solve_units(model, units, moments)
    half = {u.name: max(u.multiple, u.width // u.multiple // 2 * u.multiple) for u in units}
    with torch.no_grad():
        dense = model(fresh)
    for elements in figures(model, x).values():
        theirs = baseline_solutions(units, model, moments, elements)
        lost = [sum(float(s.order.loss[s.unit.width - half[n]]) for n, s in each.items()) for each in (ours, theirs)]
        assert lost[0] < lost[1]
        with torch.no_grad():
            assert difference(stitch(model, theirs, half)(fresh), dense) < 2


def test_the_width_of_heads_has_lanes_in_every_baseline() -> None:
    family = next(f for f in CUT if f.label == "vit")
    model, x = build(family), pictures(family, 2)
    unit = units_of(family).of("head width")[0]
    moments = calibrate_units(model, [unit], [x])
    for elements in figures(model, x).values():
        (solution,) = baseline_solutions([unit], model, moments, elements).values()
        assert solution.order.removed.shape == (6, 64)
        assert solution.order.removed.sort(1).values.equal(torch.arange(64).expand(6, 64))
    scores = channel_scores(model, unit, squares(model))
    qkv, proj = (model.get_submodule(f"blocks.0.attn.{name}") for name in ("qkv", "proj"))
    squared = qkv.weight.double().square().sum(1) + qkv.bias.double().square()  # type: ignore[operator,union-attr]
    assert float(scores[0, 5]) == pytest.approx(float(squared[5] + squared[192 + 5]))
    by_hand = squared[2 * 192 + 64 + 7] + proj.weight.double().square()[:, 64 + 7].sum()  # type: ignore[operator,union-attr]
    assert float(scores[3 + 1, 7]) == pytest.approx(float(by_hand))


def test_scores_that_are_not_finite_name_the_unit() -> None:
    model = two()
    (unit,) = find_units(model, (3, 4, 4)).of("inner")
    broken = {**squares(model), "block.0.bias": torch.full((3,), float("nan"))}
    with pytest.raises(SolverError, match=r"^block\.2: the scores are not finite"):
        baseline_solutions([unit], model, {}, broken)
