"""Readers refitted in the model's order: nearer to the dense model on pictures, and nothing else touched."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator

import pytest
import timm
import torch
from families import SMALL, Family, build, pictures, solved, units_of
from torch import nn

from taco.allocate import uniform
from taco.compress import calibrate_units, droppable, kept_rows, solve_units, stitch
from taco.sparse.sequential import SequentialOptions
from taco.surgery.inorder import InOrder, refit_in_order
from taco.units import find_units, steps_of

SIZE = (3, 64, 64)


@dataclasses.dataclass(frozen=True)
class Cut:
    """A dense model, what stitching left of it, and pictures."""

    dense: nn.Module
    smaller: nn.Module
    pictures: torch.Tensor

    def batches(self) -> Iterator[torch.Tensor]:
        return iter(self.pictures.split(8))

    def error(self, model: nn.Module) -> float:
        """Mean squared difference of the features before the head."""
        with torch.no_grad():
            wanted, got = (m.forward_features(self.pictures) for m in (self.dense, model))  # type: ignore[operator]
        return float((wanted - got).square().mean())


@pytest.fixture(scope="module")
def cut() -> Cut:
    torch.manual_seed(0)
    dense = timm.create_model("test_efficientnet", num_classes=4).eval()
    pictures = torch.randn(16, *SIZE)
    units = find_units(dense, SIZE).within_blocks
    solutions = solve_units(dense, units, calibrate_units(dense, units, [pictures]))
    widths = uniform({u.name: u.width for u in units}, 0.5, steps_of(units, 1)).widths
    return Cut(dense, stitch(dense, solutions, widths), pictures)


def test_it_comes_nearer_to_the_dense_model_and_touches_nothing_else(cut: Cut) -> None:
    before = copy.deepcopy(cut.smaller.state_dict())
    refitted = refit_in_order(cut.dense, cut.smaller, cut.batches, SequentialOptions())
    assert cut.error(refitted) < 0.9 * cut.error(cut.smaller)
    readers = InOrder(cut.dense, cut.batches).layers(cut.smaller)
    assert readers
    for name, tensor in refitted.state_dict().items():
        changed = name.rpartition(".")[0] in readers
        assert changed != torch.equal(tensor, before[name]), name
    assert all(torch.equal(tensor, cut.smaller.state_dict()[name]) for name, tensor in before.items())


def test_a_model_that_was_not_cut_stays_as_it_is(cut: Cut) -> None:
    same = refit_in_order(cut.dense, cut.dense, cut.batches, SequentialOptions())
    assert all(
        torch.equal(a, b) for a, b in zip(same.state_dict().values(), cut.dense.state_dict().values(), strict=True)
    )


def test_the_layers_that_have_been_refitted_are_told(cut: Cut) -> None:
    told: list[int] = []
    refit_in_order(cut.dense, cut.smaller, cut.batches, SequentialOptions(groups=2, progress=told.append))
    assert len(told) >= 2
    assert sum(told) == len(InOrder(cut.dense, cut.batches).layers(cut.smaller))


def test_layers_that_lost_outputs_too_are_refitted_towards_those_that_are_left() -> None:
    family = SMALL[1]
    dense, x = build(family), pictures(family, 16)
    solutions = solved(dense, units_of(family).within_blocks, [x])
    widths = {name: s.unit.width // 2 for name, s in solutions.items()}
    case = Cut(dense, stitch(dense, solutions, widths), x)
    rows = kept_rows(dense, solutions, widths)
    named, without_rows = (set(InOrder(dense, case.batches, rows=r).layers(case.smaller)) for r in (rows, {}))
    middle = named - without_rows
    assert middle
    assert without_rows < named
    assert all(len(rows[name]) == case.smaller.get_submodule(name).out_channels for name in middle)
    without, refitted = (refit_in_order(dense, case.smaller, case.batches, SequentialOptions(), r) for r in ({}, rows))
    assert case.error(refitted) < 0.9 * case.error(case.smaller)
    for name in middle:
        weights = [m.get_submodule(name).get_parameter("weight") for m in (case.smaller, without, refitted)]
        assert torch.equal(weights[0], weights[1])
        assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize("family", SMALL[2:], ids=str)
def test_the_reader_behind_a_block_that_was_left_out_makes_up_for_it(family: Family) -> None:
    dense, x = build(family), pictures(family, 8)
    blocks = units_of(family).of("block")[1:3]
    case = Cut(dense, stitch(dense, {u.name: droppable(u) for u in blocks}, {u.name: 0 for u in blocks}), x)
    how = InOrder(dense, case.batches)
    (reader,) = how.layers(case.smaller)
    assert reader.rpartition(".")[0] > blocks[1].name, "two neighbours that went have one reader behind them"
    refitted = how.refit(case.smaller, [reader])
    assert refitted.get_submodule(reader).get_parameter("bias") is not None
    wanted, before, after = (outputs_of(m, reader, x) for m in (dense, case.smaller, refitted))
    assert (after - wanted).square().mean() < 0.9 * (before - wanted).square().mean()


def outputs_of(model: nn.Module, layer: str, x: torch.Tensor) -> torch.Tensor:
    seen: list[torch.Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda _m, _i, output: seen.append(output.clone()))
    with torch.no_grad():
        model(x)
    handle.remove()
    return seen[0]


def test_queries_that_were_mixed_anew_have_no_target() -> None:
    family = SMALL[2]
    dense, x = build(family), pictures(family, 4)
    units = [*units_of(family).of("head width")[1:2], *units_of(family).of("stream")]
    solutions = solved(dense, units, [x])
    for chosen, expected in ((units, False), (units[1:], True)):
        widths = {u.name: u.width // 2 for u in chosen}
        smaller = stitch(dense, solutions, widths)
        names = InOrder(dense, lambda: iter([x]), rows=kept_rows(dense, solutions, widths)).layers(smaller)
        assert ("blocks.1.attn.qkv" in names) is expected
