"""What TensorRT asks of a graph, checked without TensorRT: every breach names its node and its rule.

Sources: the operator table of NVIDIA's ONNX parser (onnx/onnx-tensorrt, docs/operators.md), TensorRT's guide on
explicit quantisation (symmetric INT8, one scale a tensor for activations), and what users were hurt by (docs/adr/0014).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.shape_inference
from onnx import TensorProto

from taco.errors import GateError
from taco.exporters.half import SMALLEST_NORMAL
from taco.exporters.layers import LEAST_TERMS
from taco.exporters.opsets import opset_of

_PLAIN = """Abs Add And ArgMax ArgMin AveragePool BatchNormalization Cast Ceil Clip Concat Constant ConstantOfShape Conv
ConvTranspose Cos CumSum DepthToSpace DequantizeLinear Div Einsum Elu Equal Erf Exp Expand Flatten Floor Gather
GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample
GroupNormalization HardSigmoid HardSwish Identity InstanceNormalization IsNaN LayerNormalization LeakyRelu Less
LessOrEqual Log LogSoftmax LpNormalization LpPool MatMul Max MaxPool Mean Min Mish Mod Mul Neg Not Or PRelu Pad Pow
QuantizeLinear Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd
ReduceSum ReduceSumSquare Relu Reshape Resize Round ScatterElements ScatterND Selu Shape Sigmoid Sign Sin Size Slice
Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tanh ThresholdedRelu Tile TopK Transpose Unsqueeze
Where Xor"""
#: Operators that NVIDIA's parser imports (of those that a vision model may hold).
OPERATORS = frozenset(_PLAIN.split())
#: What the parser took up later than opset 17's TensorRT 8.6.
_NOT_IN_8_6 = frozenset(("Gelu", "Mish"))
_SHOWN = 5
_NO_DOUBLE = (TensorProto.DOUBLE, TensorProto.BFLOAT16)


@dataclasses.dataclass(frozen=True, slots=True)
class Breach:
    """One thing that TensorRT would refuse, or get wrong.

    Attributes:
        rule: Short name of the rule.
        node: Name of the node, or of the input, output or constant.
        why: What is there, in words.
    """

    rule: str
    node: str
    why: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.node}: {self.why}"


def breaches(proto: onnx.ModelProto, most_opset: int) -> list[Breach]:
    """Return everything in a graph that TensorRT does not take.

    Args:
        proto: The graph.
        most_opset: Newest operator set that the aimed TensorRT reads: 17 for 8.6, 20 for 10.3, 24 for 10.16 and 11.
    """
    graph = _Indexed(proto)
    found = [] if opset_of(proto) <= most_opset else [Breach("opset", "graph", f"{opset_of(proto)} > {most_opset}")]
    for rule in _RULES:
        found += list(rule(graph))
    if most_opset <= 17:
        found += [
            Breach("operator", node.name, f"{node.op_type} is not in TensorRT 8.6")
            for node in graph.nodes
            if node.op_type in _NOT_IN_8_6
        ]
    return found


def require_rules(proto: onnx.ModelProto, most_opset: int) -> None:
    """Refuse a graph that breaks a rule.

    Raises:
        GateError: Names nodes and rules, the first five.
    """
    found = breaches(proto, most_opset)
    if found:
        rest = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise GateError(
            f"the graph breaks TensorRT's rules: {'; '.join(map(str, found[:_SHOWN]))}{rest}", "Choose another --model"
        )


class _Indexed:
    def __init__(self, proto: onnx.ModelProto) -> None:
        self.graph = proto.graph
        self.nodes = list(proto.graph.node)
        self.constants = {i.name: i for i in proto.graph.initializer}
        self.producer = {name: node for node in self.nodes for name in node.output}
        inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
        self.types = {
            v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.input, *inferred.output)
        }
        self.types |= {name: tensor.data_type for name, tensor in self.constants.items()}

    def array(self, name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]] | None:
        """Return a constant; None where the tensor is computed."""
        tensor = self.constants.get(name)
        return None if tensor is None else np.asarray(onnx.numpy_helper.to_array(tensor))

    def quantised(self) -> Iterator[onnx.NodeProto]:
        yield from (n for n in self.nodes if n.op_type in ("QuantizeLinear", "DequantizeLinear"))


def _static(graph: _Indexed) -> Iterator[Breach]:
    for value in graph.graph.input:
        dims = value.type.tensor_type.shape.dim
        if not all(d.dim_value > 0 for d in dims):
            yield Breach("static shape", value.name, "a dimension is free")
        elif dims and dims[0].dim_value != 1:
            yield Breach("batch 1", value.name, f"the batch is {dims[0].dim_value}")


def _float_ends(graph: _Indexed) -> Iterator[Breach]:
    for value in (*graph.graph.input, *graph.graph.output):
        kind = value.type.tensor_type.elem_type
        if kind != TensorProto.FLOAT:
            yield Breach("float32 in and out", value.name, f"it is {TensorProto.DataType.Name(kind)}")


def _operators(graph: _Indexed) -> Iterator[Breach]:
    for node in graph.nodes:
        if node.domain not in ("", "ai.onnx") or node.op_type not in OPERATORS:
            yield Breach("operator", node.name, f"TensorRT's parser has no {node.op_type}")


def _types(graph: _Indexed) -> Iterator[Breach]:
    for name, kind in graph.types.items():
        if kind in _NO_DOUBLE:
            yield Breach("types", name, f"{TensorProto.DataType.Name(kind)} is not computed in")


def _zero_points(graph: _Indexed) -> Iterator[Breach]:
    for node in graph.quantised():
        if len(node.input) < 3 or not node.input[2]:
            yield Breach("signed", node.name, "without a zero point the integers are unsigned")
            continue
        zero = graph.array(node.input[2])
        if zero is None:
            yield Breach("constant scales", node.name, "its zero point is computed")
        elif zero.dtype != np.int8:
            yield Breach("signed", node.name, f"its integers are {zero.dtype}")
        elif zero.any():
            yield Breach("symmetric", node.name, "its zero point is not 0")


def _scales(graph: _Indexed) -> Iterator[Breach]:
    for node in graph.quantised():
        scale = graph.array(node.input[1])
        if scale is None:
            yield Breach("constant scales", node.name, "its scale is computed")
            continue
        if not (np.isfinite(scale).all() and bool((scale > 0).all())):  # type: ignore[operator]
            yield Breach("positive scales", node.name, "a scale is not above 0")
        elif scale.dtype == np.float16 and float(scale.min()) < SMALLEST_NORMAL:
            yield Breach("positive scales", node.name, "an FP16 scale is below the normal numbers")
        if scale.size > 1 and _source(graph, node) not in graph.constants:
            yield Breach("one scale a tensor", node.name, "activations take one scale, not one a channel")


def _source(graph: _Indexed, node: onnx.NodeProto) -> str:
    """Return the tensor that a Q, or the Q in front of a DQ, reads."""
    name: str = node.input[0]
    before = graph.producer.get(name)
    if node.op_type == "DequantizeLinear" and before is not None and before.op_type == "QuantizeLinear":
        return str(before.input[0])
    return name


def _pairs(graph: _Indexed) -> Iterator[Breach]:
    for node in graph.nodes:
        if node.op_type != "DequantizeLinear":
            continue
        if graph.types.get(node.input[0]) == TensorProto.INT32:
            yield Breach("no INT32", node.name, "it dequantises INT32: biases stay floats")
        elif node.input[0] in graph.constants:
            yield Breach("Q before DQ", node.name, "its integers are constants: weights stay floats behind a Q")


def _small_products(graph: _Indexed) -> Iterator[Breach]:
    for node in graph.nodes:
        if node.op_type not in ("MatMul", "Gemm"):
            continue
        behind = [graph.producer.get(name) for name in node.input[:2]]
        weight = next((_source(graph, n) for n in behind if n is not None and n.op_type == "DequantizeLinear"), None)
        shape = [] if weight is None or weight not in graph.constants else list(graph.constants[weight].dims)
        if len(shape) >= 2 and min(shape[-2:]) < LEAST_TERMS:
            yield Breach("no small INT8 product", node.name, f"a side of {shape[-2:]} is below {LEAST_TERMS}")


def _normalisations(graph: _Indexed) -> Iterator[Breach]:
    """Find LayerNormalization taken apart: a mean of squares of what a mean was taken from, and its root."""
    for node in graph.nodes:
        if node.op_type != "Sqrt" or graph.types.get(node.input[0]) != TensorProto.FLOAT16:
            continue
        before = graph.producer.get(node.input[0])
        if before is not None and before.op_type == "Add":
            inner = [graph.producer.get(name) for name in before.input]
            if any(n is not None and n.op_type == "ReduceMean" for n in inner):
                yield Breach("one-node LayerNormalization", node.name, "a normalisation is taken apart in FP16")


_RULES: tuple[Callable[[_Indexed], Iterator[Breach]], ...] = (
    _static,
    _float_ends,
    _operators,
    _types,
    _zero_points,
    _scales,
    _pairs,
    _small_products,
    _normalisations,
)
