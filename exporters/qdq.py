"""Our own placement of Q/DQ: an fp32 ONNX graph becomes one whose INT8 arithmetic stands in the graph.

Weights are symmetric with one scale an output channel, activations affine (symmetric where the scheme says so) with one
scale a tensor. An activation
function that a saturating quantiser does as well (Relu, Clip) stays between convolution and Q, where runtimes fuse it.
What the rounding of the weights adds to the mean of a layer's output is taken off its bias (M. Nagel et al., "Data-Free
Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section 4.2).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

import numpy as np
import numpy.typing as npt
import onnx
import onnx.numpy_helper
from onnx import helper

from taco.exporters.layers import Floats, Graph, Layer
from taco.exporters.scheme import Scheme

#: Biases keep to half of int32: the other half is for the sum of products that they are added to. 33 000 of the largest
#: products fit; twice as many do not fit into int32 with any bias.
_BIAS_LIMIT = 2**30
#: Scales tried for each output channel, as shares of its largest weight; the one of least squared error is taken.
_SHARES = np.linspace(0.8, 1.0, 9)


@dataclasses.dataclass(frozen=True, slots=True)
class Activations:
    """What was seen of activations.

    Attributes:
        ranges: Tensor -> smallest and largest value that must be told apart.
        shifts: Layer -> mean over pictures and places of what rounding its weights adds to its output, (rows,).
    """

    ranges: Mapping[str, tuple[float, float]]
    shifts: Mapping[str, Floats]


def round_weight(weight: Floats, axis: int, scheme: Scheme) -> tuple[npt.NDArray[np.int8], Floats]:
    """Round a weight to integers.

    Args:
        weight: Any shape, float32.
        axis: Runs over output channels.
        scheme: How many bits.

    Returns:
        Integers of the weight's shape, and the scale of every output channel, (rows,).
    """
    rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1).astype(np.float64)
    top = np.abs(rows).max(axis=1)
    top[top == 0] = 1.0
    best, error = top / scheme.weight_limit, np.full(len(rows), np.inf)
    for share in _SHARES:
        scale = share * top / scheme.weight_limit
        squared = ((_to_integers(rows, scale[:, None], scheme) * scale[:, None] - rows) ** 2).sum(axis=1)
        better = squared < error
        best, error = np.where(better, scale, best), np.where(better, squared, error)
    scale32 = best.astype(np.float32)
    integers = _to_integers(rows, scale32.astype(np.float64)[:, None], scheme).astype(np.int8)
    moved = integers.reshape(np.moveaxis(weight, axis, 0).shape)
    return np.ascontiguousarray(np.moveaxis(moved, 0, axis)), scale32


def _to_integers(
    values: npt.NDArray[np.float64], scale: npt.NDArray[np.float64], scheme: Scheme
) -> npt.NDArray[np.float64]:
    limit = scheme.weight_limit
    return np.clip(np.rint(values / scale), -limit, limit)


class RoundedWeights:
    """The weights of a graph in integers, each rounded once however many candidates are written with it.

    Args:
        graph: fp32.
        scheme: How many bits.
        settled: Layer -> integers that take the place of the nearest ones, on the same steps.
    """

    def __init__(self, graph: Graph, scheme: Scheme, settled: Mapping[str, npt.NDArray[np.int8]] | None = None) -> None:
        self._graph, self._scheme, self._settled = graph, scheme, settled or {}
        self._kept: dict[str, tuple[npt.NDArray[np.int8], Floats]] = {}

    def of(self, layer: Layer) -> tuple[npt.NDArray[np.int8], Floats]:
        """Return integers and scales as `round_weight` does; not to be changed."""
        if layer.name not in self._kept:
            weight = self._graph.constant(layer.weight)
            integers, scale = round_weight(weight, layer.axis, self._scheme)
            self._kept[layer.name] = self._settled.get(layer.name, integers), scale
        return self._kept[layer.name]

    def error(self, layer: Layer) -> Floats:
        """Return rounded minus true weight, in the weight's own shape."""
        integers, scale = self.of(layer)
        weight = self._graph.constant(layer.weight)
        return (integers * _along(scale, layer.axis, weight.ndim) - weight).astype(np.float32)


def with_room(
    weight: tuple[npt.NDArray[np.int8], Floats], axis: int, bias: Floats, input_scale: np.float32
) -> tuple[npt.NDArray[np.int8], Floats]:
    """Raise the scales of those output channels whose bias, in steps of input times weight, would not fit into int32.

    Their weights are so small beside their bias (nearly dead channels, a normalisation folded in) that larger steps, or
    zeros in their place, change nothing that can be told apart from it.

    Args:
        weight: Integers, and the scale of every output channel, (rows,).
        axis: Of the integers, runs over output channels.
        bias: (rows,).
        input_scale: Of what the layer reads.

    Returns:
        As `weight`; the very same where every bias fits.
    """
    integers, scale = weight
    step = np.maximum(np.abs(bias.astype(np.float64)) / _BIAS_LIMIT, float(np.finfo(np.float32).tiny))
    raised = np.maximum(scale, step / float(input_scale)).astype(np.float32)
    if np.array_equal(raised, scale):
        return weight
    shrunk = integers * _along(scale / raised, axis, integers.ndim)
    return np.rint(shrunk).astype(np.int8), raised


def _along(values: Floats, axis: int, ndim: int) -> Floats:
    shape = [1] * ndim
    shape[axis] = -1
    return values.reshape(shape)


def activation_scale(low: float, high: float, scheme: Scheme) -> tuple[np.float32, int]:
    """Return scale and zero point for a range; zero is exact, because convolutions pad with it."""
    low, high = min(low, 0.0), max(high, 0.0)
    if scheme.symmetric:
        return _normal(max(-low, high) / scheme.activation_limits[1]), 0
    least, most = scheme.activation_limits
    if not high > low:
        return np.float32(1.0), least
    scale = _normal((high - low) / (most - least))
    return scale, int(np.clip(np.rint(least - low / float(scale)), least, most))


def _normal(scale: float) -> np.float32:
    """Return a scale that runtimes do not flush to zero, and that holds all its digits; 1 for none."""
    return np.float32(max(scale, float(np.finfo(np.float32).tiny)) if scale > 0 else 1.0)


def insert_qdq(
    graph: Graph,
    quantised: Collection[str],
    scheme: Scheme,
    seen: Activations,
    rounded: RoundedWeights | None = None,
) -> onnx.ModelProto:
    """Return the model with these layers in INT8.

    Args:
        graph: fp32.
        quantised: Names of layers.
        scheme: How numbers are held.
        seen: Ranges of at least `graph.tensors(quantised)`; layers without a shift keep their bias.
        rounded: The weights of `graph` by `scheme`, where they are needed more than once.
    """
    return _Writer(graph, scheme, seen, rounded or RoundedWeights(graph, scheme)).write(quantised)


class _Writer:
    def __init__(self, graph: Graph, scheme: Scheme, seen: Activations, rounded: RoundedWeights) -> None:
        self.graph, self.scheme, self.seen, self.rounded = graph, scheme, seen, rounded
        self.proto = onnx.ModelProto()
        self.proto.CopyFrom(graph.proto)
        self.added: dict[str, onnx.TensorProto] = {}
        self.scales: dict[str, np.float32] = {}
        self.later: dict[str, tuple[Layer, Floats, Floats]] = {}  # Add behind a MatMul -> the latter, bias, scales

    def write(self, quantised: Collection[str]) -> onnx.ModelProto:
        body = self.proto.graph
        tensors = set(self.graph.tensors(quantised, all_sides=self.scheme.all_sides))
        layers = {layer.node: layer for layer in self.graph.layers if layer.name in quantised}
        nodes: list[onnx.NodeProto] = []
        for name in (i.name for i in body.input if i.name in tensors):
            nodes += self._activation(name)
        for node in body.node:
            if node.name in layers:
                nodes += self._layer(node, layers[node.name])
            elif node.name in self.later:
                nodes += self._later_bias(node, *self.later[node.name])
            self._rewire(node, tensors)
            nodes.append(node)
            for name in node.output:
                nodes += self._activation(name) if name in tensors else []
        kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del body.node[:]
        body.node.extend(kept)
        used = {name for node in body.node for name in node.input}
        initializers = [i for i in (*body.initializer, *self.added.values()) if i.name in used]
        copied = [onnx.TensorProto.FromString(i.SerializeToString()) for i in initializers]
        del body.initializer[:]
        body.initializer.extend(copied)
        return self.proto

    def _rewire(self, node: onnx.NodeProto, tensors: set[str]) -> None:
        for position, name in enumerate(node.input):
            if name in tensors:
                node.input[position] = f"{name}/dq"

    def _activation(self, name: str) -> list[onnx.NodeProto]:
        scale, zero = activation_scale(*self.seen.ranges[name], self.scheme)
        self.scales[name] = scale
        kind = np.int8 if self.scheme.signed else np.uint8
        given = [self._constant(f"{name}/scale", np.array(scale)), self._constant(f"{name}/zero", np.array(zero, kind))]
        return [
            helper.make_node("QuantizeLinear", [name, *given], [f"{name}/q"], f"{name}/q"),
            helper.make_node("DequantizeLinear", [f"{name}/q", *given], [f"{name}/dq"], f"{name}/dq"),
        ]

    def _layer(self, node: onnx.NodeProto, layer: Layer) -> list[onnx.NodeProto]:
        """Quantise weight and bias of a layer; returns the nodes that come before it."""
        bias, weight = self._corrected_bias(layer), self.rounded.of(layer)
        if bias is not None and not self.scheme.float_weights:
            weight = with_room(weight, layer.axis, bias, self.scales[layer.input])
        integers, scale = weight
        make = self._behind_q if self.scheme.float_weights else self._dequantised
        before = list(make(f"{layer.node}/weight", integers, scale, layer.axis))
        node.input[1] = before[-1].output[0]
        if bias is not None and layer.bias_node is not None:
            self.later[layer.bias_node] = layer, bias, scale
        elif bias is not None:
            made, name = self._bias(layer, bias, scale)
            before += made
            del node.input[2:]
            node.input.append(name)
        return before

    def _corrected_bias(self, layer: Layer) -> Floats | None:
        """Return a layer's bias without what rounding adds to it; None where it has none and takes none."""
        bias = None if layer.bias is None else self.graph.constant(layer.bias)
        if layer.name not in self.seen.shifts or (bias is None and layer.op == "MatMul"):
            return bias
        shift = self.seen.shifts[layer.name]
        return (np.zeros_like(shift) if bias is None else bias) - shift

    def _later_bias(self, node: onnx.NodeProto, layer: Layer, bias: Floats, scale: Floats) -> list[onnx.NodeProto]:
        """Quantise the bias that an Add behind a MatMul adds; returns what comes before it.

        ONNX Runtime would merge a plain constant and the MatMul into a Gemm of floats.
        """
        made, name = self._bias(layer, bias, scale)
        node.input[list(node.input).index(str(layer.bias))] = name
        return made

    def _bias(self, layer: Layer, bias: Floats, scale: Floats) -> tuple[list[onnx.NodeProto], str]:
        """Return what makes the bias, and its name."""
        if self.scheme.float_weights:
            return [], self._constant(f"{layer.node}/bias", bias.astype(np.float32))
        step = (self.scales[layer.input] * scale).astype(np.float32)
        whole = np.rint(bias / step.astype(np.float64)).astype(np.int32)
        made = self._dequantised(f"{layer.node}/bias", whole, step, 0)
        return made, made[0].output[0]

    def _behind_q(self, name: str, integers: npt.NDArray[np.integer], scale: Floats, axis: int) -> list[onnx.NodeProto]:
        """Give a weight as floats that lie on the grid, quantised and back in the graph."""
        grid = (integers * _along(scale, axis, integers.ndim)).astype(np.float32)
        given = [
            self._constant(f"{name}/scale", scale.astype(np.float32)),
            self._constant(f"{name}/zero", np.zeros(len(scale), np.int8)),
        ]
        floats = self._constant(f"{name}/grid", grid)
        return [
            helper.make_node("QuantizeLinear", [floats, *given], [f"{name}/q"], f"{name}/q", axis=axis),
            helper.make_node("DequantizeLinear", [f"{name}/q", *given], [f"{name}/dq"], f"{name}/dq", axis=axis),
        ]

    def _dequantised(
        self, name: str, integers: npt.NDArray[np.integer], scale: Floats, axis: int
    ) -> list[onnx.NodeProto]:
        given = [
            self._constant(f"{name}/q", integers),
            self._constant(f"{name}/scale", scale.astype(np.float32)),
            self._constant(f"{name}/zero", np.zeros(len(scale), integers.dtype)),
        ]
        return [helper.make_node("DequantizeLinear", given, [f"{name}/dq"], f"{name}/dq", axis=axis)]

    def _constant(self, name: str, value: npt.NDArray[np.generic]) -> str:
        self.added[name] = onnx.numpy_helper.from_array(np.asarray(value), name)
        return name
