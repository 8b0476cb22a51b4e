"""Finding units in timm families: what is found is complete and consistent, the rest is named with a reason."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from families import CUT, SMALL, UNCUT, Family, build, pictures, units_of
from timm.layers import Attention, Mlp, StdConv2d
from timm.models._efficientnet_blocks import InvertedResidual
from timm.models.resnet import BasicBlock
from torch import nn

from taco.graph.coupling import Member
from taco.surgery.shrink import Axis
from taco.surgery.size import count_macs
from taco.units import DenseBlock, find_units


def family(label: str) -> Family:
    return next(f for f in (*CUT, *UNCUT) if f.label == label)


@pytest.mark.parametrize("family", [*CUT, *UNCUT], ids=str)
def test_families_have_the_expected_units(family: Family) -> None:
    found = units_of(family)
    assert tuple(sorted(Counter(unit.kind for unit in found.units).items())) == family.kinds
    assert len(found.dense) == family.dense
    assert len({unit.name for unit in found.units}) == len(found.units)


@pytest.mark.parametrize("family", CUT, ids=str)
def test_every_axis_has_room_for_its_unit(family: Family) -> None:
    model = build(family)
    for unit in units_of(family).units:
        assert unit.width % unit.multiple == 0
        for member in unit.members:
            size = Axis.of(member).size(model)
            assert member.offset + unit.width * member.repeat <= size, (unit.name, member)
            if unit.kind not in ("heads", "head width"):
                assert (member.offset, member.repeat, size) == (0, 1, unit.width), (unit.name, member)


@pytest.mark.parametrize("family", CUT, ids=str)
def test_units_come_in_the_order_in_which_the_model_runs_them(family: Family) -> None:
    model, ran = build(family), []
    readers = [unit.consumers[-1].module for unit in units_of(family).of("inner", "mlp", "squeeze")]
    handles = [
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: ran.append(name)) for name in readers
    ]
    model(pictures(family, 1))
    for handle in handles:
        handle.remove()
    assert ran == readers


@pytest.mark.parametrize("family", UNCUT, ids=str)
def test_what_stays_dense_is_named_with_a_reason(family: Family) -> None:
    for block in units_of(family).dense:
        build(family).get_submodule(block.name)
        assert len(block.reason.split()) > 3
    names = [block.name for block in units_of(family).dense]
    assert len(set(names)) == len(names)


def test_a_bottleneck_has_two_widths_that_share_a_layer() -> None:
    first, second = units_of(family("resnet50")).of("inner")[:2]
    assert first.name == "layer1.0.conv2"
    assert first.members == (
        Member("layer1.0.conv1", "out"),
        Member("layer1.0.bn1", "channel"),
        Member("layer1.0.conv2", "in"),
    )
    assert second.name == "layer1.0.conv3"
    assert second.producers == (Member("layer1.0.conv2", "out"),)


def test_squeeze_and_excitation_reads_and_writes_the_width_it_weighs() -> None:
    unit = units_of(family("mobilenetv3")).of("inner")[2]
    roles = {m.module.rpartition(".")[2]: m.role for m in unit.members if ".se." in m.module}
    assert roles == {"conv_reduce": "in", "conv_expand": "out"}
    assert len(unit.consumers) == 2


def test_a_stream_is_written_and_read_by_every_block_of_its_stage() -> None:
    unit = next(u for u in units_of(family("resnet18")).units if u.name == "stream:layer2.0.conv2")
    assert {m.module for m in unit.producers} == {"layer2.0.conv2", "layer2.0.downsample.0", "layer2.1.conv2"}
    assert {m.module for m in unit.consumers} == {"layer2.1.conv1", "layer3.0.conv1", "layer3.0.downsample.0"}


def test_a_vision_transformer_has_one_stream_with_its_tables() -> None:
    (unit,) = units_of(family("vit")).of("stream")
    assert {m.tensor for m in unit.members if m.tensor} == {"cls_token", "pos_embed"}
    assert {m.axis for m in unit.members if m.tensor} == {2}
    assert unit.consumers[-1].module == "head"


def test_heads_own_rows_of_queries_keys_and_values() -> None:
    heads = units_of(family("vit")).of("heads")[0]
    assert (heads.name, heads.width) == ("blocks.0.attn.heads", 3)
    assert heads.members == (
        *(Member("blocks.0.attn.qkv", "out", offset, 64) for offset in (0, 192, 384)),
        Member("blocks.0.attn.proj", "in", 0, 64),
    )
    width = units_of(family("vit")).of("head width")[0]
    assert (width.width, width.lanes) == (64, 6)
    assert width.calibrated == ("blocks.0.attn.proj", "blocks.0.attn.qkv")


def test_grouped_convolutions_lose_whole_groups() -> None:
    unit = units_of(family("regnet")).of("inner")[0]
    assert (unit.width, unit.multiple) == (24, 8)
    assert Member("s1.b1.conv2.conv", "channel") in unit.members


@pytest.mark.parametrize("label", ["efficientnet_lite0", "regnet", "vit", "convnextv2", "repvit"])
def test_parameters_and_macs_are_what_goes(label: str) -> None:
    """One step less of one unit is really cut out, and counted."""
    from families import random_orders

    from taco.compress import stitch

    chosen, model = family(label), build(family(label))
    for kind in dict(chosen.kinds):
        unit = units_of(chosen).of(kind)[-1]  # type: ignore[arg-type]
        smaller = stitch(model, random_orders([unit], 0), {unit.name: unit.width - unit.multiple}, compensate=False)
        gone = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in smaller.parameters())
        assert gone == unit.parameters * unit.multiple, unit.name
        macs = count_macs(model, chosen.input_size) - count_macs(smaller, chosen.input_size)
        assert macs == unit.macs * unit.multiple, unit.name


def test_spatial_sizes_are_those_of_the_last_reader() -> None:
    assert units_of(family("resnet18")).of("inner")[-1].spatial == (2, 2)
    assert units_of(family("vit")).of("mlp")[0].spatial == (17,)
    assert units_of(family("vit")).of("block")[0].spatial == ()


class Shuffle(nn.Module):
    """No parameters, and still no stranger to the other channels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flip(-1)


class Groups(nn.Module):
    """Exchanges channels between two groups, as ShuffleNet does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)


class Average(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(-1, keepdim=True)


class Tokens(nn.Module):
    """An MLP on a picture's columns as tokens."""

    def __init__(self, between: nn.Module) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 8)
        self.mlp = Mlp(8, 16)
        self.mlp.norm = between
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.embed(x.mean(1).transpose(1, 2))
        y = self.head(y + self.mlp(y)).mean(1)
        assert isinstance(y, torch.Tensor)
        return y


@pytest.mark.parametrize(
    ("between", "word"),
    [
        (nn.GroupNorm(3, 9), "GroupNorm"),
        (Shuffle(), "Flip"),
        (Groups(), "taken apart"),
        (Average(), "mean"),
        (nn.Softmax(-1), "Softmax"),
        (nn.Sequential(nn.GELU(), Shuffle()), "Flip"),
        (nn.PReLU(9), "Prelu|PReLU"),
    ],
    ids=["group norm", "shuffle", "groups", "average", "softmax", "in a sequence", "a parameter a channel"],
)
def test_what_may_mix_channels_keeps_them_dense(between: nn.Module, word: str) -> None:
    found = find_units(Tokens(between).eval(), (3, 8, 9))
    assert found.of("mlp") == ()
    (block,) = [block for block in found.dense if block.name == "mlp.fc1"]
    assert any(part in block.reason for part in word.split("|")), block.reason


@pytest.mark.parametrize(
    "between",
    [nn.GELU(), nn.Hardswish(), nn.Sequential(nn.ReLU6(), nn.Dropout(0.1)), nn.LayerNorm(16), nn.Identity(), nn.Mish()],
    ids=lambda layer: type(layer).__name__,
)
def test_channelwise_modules_are_passed_through(between: nn.Module) -> None:
    (unit,) = find_units(Tokens(between).eval(), (3, 8, 9)).of("mlp")
    assert (unit.name, unit.width, unit.spatial) == ("mlp.fc2", 16, (9,))


def test_layers_that_standardise_their_weights_are_left_alone() -> None:
    block = BasicBlock(3, 8, downsample=nn.Conv2d(3, 8, 1))
    block.conv2 = StdConv2d(8, 8, 3, padding=1)
    found = find_units(nn.Sequential(block, nn.Conv2d(8, 4, 1)).eval(), (3, 16, 16))
    assert found.of("inner") == ()
    assert DenseBlock("0.conv1", "0.conv2 is a StdConv2d, whose weights are not plain") in found.dense


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"gated": True}, "gated"),
        ({"scale_norm": True, "norm_layer": nn.LayerNorm}, "normalised across all heads"),
        ({"qk_norm": True, "norm_layer": nn.LayerNorm}, "normalised over the width of a head"),
    ],
    ids=["gate", "norm", "normalised queries"],
)
def test_attention_that_does_more_keeps_something_dense(arguments: dict[str, object], reason: str) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(8, 16)
            self.attn = Attention(16, 4, qkv_bias=True, **arguments)  # type: ignore[arg-type]
            self.head = nn.Linear(16, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.embed(x.mean(1).transpose(1, 2))
            return self.head(y + self.attn(y))  # type: ignore[no-any-return]

    found = find_units(Model().eval(), (3, 8, 9))
    assert found.of("head width") == ()
    assert len(found.of("heads")) == ("qk_norm" in arguments)
    assert any(reason in block.reason for block in found.dense)


def test_a_residual_block_passes_on_what_it_reads() -> None:
    for label, blocks in (("efficientnet_lite0", "blocks.1.1"), ("convnext", "stages.0.blocks.0"), ("vit", "blocks.0")):
        assert units_of(family(label)).of("block")[0].name == blocks


def test_a_block_without_a_short_cut_is_not_dropped() -> None:
    with_short_cut = InvertedResidual(8, 8, exp_ratio=4)
    without = InvertedResidual(8, 8, exp_ratio=4, noskip=True)
    stem = nn.Conv2d(3, 8, 1)
    model = nn.Sequential(stem, with_short_cut, without, nn.Conv2d(8, 4, 1)).eval()
    assert [unit.name for unit in find_units(model, (3, 8, 8)).of("block")] == ["1"]


def test_a_model_that_cannot_be_followed_stays_dense_as_a_whole() -> None:
    class Constant(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(x), 4)

    found = find_units(Constant(), (3, 8, 8))
    assert found.units == ()
    assert "torch-pruning cannot follow" in found.dense[0].reason


def test_finding_changes_nothing() -> None:
    model = build(SMALL[0])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    first, second = (find_units(model, SMALL[0].input_size) for _ in range(2))
    assert first == second
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not any(p.requires_grad for p in model.parameters())


def test_heads_account_for_the_products_between_tokens() -> None:
    heads = units_of(family("vit")).of("heads")[0]
    tokens = math.prod(heads.spatial)
    assert heads.macs == 64 * (tokens * (3 * 192 + 192) + 2 * tokens**2)
