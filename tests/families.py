"""timm families with random weights, small inputs and nothing that hides a mistake (no zero gain, no tiny scale)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import timm
import torch
from torch import nn

from taco.compress import UnitSolution
from taco.moments import Moments
from taco.solvers.channels import ChannelOrder
from taco.units import Unit, UnitMap, find_units

CLASSES = 5


@dataclasses.dataclass(frozen=True, slots=True)
class Family:
    """One architecture.

    Attributes:
        label: What the test is called.
        model: timm's name.
        units: How many inner widths it has.
        kinds: Their kinds.
        dense: How many chains stay dense.
        arguments: For timm, to make it small.
        pixels: Side of the input.
    """

    label: str
    model: str
    units: int
    kinds: frozenset[str]
    dense: int = 0
    arguments: tuple[tuple[str, Any], ...] = ()
    pixels: int = 64

    def __str__(self) -> str:
        return self.label


_NARROW = (("channels", (8, 16, 24, 32)),)
_INVERTED = frozenset({"inverted-residual"})
_MLP = frozenset({"mlp"})
_TINY_VIT = (("img_size", 64), ("depth", 2))
SMALL = (
    Family("test_efficientnet", "test_efficientnet", 4, _INVERTED),
    Family("test_resnet", "test_resnet", 5, frozenset({"basic", "bottleneck"})),
    Family("test_vit", "test_vit", 6, _MLP, pixels=160),
    Family("test_convnext", "test_convnext", 9, _MLP),
)
CUT = (
    *SMALL,
    Family("efficientnet_lite0", "tf_efficientnet_lite0", 15, _INVERTED),
    Family("mobilenetv3", "mobilenetv3_small_100", 10, _INVERTED),
    Family("mobilenetv4", "mobilenetv4_conv_small", 12, _INVERTED),
    Family("mobilenetv4 with blur", "mobilenetv4_conv_small", 12, _INVERTED, arguments=(("aa_layer", "blurpc"),)),
    Family("efficientnetv2", "tf_efficientnetv2_b0", 20, _INVERTED),
    Family("resnet18", "resnet18", 8, frozenset({"basic"}), arguments=_NARROW),
    Family("resnet26d", "resnet26d", 16, frozenset({"bottleneck"}), arguments=_NARROW),
    Family("resnet50", "resnet50", 32, frozenset({"bottleneck"}), arguments=_NARROW),
    Family("resnet with blur", "resnetblur18", 8, frozenset({"basic"}), arguments=_NARROW),
    Family("regnet, depthwise", "regnety_002", 13, frozenset({"bottleneck"}), arguments=(("group_size", 1),)),
    Family("vit", "vit_tiny_patch16_224", 2, _MLP, arguments=_TINY_VIT),
    Family("deit", "deit_tiny_patch16_224", 2, _MLP, arguments=_TINY_VIT),
    Family("convnext", "convnext_atto", 12, _MLP),
)
UNCUT = (
    Family("regnet, grouped", "regnety_002", 0, frozenset(), 13),
    Family("resnext", "resnext50_32x4d", 0, frozenset(), 16),
    Family("convnextv2", "convnextv2_atto", 0, frozenset(), 12),
    Family("mixed kernels", "mixnet_s", 0, frozenset(), 15),
    Family("group norm", "test_efficientnet_gn", 0, frozenset(), 4),
    Family("several sets of weights", "efficientnet_cc_b0_4e", 7, _INVERTED, 8),
)


@cache
def build(family: Family) -> nn.Module:
    """The model in eval mode; shared between tests, which must not change it."""
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(family.model, num_classes=CLASSES, **dict(family.arguments)).eval()
    for module in model.modules():
        _enliven(module)
    return model.requires_grad_(False)


@cache
def units_of(family: Family) -> UnitMap:
    return find_units(build(family))


def _enliven(module: nn.Module) -> None:
    """Nothing is exactly 0 or 1, so that a forgotten slice changes the output."""
    with torch.no_grad():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(0, 0.1)
        if isinstance(gamma := getattr(module, "gamma", None), nn.Parameter):
            gamma.uniform_(0.5, 1.5)


def pictures(family: Family, n: int = 2, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, family.pixels, family.pixels, generator=generator)


def group_of(model: nn.Module, unit: Unit) -> int:
    """Columns of the consumer's weight matrix for one channel."""
    weight = model.get_submodule(unit.consumer).weight
    return weight[0].numel() // unit.width  # type: ignore[operator,union-attr,no-any-return]


def slicing(model: nn.Module, units: Mapping[str, Unit] | tuple[Unit, ...], seed: int) -> dict[str, UnitSolution]:
    """Solutions whose refit is plain slicing (white inputs of mean zero) in a random order."""
    generator = torch.Generator().manual_seed(seed)
    solutions = {}
    for unit in units.values() if isinstance(units, Mapping) else units:
        cols = unit.width * group_of(model, unit)
        moments = Moments(torch.eye(cols, dtype=torch.float64)[None], torch.zeros(1, cols, dtype=torch.float64), cols)
        order = torch.randperm(unit.width, generator=generator)
        solutions[unit.name] = UnitSolution(unit, moments, ChannelOrder(order, torch.zeros(unit.width + 1)))
    return solutions


def wrong_sizes(model: nn.Module) -> Iterator[str]:
    """Names of modules whose declared sizes differ from their tensors'."""
    for name, m in model.named_modules():
        if isinstance(m, nn.Conv2d):
            good = m.weight.shape[:2] == (m.out_channels, m.in_channels // m.groups)
            good &= m.bias is None or len(m.bias) == m.out_channels
        elif isinstance(m, nn.Linear):
            good = m.weight.shape == (m.out_features, m.in_features)
            good &= m.bias is None or len(m.bias) == m.out_features
        elif isinstance(m, nn.BatchNorm2d):
            tensors = (m.weight, m.bias, m.running_mean, m.running_var)
            good = all(t is not None and len(t) == m.num_features for t in tensors)
        else:
            continue
        if not good:
            yield name
