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
_QUANTISING = ("QuantizeLinear", "DequantizeLinear")


def zeroed(proto: onnx.ModelProto, pattern: Zeros) -> onnx.ModelProto:
    """Return the graph with zeros in the weights of its convolutions and products.

    Args:
        proto: Not changed. Weights stand in it plainly, behind a DequantizeLinear, or behind both Q and DQ.
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


def has_two_to_four(proto: onnx.ModelProto) -> bool:
    """Say whether a graph's weights have the pattern: at most 2 of 4 neighbours along the input channels are not 0.

    It is said of a graph in which that holds for at least half of the weights that could have it: some layers are left
    dense by choice, and a small one may have the pattern by chance.
    """
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    could = has = 0
    for name, axis in _weights(proto.graph):
        tensor = tensors.get(name)
        if tensor is not None and len(tensor.dims) > 1 and tensor.dims[axis] % _GROUP == 0:
            values = np.asarray(onnx.numpy_helper.to_array(tensor))
            could += values.size
            has += values.size if _in_fours(values, axis) else 0
    return has > 0 and 2 * has >= could


def _in_fours(values: npt.NDArray[np.generic], axis: int) -> bool:
    kept = np.moveaxis(values != 0, axis, -1).reshape(-1, _GROUP).sum(1)
    return bool((kept <= _KEPT).all() and kept.any())


def _weights(graph: onnx.GraphProto) -> Iterator[tuple[str, int]]:
    """Yield the initializer that holds each layer's weight, and its axis of input channels."""
    stored = {node.output[0]: node.input[0] for node in graph.node if node.op_type in _QUANTISING}
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            transposed = any(a.name == "transB" and a.i for a in node.attribute)
            axis = 1 if node.op_type == "Conv" or transposed else 0
            name = node.input[1]
            while name in stored:
                name = stored[name]
            yield name, axis


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
