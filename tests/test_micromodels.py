"""What is timed for a unit: the block that holds it or the stretch of a chain, at the right widths, alike once."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from families import SMALL, build, units_of
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from taco.search.micromodels import WIDTHS, Holder, Unheld, find_holders, widths_of
from taco.units import Unit, find_units

EFFICIENTNET, RESNET, VIT, _ = SMALL


def held(family_index: int) -> dict[str, Holder]:
    family = SMALL[family_index]
    found = find_holders(build(family), units_of(family), family.input_size)
    assert not [holder for holder in found.values() if isinstance(holder, Unheld)]
    return {name: holder for name, holder in found.items() if isinstance(holder, Holder)}


@pytest.mark.parametrize("index", range(len(SMALL)), ids=lambda i: SMALL[i].label)
def test_every_unit_has_a_holder_that_runs_alone_and_shrinks(index: int) -> None:
    family = SMALL[index]
    model, units = build(family), {u.name: u for u in units_of(family).unit_by_unit}
    holders = held(index)
    assert set(holders) == set(units)
    for name in (next(iter(units)), list(units)[-1]):
        unit, holder = units[name], holders[name]
        narrow = holder.at(model, unit, unit.multiple)
        x = torch.zeros(1, *holder.reads)
        with torch.no_grad():
            assert narrow(x).shape == holder.of(model)(x).shape
        small, whole = (sum(p.numel() for p in m.parameters()) for m in (narrow, holder.of(model)))
        assert whole - small == unit.parameters * (unit.width - unit.multiple)


def test_the_holder_is_the_residual_block_where_there_is_one() -> None:
    assert {name: h.name for name, h in held(2).items() if name.startswith("blocks.1.")} == {
        "blocks.1.attn.heads": "blocks.1",
        "blocks.1.attn.head_width": "blocks.1",
        "blocks.1.mlp.fc2": "blocks.1",
    }
    assert held(0)["blocks.3.0.conv_pwl"].name == "blocks.3.0"
    assert held(2)["blocks.1.mlp.fc2"].reads == (101, 64)


def test_blocks_that_are_alike_share_a_signature_and_others_do_not() -> None:
    holders = held(2)
    assert holders["blocks.0.mlp.fc2"].signature == holders["blocks.1.mlp.fc2"].signature
    assert holders["blocks.0.mlp.fc2"].signature != holders["blocks.0.attn.heads"].signature
    assert len({h.signature for h in held(0).values()}) == 4


class Chain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 12, 3, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(12, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.head(self.features(x).mean((2, 3)))
        return result


def test_of_a_chain_only_the_stretch_is_timed() -> None:
    model = Chain().eval()
    holders = find_holders(model, find_units(model, (3, 16, 16)), (3, 16, 16))
    assert isinstance(holder := holders["features.5"], Holder)
    assert (holder.name, holder.children, holder.reads) == ("features", ("2", "3", "4", "5"), (8, 16, 16))


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Conv2d(3, 8, 1), Pair(), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.head(self.block(self.block(self.stem(x))).mean((2, 3)))
        return result


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(8, 16, 1), nn.Conv2d(16, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.second(self.first(x).relu())
        return result


def test_a_block_that_runs_twice_is_left_out_and_says_why() -> None:
    model = Twice().eval()
    found = find_units(model, (3, 8, 8))
    if not found.within_blocks:
        pytest.skip("torch-pruning names no unit here")
    holders = find_holders(model, found, (3, 8, 8))
    assert {holder.reason for holder in holders.values() if isinstance(holder, Unheld)} == {
        "block runs 2 times a picture"
    }


def unit(width: int, multiple: int = 1) -> Unit:
    return dataclasses.replace(units_of(EFFICIENTNET).within_blocks[0], width=width, multiple=multiple)


@given(st.integers(1, 2000), st.sampled_from([1, 4, 8, 16, 32]))
def test_widths_fall_from_dense_to_one_step(width: int, step: int) -> None:
    widths = widths_of(unit(width), step)
    assert widths[0] == width
    assert list(widths) == sorted(set(widths), reverse=True)
    assert len(widths) <= WIDTHS
    assert all(w % step == 0 for w in widths[1:])
    if step < width:
        assert widths[-1] == step
    if width <= WIDTHS * step:
        assert len(widths) == -(-width // step), "few enough are all timed"


def test_widths_of_a_wide_unit() -> None:
    assert widths_of(unit(96), 16) == (96, 80, 64, 48, 32, 16)
    assert widths_of(unit(1152), 16) == (1152, 1136, 944, 768, 576, 384, 208, 16)
