"""The same graph with zeros in its weights, to see whether a runtime gains any time from them.

Values do not matter for time, so weights of least magnitude become zero and nothing is refitted. Such a file is timed
and thrown away.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import onnx
import onnx.numpy_helper

Zeros = Literal["2:4", "80 %"]
ZEROS: tuple[Zeros, ...] = get_args(Zeros)

_SHARE = 0.8
_GROUP, _KEPT = 4, 2


def zeroed(proto: onnx.ModelProto, pattern: Zeros) -> onnx.ModelProto:
    """Return the graph with zeros in the weights of its convolutions and products.

    Args:
        proto: Not changed. Weights stand in it plainly or behind a DequantizeLinear.
        pattern: 2:4, along input channels where they come in fours; or four fifths of all weights, anywhere.
    """
    found = onnx.ModelProto()
    found.CopyFrom(proto)
    tensors = {tensor.name: tensor for tensor in found.graph.initializer}
    for name, axis in _weights(found.graph):
        if (tensor := tensors.get(name)) is not None and len(tensor.dims) > 1:
            values = np.array(onnx.numpy_helper.to_array(tensor))
            values[_leaves(np.abs(values.astype(np.float32)), axis, pattern)] = 0
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, name))
    return found


def _weights(graph: onnx.GraphProto) -> Iterator[tuple[str, int]]:
    """Yield the initializer that holds each layer's weight, and its axis of input channels."""
    stored = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            transposed = any(a.name == "transB" and a.i for a in node.attribute)
            axis = 1 if node.op_type == "Conv" or transposed else 0
            yield stored.get(node.input[1], node.input[1]), axis


def _leaves(size: npt.NDArray[np.float32], axis: int, pattern: Zeros) -> npt.NDArray[np.bool_]:
    """Return which weights become zero, of the weights' own shape."""
    if pattern != "2:4":
        leaves = np.zeros(size.size, np.bool_)
        leaves[size.argsort(axis=None)[: int(_SHARE * size.size)]] = True
        return leaves.reshape(size.shape)
    if size.shape[axis] % _GROUP:
        return np.zeros(size.shape, np.bool_)
    fours = np.moveaxis(size, axis, -1)
    fours = fours.reshape(*fours.shape[:-1], -1, _GROUP)
    ranks = fours.argsort(-1).argsort(-1)
    flat = (ranks < _GROUP - _KEPT).reshape(*fours.shape[:-2], -1)
    return np.moveaxis(flat, -1, axis)
