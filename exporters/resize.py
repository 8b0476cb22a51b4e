"""One graph at many widths: exported twice, at the widest and at the narrowest, and cut to size in between.

torch takes seconds for an export, and a profile needs every block at many widths. What differs between the two exports
depends on the width along a straight line: sizes of weights, numbers of groups, shapes that a reshape is told. The
values of weights do not matter, because such a graph is only timed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import onnx
import onnx.numpy_helper

from taco.errors import GateError


class UnlikeError(GateError):
    """Two widths gave graphs that differ by more than sizes: every width has to be exported by itself."""


@dataclasses.dataclass(frozen=True, slots=True)
class Sized:
    """A graph and the width that it was exported at."""

    proto: onnx.ModelProto
    width: int


def resized(wide: Sized, narrow: Sized, width: int) -> onnx.ModelProto:
    """Return the graph at a width between those of two exports.

    Args:
        wide: Not changed.
        narrow: Not changed.
        width: At most that of `wide`, at least that of `narrow`.

    Raises:
        UnlikeError: The graphs differ by more than sizes, or a size is no whole number at this width.
    """
    if not narrow.width <= width <= wide.width:
        raise ValueError(f"{width} does not lie between {narrow.width} and {wide.width}")
    found = onnx.ModelProto()
    found.CopyFrom(wide.proto)
    del found.graph.value_info[:]
    _check_alike(wide.proto.graph, narrow.proto.graph)
    part = _Line(wide.width, narrow.width, width)
    for tensor, other in zip(found.graph.initializer, narrow.proto.graph.initializer, strict=True):
        part.tensor(tensor, other)
    for node, other_node in zip(found.graph.node, narrow.proto.graph.node, strict=True):
        for attribute, other_attribute in zip(_sorted(node), _sorted(other_node), strict=True):
            part.attribute(attribute, other_attribute)
    return found


@dataclasses.dataclass(frozen=True, slots=True)
class _Line:
    """Sizes as a function of the width."""

    wide: int
    narrow: int
    width: int

    def size(self, wide: int, narrow: int) -> int:
        if wide == narrow:
            return wide
        whole, rest = divmod((wide - narrow) * (self.width - self.narrow), self.wide - self.narrow)
        if rest:
            raise UnlikeError(f"a size is {wide} at width {self.wide} and {narrow} at {self.narrow}")
        return narrow + whole

    def tensor(self, tensor: onnx.TensorProto, other: onnx.TensorProto) -> None:
        """Cut a tensor to size, in place; whole numbers are sizes themselves."""
        if tensor.data_type != other.data_type or len(tensor.dims) != len(other.dims):
            raise UnlikeError(f"{tensor.name} is of two kinds")
        values: npt.NDArray[np.generic] = onnx.numpy_helper.to_array(tensor)
        shape = tuple(self.size(a, b) for a, b in zip(tensor.dims, other.dims, strict=True))
        if np.issubdtype(values.dtype, np.integer) and shape == values.shape:
            others = onnx.numpy_helper.to_array(other)
            flat = [self.size(int(a), int(b)) for a, b in zip(values.flat, others.flat, strict=True)]
            values = np.array(flat, values.dtype).reshape(values.shape)
        else:
            values = values[tuple(slice(0, n) for n in shape)]
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(values).reshape(shape), tensor.name))

    def attribute(self, attribute: onnx.AttributeProto, other: onnx.AttributeProto) -> None:
        """Set an attribute's sizes, in place."""
        if (attribute.name, attribute.type) != (other.name, other.type):
            raise UnlikeError(f"attributes {attribute.name} and {other.name} stand for each other")
        if attribute.type == onnx.AttributeProto.INT:
            attribute.i = self.size(attribute.i, other.i)
        elif attribute.type == onnx.AttributeProto.INTS:
            if len(attribute.ints) != len(other.ints):
                raise UnlikeError(f"{attribute.name} has two lengths")
            attribute.ints[:] = [self.size(a, b) for a, b in zip(attribute.ints, other.ints, strict=True)]
        elif attribute.type == onnx.AttributeProto.TENSOR:
            self.tensor(attribute.t, other.t)


def _check_alike(wide: onnx.GraphProto, narrow: onnx.GraphProto) -> None:
    if list(_structure(wide)) != list(_structure(narrow)):
        raise UnlikeError("the graph has other nodes at another width")


def _structure(graph: onnx.GraphProto) -> Iterator[tuple[object, ...]]:
    """Yield everything but sizes."""
    for tensor in graph.initializer:
        yield ("weight", tensor.name)
    for node in graph.node:
        names: Sequence[str] = sorted(a.name for a in node.attribute)
        yield (node.domain, node.op_type, tuple(node.input), tuple(node.output), tuple(names))


def _sorted(node: onnx.NodeProto) -> list[onnx.AttributeProto]:
    return sorted(node.attribute, key=lambda a: a.name)
