"""Which channels of which tensors belong together, from torch-pruning's dependency graph (Fang et al., CVPR 2023).

Only the graph is used. It is built on a copy in which three kinds of modules are exchanged for ones that couple the
same way and that it understands: fused attention (reads all, writes all), response normalisation (channel by channel,
once the mean runs over the kept ones) and grouped convolutions (group by group).

The graph takes any operation that it does not know for elementwise. Here an operation must be known to be, otherwise
its channels stay together and dense.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
import torch_pruning
from timm.layers import (
    Attention,
    BatchNormAct2d,
    BlurPool2d,
    Conv2dSame,
    LayerNorm,
    LayerNorm2d,
    LayerNormAct,
    LayerNormAct2d,
    LayerScale,
    LayerScale2d,
)
from timm.layers.cond_conv2d import CondConv2d
from timm.layers.grn import GlobalResponseNorm
from torch import nn
from torch_pruning._helpers import _HybridIndex
from torch_pruning.ops import _OutputOp

from taco.errors import UnsupportedModuleError
from taco.graph.attention import AttentionStandIn, check_attention
from taco.moments.unfold import can_unfold

Role = Literal["out", "channel", "response", "in"]

#: Modules that treat each channel by itself, or compare channels in a way that is as good on fewer of them.
CHANNELWISE: frozenset[type[nn.Module]] = frozenset(
    {
        nn.BatchNorm1d,
        nn.BatchNorm2d,
        BatchNormAct2d,
        nn.LayerNorm,
        LayerNorm,
        LayerNorm2d,
        LayerNormAct,
        LayerNormAct2d,
        LayerScale,
        LayerScale2d,
        BlurPool2d,
        GlobalResponseNorm,
    }
)
#: Autograd's names of operations that treat each channel by itself, or carry channels to another layout in order.
_ELEMENTWISE = frozenset(
    {
        *("Add", "Sub", "Mul", "Div", "Neg", "Clamp", "ClampMin", "ClampMax", "Pow", "Sqrt", "Rsqrt", "Addcmul"),
        *("Relu", "LeakyRelu", "Elu", "Hardtanh", "Hardswish", "Hardsigmoid", "Sigmoid", "Tanh", "Silu", "Mish"),
        *("Gelu", "Softplus", "Threshold", "NativeDropout"),
        *("MaxPool2DWithIndices", "AvgPool2D", "AdaptiveAvgPool2D", "MkldnnAdaptiveAvgPool2D", "ConstantPadNd"),
        *("ReflectionPad2D", "ReplicationPad2D", "UpsampleNearest2D", "UpsampleBilinear2D", "UpsampleBicubic2D"),
        *("NativeBatchNorm", "CudnnBatchNorm", "NativeLayerNorm"),  # parts of modules in CHANNELWISE
        *(
            "Permute",
            "Transpose",
            "T",
            "AsStrided",
            "Clone",
            "Contiguous",
            "ToCopy",
            "Squeeze",
            "Unsqueeze",
            "Select",
            "Alias",
        ),
        *("View", "UnsafeView", "ReshapeAlias", "Expand", "Slice", "Cat"),
    }
)
#: Indices of one axis that one channel may fill: a flattened map of 16 x 16.
_MOST_COPIES = 256
_FAILURES = (RuntimeError, ValueError, AttributeError, IndexError, TypeError, KeyError, AssertionError, ArithmeticError)


@dataclasses.dataclass(frozen=True, slots=True)
class Member:
    """A tensor axis that shrinks with a unit.

    Channel c of the unit is index `offset + c * repeat + k` of the axis, k = 0 ... repeat - 1.

    Attributes:
        module: The module's name.
        role: `out` loses rows, `in` loses columns and is a consumer, `channel` treats each channel by itself,
            `response` divides each channel's size by the mean size of all.
        offset: Where the unit's channels begin.
        repeat: Indices a channel.
        tensor: A parameter that belongs to a module of another kind, such as a table of positions; empty for layers.
        axis: Of that parameter.
    """

    module: str
    role: Role
    offset: int = 0
    repeat: int = 1
    tensor: str = ""
    axis: int = 0

    def indices(self, channels: torch.Tensor) -> torch.Tensor:
        """Return where channels (n,) int64 lie on the axis, (n * repeat,) int64."""
        return (self.offset + channels[:, None] * self.repeat + torch.arange(self.repeat)).flatten()


@dataclasses.dataclass(frozen=True, slots=True)
class ChannelSet:
    """Channels that can only go together.

    Attributes:
        root: The layer that the graph started from.
        width: Channels.
        members: All axes that carry them; empty when they stay dense.
        reason: Why they stay dense; empty when they can be cut.
    """

    root: str
    width: int
    members: tuple[Member, ...]
    reason: str = ""


def channel_sets(model: nn.Module, picture: torch.Tensor) -> list[ChannelSet]:
    """Find every set of coupled channels, those of the network's own output excepted.

    Args:
        model: Not modified.
        picture: (1, C, H, W) float32, any values.

    Raises:
        UnsupportedModuleError: The graph cannot be built.
    """
    traced = copy.deepcopy(model).requires_grad_(True).eval()
    known = _Known(traced)
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = torch_pruning.DependencyGraph().build_dependency(traced, picture, verbose=False)
    except _FAILURES as error:
        raise UnsupportedModuleError(
            f"torch-pruning cannot follow this model's channels ({type(error).__name__}: {error})", "It stays dense"
        ) from error
    if not any(module in known.modules for module in graph.module2node):
        raise UnsupportedModuleError("torch-pruning cannot follow this model's channels (no layer is reached)", "")
    found, seen = [], set[str]()
    for module in list(graph.module2node):
        if module in known.modules and _mixes(module) and known.modules[module] not in seen:
            channels = known.set_from(graph, module)
            seen.update(known.traced_name(m.module) for m in channels.members if m.role == "out")
            found.append(channels)
    return [channels for channels in found if channels.reason or any(m.role == "in" for m in channels.members)]


class _Known:
    """Names of the traced copy's modules and parameters, and what was exchanged in it."""

    def __init__(self, traced: nn.Module) -> None:
        self.grouped: set[str] = set()
        self.responses: set[str] = set()
        self.attentions: set[str] = set()
        self.refused: dict[str, str] = {}  # name -> why what it reads and writes stays dense
        for name, module in list(traced.named_modules()):
            stand_in = self._stand_in(name, module)
            if stand_in is not None:
                traced.set_submodule(name, stand_in)
        self.modules = {module: name for name, module in traced.named_modules()}
        self.parameters = {id(p): name for name, p in traced.named_parameters()}

    def _stand_in(self, name: str, module: nn.Module) -> nn.Module | None:
        if type(module) is Attention:
            self.attentions.add(name)
            self._try(name, module)
            return AttentionStandIn(module)
        if isinstance(module, CondConv2d):
            self.refused[name] = "it mixes several sets of weights for each picture"
            return _any_conv(module)
        if type(module) is BlurPool2d and module.channels is not None:
            return _blurring(module)
        if isinstance(module, GlobalResponseNorm):
            width = module.get_parameter("weight").numel()
            self.responses.add(name)
            return nn.LayerNorm(width) if module.channel_dim == -1 else nn.BatchNorm2d(width).eval()
        if type(module) in (nn.Conv2d, Conv2dSame) and 1 < module.groups < module.in_channels == module.out_channels:  # type: ignore[operator]
            self.grouped.add(name)
            return _depthwise_like(module)  # type: ignore[arg-type]
        return None

    def _try(self, name: str, attention: Attention) -> None:
        try:
            check_attention(attention)
        except UnsupportedModuleError as error:
            self.refused[name] = error.what

    def traced_name(self, layer: str) -> str:
        """Return what stands for a layer in the traced copy: an attention for its projection."""
        owner = layer.rpartition(".")[0]
        return owner if owner in self.attentions else layer

    def set_from(self, graph: Any, root: nn.Module) -> ChannelSet:
        """Return the channels that a layer makes, and everything that they run through."""
        width, name = graph.get_out_channels(root), self.modules[root]
        members: list[Member] = []
        try:
            for step in _walk(graph, root, width):
                members.extend(self._member(graph, step, width))
        except UnsupportedModuleError as error:
            return ChannelSet(name, width, (), error.what)
        return ChannelSet(name, width, tuple(dict.fromkeys(members)))

    def _member(self, graph: Any, step: _Step, width: int) -> Iterator[Member]:
        node = step.node
        module = node.module
        if isinstance(module, nn.Parameter):
            owner, _, tensor = self.parameters[id(module)].rpartition(".")
            offset, repeat = _span(step, width, module.shape[node.pruning_dim], self.parameters[id(module)])
            yield Member(owner, "channel", offset, repeat, tensor, node.pruning_dim % module.ndim)
            return
        if module not in self.modules:
            _check_operation(node, width)
            return
        name = self.modules[module]
        size = graph.get_out_channels(module)
        inwards = step.handler == graph.get_pruner_of_module(module).prune_in_channels
        if name in self.refused:
            raise UnsupportedModuleError(f"{name} cannot be cut: {self.refused[name]}", "It stays dense")
        if name in self.attentions:
            name += ".qkv" if inwards else ".proj"
        role = "channel" if not _mixes(module) else "in" if inwards else "out"
        if name in self.responses:
            role = "response"
        elif role == "channel":
            self._check(name, module)
        elif not can_unfold(module) and not isinstance(module, AttentionStandIn):
            raise UnsupportedModuleError(f"{name} is a {type(module).__name__}, whose weights are not plain", "")
        if role == "in":
            size = graph.get_in_channels(module)
        yield Member(name, role, *_span(step, width, size, name))  # type: ignore[arg-type]

    def _check(self, name: str, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            if not can_unfold(module):
                raise UnsupportedModuleError(f"{name} is a {type(module).__name__}, whose weights are not plain", "")
            if not module.groups == module.in_channels == module.out_channels:
                raise UnsupportedModuleError(
                    f"{name} is a convolution in {module.groups} groups of unequal inputs and outputs", ""
                )
        elif type(module) not in CHANNELWISE:
            raise UnsupportedModuleError(f"{name} is a {type(module).__name__}, which may compare channels", "")


def _mixes(module: nn.Module) -> bool:
    """Tell whether every output channel of a layer reads every input channel."""
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)


class _AnyConv(nn.Conv2d):
    """Couples like a convolution, whatever else it is given."""

    def forward(self, x: torch.Tensor, *_: object) -> torch.Tensor:
        out = x.shape[-2] // self.stride[0], x.shape[-1] // self.stride[1]
        return super().forward(nn.functional.interpolate(x, _before(out, self.kernel_size, self.stride)))


def _any_conv(module: CondConv2d) -> _AnyConv:
    sizes: list[Any] = [module.in_channels, module.out_channels, module.kernel_size, module.stride]
    return _AnyConv(*sizes)


def _before(out: Sequence[int], kernel: Sequence[int], stride: Sequence[int]) -> list[int]:
    """Return the size of a map that an unpadded convolution turns into `out`."""
    return [(o - 1) * s + k for o, k, s in zip(out, kernel, stride, strict=True)]


def _blurring(module: BlurPool2d) -> nn.Conv2d:
    """Return a depthwise convolution that makes maps of the same size."""
    channels, padding = int(module.channels), module.padding[0]
    return nn.Conv2d(channels, channels, module.filt_size, module.stride, padding, groups=channels, bias=False)


def _depthwise_like(layer: nn.Conv2d) -> nn.Conv2d:
    """Return a depthwise convolution of the same shape; whole groups are looked after by the unit."""
    channels = layer.in_channels
    same = type(layer)(channels, channels, layer.kernel_size, layer.stride, groups=channels, bias=False)  # type: ignore[arg-type]
    same.padding, same.dilation = layer.padding, layer.dilation
    same._reversed_padding_repeated_twice = layer._reversed_padding_repeated_twice
    return same


@dataclasses.dataclass(frozen=True, slots=True)
class _Step:
    """A node of the graph that channels reach.

    Attributes:
        node: torch-pruning's.
        handler: What would cut it there: tells inputs from outputs.
        channels: For every index on the node's axis the channel of the root.
    """

    node: Any
    handler: Any
    channels: list[_HybridIndex]


def _walk(graph: Any, root: nn.Module, width: int) -> Iterator[_Step]:
    """Follow the channels that a layer makes through the graph.

    Raises:
        UnsupportedModuleError: They reach a node twice, in different places.
    """
    handler = graph.get_pruner_of_module(root).prune_out_channels
    pending = [_Step(graph.module2node[root], handler, [_HybridIndex(idx=i, root_idx=i) for i in range(width)])]
    seen: dict[tuple[int, Any], list[_HybridIndex]] = {}
    while pending:
        step = pending.pop()
        if len(step.channels) > _MOST_COPIES * width:
            raise UnsupportedModuleError("channels are copied without end in the graph", "It stays dense")
        key = (id(step.node), step.handler)
        if key in seen:
            if seen[key] != step.channels:
                raise UnsupportedModuleError("channels meet others of their own in another order", "It stays dense")
            continue
        seen[key] = step.channels
        yield step
        for edge in step.node.dependencies:
            if edge.is_triggered_by(step.handler):
                channels = functools.reduce(lambda c, m: c if m is None else m(c), edge.index_mapping, step.channels)
                if channels:
                    pending.append(_Step(edge.target, edge.handler, channels))


def _span(step: _Step, width: int, size: int, name: str) -> tuple[int, int]:
    """Return offset and repeat of a unit's channels on an axis of `size`.

    Raises:
        UnsupportedModuleError: They do not lie there one after the other.
    """
    idxs = torch.tensor([c.idx for c in step.channels])
    roots = torch.tensor([c.root_idx for c in step.channels])
    repeat = len(idxs) // width
    if repeat and len(idxs) == repeat * width and len(idxs) <= size:
        offset = int(idxs[0])
        expected = offset + torch.arange(len(idxs))
        if torch.equal(idxs, expected) and torch.equal(roots, torch.arange(width).repeat_interleave(repeat)):
            return offset, repeat
    raise UnsupportedModuleError(f"channels are joined, split or reordered on their way to {name}", "It stays dense")


def _check_operation(node: Any, width: int) -> None:
    """Raise unless an operation is known to treat each channel by itself."""
    name = node.grad_fn.name().split("Backward")[0].rpartition("::")[2]
    if isinstance(node.module, _OutputOp):
        raise UnsupportedModuleError("the network gives them away", "It stays dense")
    if name == "Mean":
        sizes = list(node.grad_fn._saved_self_sym_sizes)
        gone = {int(d) % len(sizes) for d in _signed(node.grad_fn._saved_dim, len(sizes))}
        if any(size == width for d, size in enumerate(sizes) if d > 0 and d not in gone):
            return
        raise UnsupportedModuleError("a mean is taken over its channels", "It stays dense")
    if name in ("View", "UnsafeView", "ReshapeAlias", "Select"):
        _check_layout(node.grad_fn, name, width)
    if name in ("Addmm", "Mm") and all(isinstance(reader.module, nn.Linear) for reader in node.outputs):
        return  # the product inside a linear layer
    if name not in _ELEMENTWISE:
        raise UnsupportedModuleError(f"the operation {name} may mix or reorder its channels", "It stays dense")


def _check_layout(grad_fn: Any, name: str, width: int) -> None:
    """Raise where an operation takes channels apart, puts parts of them together, or picks one of them."""
    sizes = [int(size) for size in grad_fn._saved_self_sym_sizes]
    if name == "Select":
        picked = _signed([grad_fn._saved_dim], len(sizes))[0]
        if sizes[picked] == width:
            raise UnsupportedModuleError("one of its channels may be picked", "It stays dense")
    elif width not in sizes:
        raise UnsupportedModuleError("its channels are taken apart and put together again", "It stays dense")


def _signed(dims: Any, ndim: int) -> list[int]:
    """Autograd keeps negative dimensions as unsigned 64-bit numbers."""
    values = [int(d) for d in dims] if dims else list(range(ndim))
    return [d - 2**64 if d >= 2**63 else d for d in values]
