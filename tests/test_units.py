"""Finding inner widths in timm families: what is found is complete and consistent, the rest is named with a reason."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from families import CUT, UNCUT, Family, build, group_of, pictures, units_of
from timm.layers import GroupNormAct, Mlp, StdConv2d
from timm.models._efficientnet_blocks import InvertedResidual
from timm.models.resnet import BasicBlock
from torch import nn

from taco.units import DenseBlock, Member, Unit, find_units


@pytest.mark.parametrize("family", [*CUT, *UNCUT], ids=str)
def test_families_have_the_expected_widths(family: Family) -> None:
    found = units_of(family)
    assert len(found.units) == family.units
    assert {unit.kind for unit in found.units} == family.kinds
    assert len(found.dense) == family.dense


@pytest.mark.parametrize("family", CUT, ids=str)
def test_every_member_has_the_width_of_its_unit(family: Family) -> None:
    model = build(family)
    names = [unit.name for unit in units_of(family).units]
    assert len(set(names)) == len(names)
    for unit in units_of(family).units:
        assert group_of(model, unit) * unit.width == model.get_submodule(unit.consumer).weight[0].numel()
        assert unit.members[0].role == "out"
        for member in unit.members:
            tensor = next(iter([*model.get_submodule(member.module).parameters(recurse=False)]), None)
            tensor = next(model.get_submodule(member.module).buffers(recurse=False)) if tensor is None else tensor
            assert tensor.shape[1 if member.role == "in" else 0] == unit.width, member


@pytest.mark.parametrize("family", CUT, ids=str)
def test_units_come_in_the_order_in_which_the_model_runs_them(family: Family) -> None:
    model, ran = build(family), []
    consumers = [unit.consumer for unit in units_of(family).units]
    handles = [
        model.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: ran.append(name))
        for name in consumers
    ]
    model(pictures(family, 1))
    for handle in handles:
        handle.remove()
    assert ran == consumers


@pytest.mark.parametrize("family", UNCUT, ids=str)
def test_what_stays_dense_is_named_with_a_reason(family: Family) -> None:
    for block in units_of(family).dense:
        build(family).get_submodule(block.name)
        assert "cannot be cut" in block.reason
    names = [block.name for block in units_of(family).dense]
    assert len(set(names)) == len(names)


def test_grouped_convolutions_say_how_many_groups() -> None:
    resnext = next(family for family in UNCUT if family.label == "resnext")
    assert units_of(resnext).dense[0] == DenseBlock(
        "layer1.0.conv2", "a convolution in 32 groups between two layers cannot be cut by channels yet"
    )


def test_a_bottleneck_has_two_widths_that_share_a_layer() -> None:
    family = next(family for family in CUT if family.label == "resnet50")
    first, second = units_of(family).units[:2]
    assert first == Unit(
        name="layer1.0.conv2",
        kind="bottleneck",
        width=8,
        members=(Member("layer1.0.conv1", "out"), Member("layer1.0.bn1", "channel")),
        consumer="layer1.0.conv2",
    )
    assert second.consumer == "layer1.0.conv3"
    assert second.members[0] == Member(first.consumer, "out")


def test_squeeze_and_excitation_shrinks_on_both_sides() -> None:
    family = next(family for family in CUT if family.label == "mobilenetv3")
    roles = {
        m.module.rpartition(".")[2]: m.role for u in units_of(family).units for m in u.members if ".se." in m.module
    }
    assert roles == {"conv_reduce": "in", "conv_expand": "out"}


class Shuffle(nn.Module):
    """No parameters, and still no stranger to the other channels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flip(-1)


@pytest.mark.parametrize(
    ("layer", "word"),
    [
        (nn.LayerNorm(16, elementwise_affine=False), "LayerNorm"),
        (nn.GroupNorm(4, 16, affine=False), "GroupNorm"),
        (Shuffle(), "Shuffle"),
        (nn.Softmax(-1), "Softmax"),
        (nn.Sequential(nn.GELU(), Shuffle()), "Sequential"),
        (nn.PReLU(16), "PReLU"),
    ],
    ids=["layer norm", "group norm", "shuffle", "softmax", "hidden in a sequence", "parameters a channel"],
)
def test_a_module_that_may_mix_channels_keeps_the_chain_dense(layer: nn.Module, word: str) -> None:
    block = Mlp(8, 16)
    block.norm = layer
    found = find_units(nn.Sequential(block))
    assert found.units == ()
    assert [(block.name, block.reason.split()[0]) for block in found.dense] == [("0.norm", word)]


@pytest.mark.parametrize(
    "layer",
    [nn.GELU(), nn.Hardswish(), nn.Sequential(nn.ReLU6(), nn.Dropout(0.1)), nn.PReLU(), nn.AvgPool1d(1), nn.Identity()],
    ids=lambda layer: type(layer).__name__,
)
def test_elementwise_modules_are_passed_through(layer: nn.Module) -> None:
    block = Mlp(8, 16)
    block.norm = layer
    assert [unit.width for unit in find_units(nn.Sequential(block)).units] == [16]


def test_layers_that_standardise_their_weights_are_left_alone() -> None:
    block = BasicBlock(8, 8)
    block.conv2 = StdConv2d(8, 8, 3, padding=1)
    found = find_units(nn.Sequential(block))
    assert found.units == ()
    assert [block.name for block in found.dense] == ["0.conv2"]


def test_a_subclass_of_a_known_block_may_run_otherwise_and_is_not_touched() -> None:
    class Reordered(InvertedResidual):
        pass

    assert find_units(nn.Sequential(Reordered(8, 8, exp_ratio=4))).units == ()


def test_group_normalisation_names_the_first_obstacle_only() -> None:
    block = InvertedResidual(8, 8, exp_ratio=4, norm_layer=partial(GroupNormAct, group_size=8))
    assert [found.name for found in find_units(nn.Sequential(block)).dense] == ["0.bn1"]


def test_a_model_without_known_blocks_has_no_units() -> None:
    found = find_units(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)))
    assert found.units == ()
    assert found.dense == ()


def test_finding_changes_nothing() -> None:
    model = build(CUT[0])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    first, second = find_units(model), find_units(model)
    assert first == second
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
