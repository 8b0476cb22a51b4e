"""Zeros in a graph's weights: where, how many, and that nothing else changes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import onnx.numpy_helper
import pytest
from onnx import TensorProto, helper

from taco.exporters.zeroed import Zeros, zeroed

RNG = np.random.default_rng(0)


def make_graph(dtype: type = np.float32) -> onnx.ModelProto:
    """A convolution, a depthwise one (one input channel), a Gemm and a product, whose weights may be in 8 bits."""
    shapes = {"conv": (6, 8, 3, 3), "depthwise": (6, 1, 3, 3), "gemm": (5, 16), "matmul": (16, 3)}
    weights = {name: (100 * RNG.standard_normal(shape)).clip(-127, 127).astype(dtype) for name, shape in shapes.items()}
    initializers = [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()]
    initializers.append(onnx.numpy_helper.from_array(np.float32([1.0]), "scale"))
    eight = dtype is np.int8
    nodes = [helper.make_node("DequantizeLinear", [n, "scale"], [f"{n}.plain"]) for n in shapes] if eight else []
    read = {name: f"{name}.plain" if eight else name for name in shapes}
    nodes += [
        helper.make_node("Conv", ["x", read["conv"]], ["a"]),
        helper.make_node("Conv", ["a", read["depthwise"]], ["b"], group=6),
        helper.make_node("Gemm", ["b", read["gemm"]], ["c"], transB=1),
        helper.make_node("MatMul", ["c", read["matmul"]], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in "xy")
    return helper.make_model(helper.make_graph(nodes, "g", [x], [y], initializers))


def weights(proto: onnx.ModelProto) -> dict[str, npt.NDArray[np.generic]]:
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


@pytest.mark.parametrize("dtype", [np.float32, np.int8])
def test_two_of_every_four_input_channels_stay(dtype: type) -> None:
    before = make_graph(dtype)
    given, found = weights(before), weights(zeroed(before, "2:4"))
    fours = np.moveaxis(found["conv"], 1, -1).reshape(-1, 4)
    sizes = np.moveaxis(np.abs(given["conv"].astype(int)), 1, -1).reshape(-1, 4)
    for four, size in zip(fours, sizes, strict=True):
        assert (four == 0).sum() >= 2
        assert np.abs(four.astype(int)).sum() == np.sort(size)[2:].sum(), "the two largest stay as they are"
    assert ((found["matmul"].reshape(4, 4, 3) == 0).sum(1) >= 2).all(), "along the rows of a product"
    assert np.array_equal(found["depthwise"], given["depthwise"])
    assert found["scale"] == 1


def test_four_fifths_anywhere() -> None:
    before = make_graph()
    found = weights(zeroed(before, "80 %"))
    for name in ("conv", "depthwise", "gemm", "matmul"):
        assert (found[name] == 0).mean() == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("pattern", ["2:4", "80 %"])
def test_nothing_else_changes(pattern: Zeros) -> None:
    before = make_graph()
    kept = before.SerializeToString(deterministic=True)
    after = zeroed(before, pattern)
    assert before.SerializeToString(deterministic=True) == kept
    assert after.graph.node == before.graph.node
    assert [t.dims for t in after.graph.initializer] == [t.dims for t in before.graph.initializer]
