"""FP16 that stands in the graph: every float becomes a half, the input and the output stay float32.

TensorRT 11 has no flag for FP16 any more, and a graph that says it itself means the same to every version. Squares and
their sums overflow in half precision (largest number 65504) and stay in float32, between casts; that is what made
vision transformers go silently wrong in TensorRT (LESSONS 23, 38, 39).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.shape_inference
from onnx import TensorProto, helper

from taco.errors import GateError

LARGEST = float(np.finfo(np.float16).max)
SMALLEST_NORMAL = float(np.finfo(np.float16).tiny)
#: Operators that stay in float32: their results, or what they sum up, leave the range of a half.
IN_FLOAT32 = frozenset(
    ("Pow", "ReduceL2", "ReduceSumSquare", "ReduceSum", "ReduceLogSumExp", "ReduceLogSum", "CumSum", "Exp")
)
#: Inputs that the standard wants in float32 whatever the operator computes in.
_FLOAT32_INPUTS = {"Resize": (1, 2)}
_QUANTISING = ("QuantizeLinear", "DequantizeLinear")


def to_half(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return the FP16 form of a float32 graph.

    Args:
        proto: float32, one input, one output; Q/DQ nodes may be in it, from operator set 19 on. Not changed.

    Raises:
        GateError: A weight is too large for a half; names it.
    """
    return _Halver(proto).run()


class _Halver:
    def __init__(self, proto: onnx.ModelProto) -> None:
        self.proto = onnx.ModelProto()
        self.proto.CopyFrom(proto)
        graph = onnx.shape_inference.infer_shapes(self.proto, strict_mode=True, data_prop=True).graph
        known = (*graph.value_info, *graph.input, *graph.output)
        self.floats = {v.name for v in known if v.type.tensor_type.elem_type == TensorProto.FLOAT}
        self.constants = {i.name: i for i in self.proto.graph.initializer if i.data_type == TensorProto.FLOAT}
        self.made: dict[str, onnx.TensorProto] = {}
        self.wide: dict[str, str] = {}

    def run(self) -> onnx.ModelProto:
        graph = self.proto.graph
        source, result = graph.input[0].name, graph.output[0].name
        narrow = f"{source}/half"
        nodes = [_cast(source, narrow, TensorProto.FLOAT16)]
        for node in graph.node:
            for position, name in enumerate(node.input):
                if name == source:
                    node.input[position] = narrow
            for position, name in enumerate(node.output):
                if name == result:
                    node.output[position] = f"{result}/half"
            nodes += self._node(node)
        self.floats |= {narrow, f"{result}/half"}
        nodes.append(_cast(f"{result}/half", result, TensorProto.FLOAT))
        self._replace(nodes)
        return self.proto

    def _node(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        if node.op_type in IN_FLOAT32 and any(self._is_float(name) for name in node.input):
            return self._between_casts(node)
        exempt = _FLOAT32_INPUTS.get(node.op_type, ())
        for position, name in enumerate(node.input):
            if name in self.constants and position not in exempt:
                node.input[position] = self._halved(name, scale=node.op_type in _QUANTISING and position == 1)
        for attribute in node.attribute:
            if attribute.name == "to" and node.op_type == "Cast" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
            elif attribute.HasField("t") and attribute.t.data_type == TensorProto.FLOAT:
                attribute.t.CopyFrom(_as_half(attribute.t, node.name))
        return [node]

    def _between_casts(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        """Keep a node in float32; constants stay as they are."""
        before, after = [], []
        for position, name in enumerate(node.input):
            if name in self.constants or not self._is_float(name):
                continue
            if name not in self.wide:
                self.wide[name] = f"{name}/float"
                before.append(_cast(name, self.wide[name], TensorProto.FLOAT))
            node.input[position] = self.wide[name]
        for position, name in enumerate(node.output):
            node.output[position] = f"{name}/wide"
            after.append(_cast(f"{name}/wide", name, TensorProto.FLOAT16))
        return [*before, node, *after]

    def _is_float(self, name: str) -> bool:
        return name in self.floats or name in self.constants or name.endswith("/half")

    def _halved(self, name: str, *, scale: bool) -> str:
        """Return the name of the half form of a constant; a scale is kept from falling below the normal numbers."""
        new = f"{name}/half"
        if new not in self.made:
            tensor = self.constants[name]
            if scale:
                values = np.maximum(onnx.numpy_helper.to_array(tensor), np.float32(SMALLEST_NORMAL))
                tensor = onnx.numpy_helper.from_array(values, name)
            self.made[new] = _as_half(tensor, name)
            self.made[new].name = new
        return new

    def _replace(self, nodes: Iterable[onnx.NodeProto]) -> None:
        graph = self.proto.graph
        kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        used = {name for node in kept for name in node.input}
        tensors = [i for i in (*graph.initializer, *self.made.values()) if i.name in used]
        copied = [onnx.TensorProto.FromString(i.SerializeToString()) for i in tensors]
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(kept)
        graph.initializer.extend(copied)


def _cast(source: str, result: str, to: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [result], f"taco/cast/{result}", to=to)


def _as_half(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    values = onnx.numpy_helper.to_array(tensor)
    finite = values[np.isfinite(values)]
    largest = float(np.abs(finite).max()) if finite.size else 0.0
    if largest > LARGEST and not _is_limit(largest):
        raise GateError(
            f"{name} holds {largest:.3g}, which FP16 cannot (at most {LARGEST:g})",
            'Set precision = "fp32" in the target file',
        )
    with np.errstate(over="ignore"):
        return onnx.numpy_helper.from_array(np.clip(values, -LARGEST, LARGEST).astype(np.float16), tensor.name)


def _is_limit(value: float) -> bool:
    """Whether a number only stands for "as large as can be", as in a mask or an open end of a Clip."""
    return value >= 0.99 * float(np.finfo(np.float32).max)
