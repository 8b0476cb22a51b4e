"""The layers of an ONNX graph that may be quantised, and what lies between them."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping

import numpy as np
import numpy.typing as npt
import onnx
import onnx.numpy_helper
import onnx.shape_inference

Floats = npt.NDArray[np.float32]
#: Operators with a weight that every runtime has in INT8.
WEIGHTED = ("Conv", "Gemm", "MatMul")
#: A quantiser that saturates at zero does their work.
_ABSORBED = ("Relu", "Clip")
_ELEMENTWISE = ("Add", "Mul")
#: A product over fewer than this many terms gains nothing, and TensorRT refuses it (RUNTIMES.md).
LEAST_TERMS = 16


@dataclasses.dataclass(frozen=True, slots=True)
class Layer:
    """One operator with a constant weight.

    Attributes:
        name: Of the torch module where its weight tells, else of the node.
        node: Name of its node.
        op: Operator type.
        input: Tensor that it reads.
        output: Tensor that it gives.
        result: `output`, or what the one Relu or Clip behind it makes of that.
        weight: Name of its weight.
        axis: Axis of the weight that runs over output channels.
        bias: Name of its bias; None without one.
        bias_node: Name of the Add behind a MatMul that adds the bias; None where the operator does it itself.
    """

    name: str
    node: str
    op: str
    input: str
    output: str
    result: str
    weight: str
    axis: int
    bias: str | None
    bias_node: str | None = None


class Graph:
    """An ONNX graph with its lookups.

    Args:
        proto: The model; not changed.
        least_outputs: Layers with fewer output channels are not found; convolutions count whatever they have.
    """

    def __init__(self, proto: onnx.ModelProto, least_outputs: int = 1) -> None:
        self.proto = proto
        self._least_outputs = least_outputs
        self._constants = {i.name: i for i in proto.graph.initializer}
        self.outputs = {o.name for o in proto.graph.output}
        self.producer = {out: node for node in proto.graph.node for out in node.output}
        self.consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in proto.graph.node:
            for name in dict.fromkeys(node.input):
                self.consumers.setdefault(name, []).append(node)
        self.layers: tuple[Layer, ...] = self._find()

    def constant(self, name: str) -> Floats:
        """Return an initializer as float32."""
        return np.asarray(onnx.numpy_helper.to_array(self._constants[name]), np.float32)

    def is_constant(self, name: str) -> bool:
        """Whether a tensor is an initializer."""
        return name in self._constants

    def tensors(self, quantised: Collection[str], *, all_sides: bool) -> list[str]:
        """Return the tensors that get Q/DQ when these layers are quantised, in the order of the graph.

        Args:
            quantised: Names of layers.
            all_sides: See `Scheme`.
        """
        chosen = [layer for layer in self.layers if layer.name in quantised]
        found = {layer.input for layer in chosen}
        if all_sides:
            found |= {layer.result for layer in chosen if layer.op == "Conv" and layer.result not in self.outputs}
            found |= self._operands(found)
        order = [i.name for i in self.proto.graph.input] + [out for n in self.proto.graph.node for out in n.output]
        return [name for name in order if name in found]

    def macs(self) -> Mapping[str, int]:
        """Return the multiply-accumulates of every layer; 0 where a shape is not known."""
        inferred = onnx.shape_inference.infer_shapes(self.proto).graph
        shapes = {
            v.name: [d.dim_value for d in v.type.tensor_type.shape.dim]
            for v in (*inferred.value_info, *inferred.output)
        }
        return {layer.name: self._macs(layer, shapes.get(layer.output, [])) for layer in self.layers}

    def _macs(self, layer: Layer, shape: list[int]) -> int:
        size = self.constant(layer.weight).size
        rows = self.constant(layer.weight).shape[layer.axis]
        return int(np.prod(shape)) * size // rows if shape else 0

    def _operands(self, found: set[str]) -> set[str]:
        """Return the other operands of each Add and Mul that has one quantised operand and a quantised result."""
        more: set[str] = set()
        for node in self.proto.graph.node:
            if node.op_type not in _ELEMENTWISE or any(self.is_constant(name) for name in node.input):
                continue
            if self._result(node) in found and any(name in found for name in node.input):
                more |= set(node.input)
        return more

    def _find(self) -> tuple[Layer, ...]:
        names: set[str] = set()
        layers = []
        for node in self.proto.graph.node:
            if node.op_type in WEIGHTED and (layer := self._layer(node)) is not None:
                if layer.name in names:
                    layer = dataclasses.replace(layer, name=node.name)
                names.add(layer.name)
                layers.append(layer)
        return tuple(layers)

    def _layer(self, node: onnx.NodeProto) -> Layer | None:
        if self.is_constant(node.input[0]) or not self.is_constant(node.input[1]) or self._opaque(node):
            return None
        weight = self._constants[node.input[1]]
        axis, terms = _axis_and_terms(node, weight)
        if node.op_type != "Conv" and (len(weight.dims) != 2 or min(weight.dims) < 1 or terms < LEAST_TERMS):
            return None
        if node.op_type != "Conv" and weight.dims[axis] < self._least_outputs:
            return None
        bias = node.input[2] if len(node.input) > 2 and node.input[2] else None
        bias_node = None
        if bias is not None and (not self.is_constant(bias) or len(self._constants[bias].dims) != 1):
            return None
        if node.op_type == "MatMul":
            bias, bias_node = self._added(node, weight.dims[axis])
        return Layer(
            name=_name(node, bias),
            node=node.name,
            op=node.op_type,
            input=node.input[0],
            output=node.output[0],
            result=self._result(node),
            weight=node.input[1],
            axis=axis,
            bias=bias,
            bias_node=bias_node,
        )

    def _opaque(self, node: onnx.NodeProto) -> bool:
        """Whether a Gemm scales or transposes in a way that Q/DQ forms do not have."""
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        return bool(
            attributes.get("transA", 0) or attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0
        )

    def _added(self, node: onnx.NodeProto, rows: int) -> tuple[str | None, str | None]:
        """Return the bias that the one Add behind a MatMul adds, and the Add."""
        behind = self.consumers.get(node.output[0], [])
        if len(behind) != 1 or behind[0].op_type != "Add" or node.output[0] in self.outputs:
            return None, None
        others = [name for name in behind[0].input if name != node.output[0]]
        if len(others) == 1 and self.is_constant(others[0]) and list(self._constants[others[0]].dims) == [rows]:
            return others[0], behind[0].name
        return None, None

    def _result(self, node: onnx.NodeProto) -> str:
        """Return a node's output behind the one Relu or Clip that follows."""
        output: str = node.output[0]
        behind = self.consumers.get(output, [])
        if len(behind) == 1 and behind[0].op_type in _ABSORBED and output not in self.outputs:
            return str(behind[0].output[0])
        return output


def _axis_and_terms(node: onnx.NodeProto, weight: onnx.TensorProto) -> tuple[int, int]:
    """Return the axis of output channels, and how many products an output is the sum of."""
    if node.op_type == "Conv":
        return 0, int(np.prod(weight.dims[1:]))
    if len(weight.dims) != 2:
        return 0, 0
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    axis = 0 if transposed else 1
    return axis, int(min(weight.dims[1 - axis], weight.dims[axis] if node.op_type == "MatMul" else LEAST_TERMS))


def _name(node: onnx.NodeProto, bias: str | None) -> str:
    for tensor, ending in ((node.input[1], ".weight"), (bias or "", ".bias")):
        if tensor.endswith(ending):
            return str(tensor[: -len(ending)])
    return str(node.name)
