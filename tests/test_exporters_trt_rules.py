"""Each rule of TensorRT refuses a graph that breaks it, and names the node."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from taco.errors import GateError
from taco.exporters.trt_rules import breaches, require_rules


def constant(proto: onnx.ModelProto, name: str, value: np.ndarray) -> None:
    """Add or replace a constant."""
    kept = [i for i in proto.graph.initializer if i.name != name]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend([*kept, numpy_helper.from_array(value, name)])


def good() -> onnx.ModelProto:
    """A quantised convolution and a quantised product, as TensorRT wants them."""
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "s", "z"], ["xq"], "xq"),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"], "xdq"),
        helper.make_node("QuantizeLinear", ["w", "ws", "wz"], ["wq"], "wq", axis=0),
        helper.make_node("DequantizeLinear", ["wq", "ws", "wz"], ["wd"], "wdq", axis=0),
        helper.make_node("Conv", ["xd", "wd"], ["a"], "conv"),
        helper.make_node("Flatten", ["a"], ["f"], "flat"),
        helper.make_node("QuantizeLinear", ["m", "s", "z"], ["mq"], "mq"),
        helper.make_node("DequantizeLinear", ["mq", "s", "z"], ["md"], "mdq"),
        helper.make_node("MatMul", ["f", "md"], ["logits"], "product"),
    ]
    proto = helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 4, 4])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 16])],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    constants = {
        "s": np.array(0.1, np.float32), "z": np.array(0, np.int8),
        "w": np.ones((16, 3, 4, 4), np.float32), "ws": np.full(16, 0.1, np.float32), "wz": np.zeros(16, np.int8),
        "m": np.ones((16, 16), np.float32),
    }  # fmt: skip
    for name, value in constants.items():
        constant(proto, name, value)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def test_a_good_graph_has_no_breach() -> None:
    assert breaches(good(), 17) == []


def node(proto: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(n for n in proto.graph.node if n.name == name)


def free_batch(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"


def batch_2(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2


def half_input(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16


def unknown_operator(proto: onnx.ModelProto) -> None:
    node(proto, "flat").op_type = "NonZero"


def foreign_operator(proto: onnx.ModelProto) -> None:
    node(proto, "flat").domain = "com.microsoft"
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def shifted(proto: onnx.ModelProto) -> None:
    constant(proto, "z", np.array(3, np.int8))


def unsigned(proto: onnx.ModelProto) -> None:
    constant(proto, "z", np.array(0, np.uint8))


def no_zero_point(proto: onnx.ModelProto) -> None:
    del node(proto, "xq").input[2:]


def negative_scale(proto: onnx.ModelProto) -> None:
    constant(proto, "s", np.array(-0.1, np.float32))


def tiny_half_scale(proto: onnx.ModelProto) -> None:
    constant(proto, "s", np.array(1e-6, np.float16))


def computed_scale(proto: onnx.ModelProto) -> None:
    node(proto, "xq").input[1] = "a"


def scale_a_channel(proto: onnx.ModelProto) -> None:
    constant(proto, "s", np.full(3, 0.1, np.float32))


def int32(proto: onnx.ModelProto) -> None:
    constant(proto, "bias", np.ones(16, np.int32))
    proto.graph.node.append(helper.make_node("DequantizeLinear", ["bias", "ws"], ["bd"], "bias_dq"))


def ready_integers(proto: onnx.ModelProto) -> None:
    constant(proto, "wi", np.ones((16, 3, 4, 4), np.int8))
    node(proto, "wdq").input[0] = "wi"


def narrow_product(proto: onnx.ModelProto) -> None:
    constant(proto, "m", np.ones((16, 8), np.float32))


def double(proto: onnx.ModelProto) -> None:
    constant(proto, "d", np.ones(1, np.float64))


def norm_in_pieces(proto: onnx.ModelProto) -> None:
    constant(proto, "eps", np.array(1e-5, np.float16))
    proto.graph.node.extend(
        [
            helper.make_node("Cast", ["a"], ["ah"], "half", to=TensorProto.FLOAT16),
            helper.make_node("Mul", ["ah", "ah"], ["sq"], "square"),
            helper.make_node("ReduceMean", ["sq"], ["var"], "variance", axes=[1]),
            helper.make_node("Add", ["var", "eps"], ["safe"], "safe"),
            helper.make_node("Sqrt", ["safe"], ["deviation"], "root"),
        ]
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """A change and the breach that it makes."""

    change: Callable[[onnx.ModelProto], None]
    rule: str
    name: str


CASES = (
    Case(free_batch, "static shape", "input"),
    Case(batch_2, "batch 1", "input"),
    Case(half_input, "float32 in and out", "input"),
    Case(unknown_operator, "operator", "flat"),
    Case(foreign_operator, "operator", "flat"),
    Case(shifted, "symmetric", "xq"),
    Case(unsigned, "signed", "xq"),
    Case(no_zero_point, "signed", "xq"),
    Case(negative_scale, "positive scales", "xq"),
    Case(tiny_half_scale, "positive scales", "xq"),
    Case(computed_scale, "constant scales", "xq"),
    Case(scale_a_channel, "one scale a tensor", "xq"),
    Case(int32, "no INT32", "bias_dq"),
    Case(ready_integers, "Q before DQ", "wdq"),
    Case(narrow_product, "no small INT8 product", "product"),
    Case(double, "types", "d"),
    Case(norm_in_pieces, "one-node LayerNormalization", "root"),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.change.__name__)
def test_each_rule_names_the_node_that_breaks_it(case: Case) -> None:
    proto = good()
    case.change(proto)
    assert (case.rule, case.name) in {(b.rule, b.node) for b in breaches(proto, 17)}


def test_a_newer_operator_set_than_the_device_reads_is_refused() -> None:
    proto = good()
    proto.opset_import[0].version = 20
    assert [b.rule for b in breaches(proto, 17)] == ["opset"]
    assert breaches(proto, 20) == []


def test_gelu_in_one_node_is_not_for_8_6() -> None:
    proto = good()
    node(proto, "flat").op_type = "Gelu"
    assert [(b.rule, b.node) for b in breaches(proto, 17)] == [("operator", "flat")]


def test_the_refusal_names_rules_and_nodes() -> None:
    proto = good()
    shifted(proto)
    with pytest.raises(GateError, match=r"breaks TensorRT's rules: symmetric: xq: its zero point is not 0"):
        require_rules(proto, 17)
