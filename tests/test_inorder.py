"""Readers refitted in the model's order: nearer to the dense model on pictures, and nothing else touched."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator

import pytest
import timm
import torch
from torch import nn

from taco.allocate import uniform
from taco.compress import calibrate_units, solve_units, stitch
from taco.inorder import narrowed_readers, refit_in_order
from taco.sequential import SequentialOptions
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
    readers = narrowed_readers(cut.dense, cut.smaller)
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


def test_the_groups_in_which_layers_are_refitted_are_told(cut: Cut) -> None:
    told: list[int] = []
    refit_in_order(cut.dense, cut.smaller, cut.batches, SequentialOptions(groups=2, progress=told.append))
    assert sum(told) == len(told) >= 2
