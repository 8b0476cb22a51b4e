"""Units: what gets one compression level in a timm model.

Channels that only one block uses (the inner width of a bottleneck, an inverted residual or an MLP), channels that
several blocks share (a stream), attention heads, the width of a head, and whole residual blocks. Which tensors belong
together is read from torch-pruning's graph (`taco.graph.coupling`), so no list of block types is kept.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
from timm.layers import Attention
from torch import nn

from taco.errors import UnsupportedModuleError
from taco.graph.attention import check_attention, check_head_width, heads_of
from taco.graph.blocks import residual_blocks
from taco.graph.coupling import ChannelSet, Member, channel_sets

log = logging.getLogger(__name__)

Kind = Literal["inner", "mlp", "squeeze", "stem", "stream", "heads", "head width", "block"]

#: Kinds whose channels belong to one block: they go without touching what blocks hand to each other.
WITHIN_BLOCKS: frozenset[Kind] = frozenset({"inner", "mlp", "heads"})
#: Kinds that a search unit by unit may cut; one ratio for all leaves the width of heads alone, where heads go already.
UNIT_BY_UNIT: frozenset[Kind] = WITHIN_BLOCKS | {"head width"}
#: Kinds that are counted in channels, so that a target's channel multiple applies to them.
IN_CHANNELS: frozenset[Kind] = frozenset({"inner", "mlp", "squeeze", "stem", "stream", "head width"})


@dataclasses.dataclass(frozen=True, slots=True)
class Unit:
    """Something that can be made smaller by itself.

    Attributes:
        name: Unique. Inner widths are called after the last layer that reads them, streams after the first that writes
            them, heads after their attention, blocks after themselves.
        kind: What it is.
        width: Channels, heads, dimensions of a head, or 1 for a block, in the dense model.
        multiple: Kept widths are multiples of this, whatever the target: the size of a convolution's groups.
        members: Every axis that shrinks, in the order in which the model runs them.
        spatial: Positions at which a stream's first or another's last consumer reads: (height, width), or (tokens,); ()
            for a block.
        parameters: That go with one step of the width, all other units dense.
        macs: Multiply-accumulates a picture that go with one step of the width, all other units dense.
    """

    name: str
    kind: Kind
    width: int
    multiple: int
    members: tuple[Member, ...]
    spatial: tuple[int, ...]
    parameters: int
    macs: int

    @property
    def producers(self) -> tuple[Member, ...]:
        """The axes whose rows go."""
        return tuple(m for m in self.members if m.role == "out")

    @property
    def consumers(self) -> tuple[Member, ...]:
        """The axes whose columns go and whose weights are refitted."""
        return tuple(m for m in self.members if m.role == "in")

    @property
    def lanes(self) -> int:
        """How many orders of removal it has: for the width of heads, one for queries and keys, one for values each."""
        return 2 * self.consumers[0].repeat if self.kind == "head width" else 1

    @property
    def parts(self) -> int:
        """How many outputs its loss sums up: of every consumer, and for the width of heads their logits."""
        return len(self.consumers) + (self.kind == "head width")

    @property
    def responses(self) -> tuple[str, ...]:
        """Norms that compare the size of its channels with the mean over all of them."""
        return tuple(m.module for m in self.members if m.role == "response")

    @property
    def calibrated(self) -> tuple[str, ...]:
        """Layers whose inputs' second moments decide; the queries and keys of a head are judged at `qkv`."""
        named = [m.module for m in self.consumers]
        if self.kind == "head width":
            named += [m.module for m in self.producers]
        return tuple(dict.fromkeys(named))


@dataclasses.dataclass(frozen=True, slots=True)
class DenseBlock:
    """Channels that stay dense, and why.

    Attributes:
        name: The layer that makes them.
        reason: A sentence.
    """

    name: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class UnitMap:
    """The units of a model, in forward order, and what stays dense."""

    units: tuple[Unit, ...]
    dense: tuple[DenseBlock, ...]

    @property
    def within_blocks(self) -> tuple[Unit, ...]:
        """The units that one block has for itself: what a run cuts at one ratio."""
        return self.of(*WITHIN_BLOCKS)

    @property
    def unit_by_unit(self) -> tuple[Unit, ...]:
        """The units that a run cuts where each gets a width of its own."""
        return self.of(*UNIT_BY_UNIT)

    def of(self, *kinds: Kind) -> tuple[Unit, ...]:
        """Return the units of some kinds."""
        return tuple(u for u in self.units if u.kind in kinds)


def lies_in(unit: Unit, block: str) -> bool:
    """Whether all layers of a unit belong to a block."""
    return bool(unit.members) and all(member.module.startswith(f"{block}.") for member in unit.members)


def steps_of(units: Iterable[Unit], channel_multiple: int) -> dict[str, int]:
    """Return what kept widths are multiples of: of the target's channel multiple, where channels are counted."""
    return {u.name: math.lcm(u.multiple, channel_multiple) if u.kind in IN_CHANNELS else u.multiple for u in units}


def find_units(model: nn.Module, input_size: Sequence[int]) -> UnitMap:
    """Find everything that can be made smaller. Nothing is modified.

    Args:
        model: In eval mode.
        input_size: (channels, height, width) of a picture.
    """
    picture = torch.randn(1, *input_size, generator=torch.Generator().manual_seed(0))
    runs = _Runs.of(model, picture)
    dense: list[DenseBlock] = []
    try:
        sets = channel_sets(model, picture)
    except UnsupportedModuleError as error:
        log.warning("%s", error.what)
        return UnitMap((), (DenseBlock(type(model).__name__, error.what),))
    units: list[Unit] = []
    for channels in sets:
        if channels.reason:
            dense.append(DenseBlock(channels.root, channels.reason))
        else:
            unit = _channel_unit(model, runs, channels)
            taken = any(other.name == unit.name for other in units)  # where layers' outputs are joined
            units.append(dataclasses.replace(unit, name=f"{unit.kind}:{channels.root}") if taken else unit)
    for name, module in model.named_modules():
        if type(module) is Attention:
            units.extend(_attention_units(runs, name, module, dense))
    units.extend(_block(model, runs, name) for name in residual_blocks(model, picture))
    units.sort(key=runs.place)
    return UnitMap(tuple(units), tuple(dense))


@dataclasses.dataclass(frozen=True, slots=True)
class _Runs:
    """What one forward pass shows.

    Attributes:
        order: Module -> when it first finished.
        reads: Layer -> shape of its input.
        macs: Layer -> multiply-accumulates, all calls together.
    """

    order: dict[str, int]
    reads: dict[str, torch.Size]
    macs: dict[str, int]

    @staticmethod
    def of(model: nn.Module, picture: torch.Tensor) -> _Runs:
        runs = _Runs({}, {}, {})

        def hook(name: str, module: nn.Module, x: Any, output: object) -> None:
            runs.order.setdefault(name, len(runs.order))
            if isinstance(module, nn.Conv2d | nn.Linear) and isinstance(output, torch.Tensor):
                runs.reads[name] = x.shape
                outputs = output.numel() // module.weight.shape[0]
                runs.macs[name] = runs.macs.get(name, 0) + outputs * module.weight.numel()

        handles = [
            module.register_forward_hook(
                lambda m, args, kwargs, out, name=name: hook(
                    name, m, args[0] if args else next(iter(kwargs.values()), None), out
                ),
                with_kwargs=True,
            )
            for name, module in model.named_modules()
        ]
        try:
            with torch.no_grad():
                model(picture)
        finally:
            for handle in handles:
                handle.remove()
        return runs

    def place(self, unit: Unit) -> tuple[int, int]:
        """Order units by when what reads them ran, streams by what writes them first, blocks behind their content."""
        if unit.kind in ("stem", "stream"):
            return min(self.order[m.module] for m in unit.producers), False
        last = max((self.order[m.module] for m in unit.consumers), default=self.order.get(unit.name, 0))
        return last, unit.kind == "block"

    def spatial(self, layer: str, model: nn.Module) -> tuple[int, ...]:
        shape = self.reads.get(layer, torch.Size(()))
        return tuple(shape[2:]) if isinstance(model.get_submodule(layer), nn.Conv2d) else tuple(shape[1:-1])


def _channel_unit(model: nn.Module, runs: _Runs, channels: ChannelSet) -> Unit:
    members = tuple(sorted(channels.members, key=lambda m: runs.order.get(m.module, -1)))
    producers = [m.module for m in members if m.role == "out"]
    consumers = [m.module for m in members if m.role == "in"]
    kind = _kind(model, runs, members)
    multiple = math.lcm(*(_group_size(model.get_submodule(m.module)) for m in members))
    within = kind in ("inner", "mlp", "squeeze")
    return Unit(
        name=consumers[-1] if within else f"{kind}:{producers[0]}",
        kind=kind,
        width=channels.width,
        multiple=multiple,
        members=members,
        spatial=runs.spatial(consumers[-1 if within else 0], model),
        parameters=sum(_parameters(model, m) for m in members),
        macs=sum(_macs(model, runs, m) for m in members),
    )


def _kind(model: nn.Module, runs: _Runs, members: tuple[Member, ...]) -> Kind:
    first = min(runs.reads, key=lambda name: runs.order[name])
    if [m.module for m in members if m.role == "out"] == [first]:
        return "stem"
    named = [m.module for m in members]
    home = common_home(named)
    kind = type(model.get_submodule(home)).__name__.lower()
    if not home or "stage" in kind:
        return "stream"
    if "sequential" in kind or "list" in kind:
        return "inner" if all(name.rpartition(".")[0] == home for name in named) else "stream"
    if "mlp" in kind:
        return "mlp"
    return "squeeze" if kind.startswith(("se", "squeeze", "effectivese")) else "inner"


def common_home(names: Sequence[str]) -> str:
    """Return the module in which all of these lie."""
    paths = [name.split(".")[:-1] for name in names]
    shared = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)


def _group_size(layer: nn.Module) -> int:
    if isinstance(layer, nn.Conv2d) and layer.groups > 1:
        return layer.in_channels // layer.groups
    return 1


def _parameters(model: nn.Module, member: Member) -> int:
    """Return the parameters that go from one axis with one channel."""
    module = model.get_submodule(member.module)
    if member.tensor:
        tensor = module.get_parameter(member.tensor)
        return tensor.numel() // tensor.shape[member.axis] * member.repeat
    own = dict(module.named_parameters(recurse=False))
    if member.role == "in":
        return own["weight"].numel() // _size(module, "in") * member.repeat
    return sum(p.numel() // p.shape[0] for p in own.values()) * member.repeat


def _macs(model: nn.Module, runs: _Runs, member: Member) -> int:
    module = model.get_submodule(member.module)
    if member.tensor or not isinstance(module, nn.Conv2d | nn.Linear):
        return 0
    return runs.macs.get(member.module, 0) * member.repeat // _size(module, member.role)


def _size(module: nn.Module, role: str) -> int:
    if isinstance(module, nn.Linear):
        return module.in_features if role == "in" else module.out_features
    assert isinstance(module, nn.Conv2d)  # noqa: S101 - members with weights that mix are one of the two
    return module.in_channels if role == "in" else module.out_channels


def _attention_units(runs: _Runs, name: str, attention: Attention, dense: list[DenseBlock]) -> Iterator[Unit]:
    """Yield the heads and the width of a head; what cannot be cut is named in `dense`."""
    try:
        check_attention(attention)
    except UnsupportedModuleError as error:
        dense.append(DenseBlock(name, error.what))
        return
    heads, width = heads_of(attention)
    qkv, proj = attention.qkv, attention.proj
    row = qkv.in_features + (qkv.bias is not None)
    tokens = runs.reads[f"{name}.qkv"][1:-1]
    count = math.prod(tokens)
    rows = tuple(Member(f"{name}.qkv", "out", part * heads * width, width) for part in range(3))
    per_dimension = count * (3 * qkv.in_features + proj.out_features) + 2 * count**2
    parameters = 3 * row + proj.out_features
    members = (*rows, Member(f"{name}.proj", "in", 0, width))
    yield Unit(f"{name}.heads", "heads", heads, 1, members, tuple(tokens), parameters * width, per_dimension * width)
    try:
        check_head_width(attention)
    except UnsupportedModuleError as error:
        dense.append(DenseBlock(f"{name}.qkv", error.what))
        return
    # every head drops dimensions of its own: the repeats count them, where they lie is the solution's affair
    members = (Member(f"{name}.qkv", "out", 0, 3 * heads), Member(f"{name}.proj", "in", 0, heads))
    yield Unit(
        f"{name}.head_width", "head width", width, 1, members, tuple(tokens), parameters * heads, per_dimension * heads
    )


def _block(model: nn.Module, runs: _Runs, name: str) -> Unit:
    block = model.get_submodule(name)
    macs = sum(count for layer, count in runs.macs.items() if layer.startswith(f"{name}."))
    for part, attention in block.named_modules():
        if type(attention) is Attention:
            tokens = math.prod(runs.reads[".".join(filter(None, (name, part, "qkv")))][1:-1])
            macs += 2 * tokens**2 * math.prod(heads_of(attention))
    return Unit(name, "block", 1, 1, (), (), sum(p.numel() for p in block.parameters()), macs)
