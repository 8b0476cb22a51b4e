"""Units: what gets one compression level. Here: the inner widths of residual blocks and MLPs.

A unit is a chain inside one block: a dense producer makes `width` channels, modules that treat each channel by itself
(normalisation, depthwise convolution, squeeze-and-excitation) follow, and a dense consumer mixes them again. Those
channels belong to nobody else, so they can be removed without touching the residual stream.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from typing import Literal

from timm.layers import (
    BlurPool2d,
    Conv2dSame,
    ConvMlp,
    ConvNormAct,
    GatedMlp,
    GlobalResponseNormMlp,
    GluMlp,
    Mlp,
    SEModule,
    SwiGLU,
)
from timm.models._efficientnet_blocks import (
    CondConvResidual,
    EdgeResidual,
    InvertedResidual,
    SqueezeExcite,
    UniversalInvertedResidual,
)
from timm.models.regnet import Bottleneck as RegNetBottleneck
from timm.models.resnet import BasicBlock, Bottleneck
from torch import nn

from taco.unfold import can_unfold

log = logging.getLogger(__name__)

Role = Literal["out", "channel", "in"]

#: The order in which a block applies its modules, as its forward() does.
CHAINS: dict[type[nn.Module], tuple[str, ...]] = {
    InvertedResidual: ("conv_pw", "bn1", "conv_dw", "bn2", "aa", "se", "conv_pwl"),
    EdgeResidual: ("conv_exp", "bn1", "aa", "se", "conv_pwl"),
    UniversalInvertedResidual: ("pw_exp", "dw_mid", "se", "pw_proj"),
    BasicBlock: ("conv1", "bn1", "drop_block", "act1", "aa", "conv2"),
    Bottleneck: ("conv1", "bn1", "act1", "conv2", "bn2", "drop_block", "act2", "aa", "conv3"),
    RegNetBottleneck: ("conv1", "conv2", "se", "conv3"),
    Mlp: ("fc1", "act", "drop1", "norm", "fc2"),
    ConvMlp: ("fc1", "norm", "act", "drop", "fc2"),
}
_KINDS = {Bottleneck: "bottleneck", BasicBlock: "basic", RegNetBottleneck: "bottleneck", Mlp: "mlp", ConvMlp: "mlp"}
#: Blocks with an inner width that this version does not cut.
_STAYS: dict[type[nn.Module], str] = {
    GlobalResponseNormMlp: "its response normalisation compares all channels",
    GluMlp: "its gate pairs channels",
    SwiGLU: "its gate pairs channels",
    GatedMlp: "its gate pairs channels",
    CondConvResidual: "it mixes several sets of weights for each picture",
}
#: Modules of these files treat each channel by itself and know no width, except for the ones named.
_ELEMENTWISE = (
    "torch.nn.modules.activation",
    "torch.nn.modules.dropout",
    "torch.nn.modules.pooling",
    "timm.layers.activations",
    "timm.layers.activations_me",
    "timm.layers.drop",
)
_ACROSS = (nn.GLU, nn.MultiheadAttention, nn.Softmax, nn.Softmax2d, nn.LogSoftmax, nn.Softmin)


@dataclasses.dataclass(frozen=True, slots=True)
class Member:
    """A module that shrinks with the unit: `out` loses rows, `in` loses columns, `channel` loses both sides."""

    module: str
    role: Role


@dataclasses.dataclass(frozen=True, slots=True)
class Unit:
    """One inner width.

    Attributes:
        name: The consumer's module name; unique.
        kind: inverted-residual, bottleneck, basic or mlp.
        width: Channels in the dense model.
        members: Everything that shrinks besides the consumer, the producer first.
        consumer: The convolution or linear layer whose input channels go and whose weights are refitted.
    """

    name: str
    kind: str
    width: int
    members: tuple[Member, ...]
    consumer: str


@dataclasses.dataclass(frozen=True, slots=True)
class DenseBlock:
    """A chain that stays dense, and why."""

    name: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class UnitMap:
    """The units of a model, in forward order, and the chains that stay dense."""

    units: tuple[Unit, ...]
    dense: tuple[DenseBlock, ...]


def find_units(model: nn.Module) -> UnitMap:
    """Find the inner widths of every block that `CHAINS` knows. Nothing is modified."""
    units: list[Unit] = []
    dense: list[DenseBlock] = []
    for name, block in model.named_modules():
        if type(block) in _STAYS:
            dense.append(DenseBlock(name, f"{type(block).__name__} cannot be cut yet: {_STAYS[type(block)]}"))
        if type(block) not in CHAINS:
            continue
        for found in _units_of(name, block):
            (units if isinstance(found, Unit) else dense).append(found)  # type: ignore[arg-type]
    return UnitMap(tuple(units), tuple(dense))


def _units_of(name: str, block: nn.Module) -> Iterator[Unit | DenseBlock]:
    """Walk one chain: from each dense layer to the next, if all between treat channels separately."""
    kind = _KINDS.get(type(block), "inverted-residual")
    producer: tuple[str, nn.Conv2d | nn.Linear] | None = None
    between: list[Member] = []
    named = False  # one reason a chain is enough
    for path, module in _flat(name, block):
        if isinstance(module, nn.Conv2d | nn.Linear) and _mixes_all(module):
            if producer is not None:
                members = (Member(producer[0], "out"), *between)
                yield Unit(path, kind, _outputs(producer[1]), members, path)
            producer, between, named = (path, module), [], False
            continue
        found = _members(path, module)
        if found is None and not named:
            yield DenseBlock(path, f"{_words(module)} between two layers cannot be cut by channels yet")
        if found is None:
            producer, named = None, True
        else:
            between.extend(found)


def _flat(name: str, block: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for attribute in CHAINS[type(block)]:
        module = getattr(block, attribute, None)
        path = f"{name}.{attribute}"
        if isinstance(module, ConvNormAct):
            yield f"{path}.conv", module.conv
            yield f"{path}.bn", module.bn
            if module.aa is not None:
                yield f"{path}.aa", module.aa
        elif module is not None:
            yield path, module


def _mixes_all(module: nn.Conv2d | nn.Linear) -> bool:
    return can_unfold(module) and (isinstance(module, nn.Linear) or module.groups == 1)


def _words(module: nn.Module) -> str:
    if isinstance(module, nn.Conv2d) and module.groups > 1:
        return f"a convolution in {module.groups} groups"
    return type(module).__name__


def _outputs(module: nn.Conv2d | nn.Linear) -> int:
    return module.out_features if isinstance(module, nn.Linear) else module.out_channels


def _members(path: str, module: nn.Module) -> list[Member] | None:
    """Return what shrinks in a module between producer and consumer; None when it cannot be cut by channels."""
    if isinstance(module, nn.Conv2d):
        depthwise = module.groups == module.in_channels == module.out_channels
        return [Member(path, "channel")] if depthwise and type(module) in (nn.Conv2d, Conv2dSame) else None
    if isinstance(module, BlurPool2d) and module.channels is None:
        return []
    if isinstance(module, nn.BatchNorm2d | BlurPool2d):
        return [Member(path, "channel")] if all(map(_elementwise, module.children())) else None
    if isinstance(module, SqueezeExcite):
        return [Member(f"{path}.conv_reduce", "in"), Member(f"{path}.conv_expand", "out")]
    if isinstance(module, SEModule):
        return [Member(f"{path}.fc1", "in"), Member(f"{path}.fc2", "out")]
    return [] if _elementwise(module) else None


def _elementwise(module: nn.Module) -> bool:
    if isinstance(module, nn.Identity):
        return True
    if type(module) is nn.Sequential:
        return all(map(_elementwise, module))
    known = type(module).__module__ in _ELEMENTWISE and not isinstance(module, _ACROSS)
    return known and all(p.numel() == 1 for p in module.parameters())
