"""An ONNX graph in another operator set, by our own rewriting: torch.onnx writes 18 and later, TensorRT 8.6 reads 17.

Asking torch for 17 silently gives 18 where the graph reduces (RUNTIMES.md). What differs between two operator sets is
read from ONNX's own schemas: a node whose schema changed is rewritten if its kind is known here, and else refused.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx.numpy_helper
from onnx import helper

from taco.errors import GateError

#: The newest that every TensorRT from 8.6 on reads.
LOWEST = 17
#: The oldest that torch.onnx writes of itself.
NATIVE = 18
#: Reductions whose axes were an attribute up to 17 and are an input from 18 on.
_REDUCTIONS = frozenset(
    f"Reduce{kind}" for kind in ("Max", "Min", "Mean", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare")
)
#: Between 17 and 20 these only took more types, or attributes whose default means what was meant before.
_GREW = frozenset(
    (
        *("AveragePool", "Cast", "CastLike", "Constant", "ConstantOfShape", "DequantizeLinear", "Equal", "Identity"),
        *("IsNaN", "If", "Loop", "Pad", "QuantizeLinear", "Reshape", "Resize", "ScatterElements", "ScatterND"),
        *("Shape", "Size"),
    )
)
_RESIZE_18 = {"antialias": 0, "keep_aspect_ratio_policy": b"stretch"}


def opset_of(proto: onnx.ModelProto) -> int:
    """Read the operator set of a graph back."""
    return next(int(o.version) for o in proto.opset_import if o.domain in ("", "ai.onnx"))


def lowered(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph of operator set 18 in 17.

    Raises:
        GateError: It is of another set, or a node has no form in 17; names the node.
    """
    _require(proto, NATIVE)
    made = _copy(proto)
    constants = {i.name: i for i in made.graph.initializer}
    for node in made.graph.node:
        if _same(node, LOWEST, NATIVE):
            continue
        if node.op_type in _REDUCTIONS:
            _axes_to_attribute(node, constants)
        elif node.op_type == "Split":
            _drop(node, "num_outputs")
        elif node.op_type == "Resize":
            _lower_resize(node)
        elif not _lowers_as_it_is(node):
            raise GateError(
                f"node {node.name} ({node.op_type}) has no form in operator set {LOWEST}, which TensorRT 8.6 reads",
                "Choose another --model",
            )
    _set(made, LOWEST, ir_version=8)
    _drop_unused(made)
    return made


def raised(proto: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Return a graph of operator set 17 in a newer one, at most 20.

    Raises:
        GateError: It is of another set, or a node changed its meaning; names the node.
    """
    _require(proto, LOWEST)
    made = _copy(proto)
    for node in made.graph.node:
        if _same(node, LOWEST, opset):
            continue
        if node.op_type in _REDUCTIONS:
            _axes_to_input(node, made.graph)
        elif node.op_type == "Split":
            if len([name for name in node.input if name]) < 2:
                node.attribute.append(helper.make_attribute("num_outputs", len(node.output)))
        elif node.op_type not in _GREW:
            raise GateError(
                f"node {node.name} ({node.op_type}) means something else in operator set {opset}",
                "Choose another --model",
            )
    _set(made, opset, ir_version=9)
    return made


def _copy(proto: onnx.ModelProto) -> onnx.ModelProto:
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    return made


def _require(proto: onnx.ModelProto, opset: int) -> None:
    if opset_of(proto) != opset:
        raise GateError(f"a graph of operator set {opset} was expected, the file says {opset_of(proto)}")


def _same(node: onnx.NodeProto, first: int, second: int) -> bool:
    """Whether an operator's schema is one and the same in two sets; other domains are left alone."""
    if node.domain not in ("", "ai.onnx"):
        return True
    try:
        versions = [onnx.defs.get_schema(node.op_type, opset, "").since_version for opset in (first, second)]
    except onnx.defs.SchemaError:
        return False
    return versions[0] == versions[1]


def _axes_to_attribute(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> None:
    noop = _drop(node, "noop_with_empty_axes")
    if len(node.input) < 2 or not node.input[1]:
        if noop:
            raise GateError(f"node {node.name} ({node.op_type}) reduces over no axis", "Choose another --model")
        return
    found = constants.get(node.input[1])
    if found is None:
        raise GateError(f"node {node.name} ({node.op_type}) has axes that are computed", "Choose another --model")
    axes = [int(axis) for axis in onnx.numpy_helper.to_array(found)]
    del node.input[1:]
    node.attribute.append(helper.make_attribute("axes", axes))


def _axes_to_input(node: onnx.NodeProto, graph: onnx.GraphProto) -> None:
    axes = _drop(node, "axes")
    if axes is None:
        return
    name = f"{node.name}/axes"
    graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(axes, np.int64), name))
    node.input.append(name)


def _lower_resize(node: onnx.NodeProto) -> None:
    for name, usual in _RESIZE_18.items():
        given = _drop(node, name)
        if given is not None and given != usual:
            raise GateError(f"node {node.name} (Resize) uses {name}, which operator set {LOWEST} lacks")
    if _drop(node, "axes") is not None:
        raise GateError(f"node {node.name} (Resize) names axes, which operator set {LOWEST} lacks")


def _lowers_as_it_is(node: onnx.NodeProto) -> bool:
    if node.op_type == "Pad":
        return len(node.input) < 4 or not node.input[3]
    if node.op_type in ("ScatterElements", "ScatterND"):
        return _value(node, "reduction") in (None, b"none", b"add", b"mul")
    return False


def _value(node: onnx.NodeProto, name: str) -> object:
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), None)


def _drop(node: onnx.NodeProto, name: str) -> object:
    """Take an attribute away and return its value; None where there is none."""
    value = _value(node, name)
    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend(kept)
    return value


def _set(proto: onnx.ModelProto, opset: int, ir_version: int) -> None:
    others = [o for o in proto.opset_import if o.domain not in ("", "ai.onnx")]
    del proto.opset_import[:]
    proto.opset_import.extend([helper.make_opsetid("", opset), *others])
    proto.ir_version = ir_version


def _drop_unused(proto: onnx.ModelProto) -> None:
    used = {name for node in proto.graph.node for name in node.input} | {o.name for o in proto.graph.output}
    kept = [i for i in proto.graph.initializer if i.name in used]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
