"""Whether a bundle's ONNX file may be given to a runtime: whole, self-contained, of bounded size, and a classifier.

A file from elsewhere is input like any other: it must not reach for files outside the bundle, ask for endless work or
more memory than there is. What our own exports never have (loops, branches, other operator sets, free dimensions) is
refused.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from taco.errors import BundleError

_LARGEST_FILE_BYTES = 2 * 1024**3 - 1  # protobuf holds no more
_LARGEST_TENSOR = 2**28
_CONTROL_FLOW = ("If", "Loop", "Scan", "SequenceMap")
_AGAIN = "Copy the bundle again, or export it again"


def check_model(path: Path, input_size: tuple[int, int, int], classes: int) -> None:
    """Check an ONNX file without running it.

    Args:
        path: The file.
        input_size: (channels, height, width) that the bundle's preprocessing gives.
        classes: How many logits there must be.

    Raises:
        BundleError: Says what is wrong with it.
    """
    proto = _read(path)
    # Each is asked only when those before it found nothing: nothing may follow a reference to another file.
    checks = (_reaches_out(proto), _wrong_weights(proto), _wrong_ends(proto, input_size, classes), _too_large(proto))
    for fault in itertools.chain.from_iterable(checks):
        raise BundleError(f"{path} is refused: {fault}", _AGAIN)


def _read(path: Path) -> Any:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        if path.stat().st_size > _LARGEST_FILE_BYTES:
            raise BundleError(f"{path} is too large for an ONNX file", _AGAIN)
        proto = onnx.ModelProto.FromString(path.read_bytes())
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}", _AGAIN) from error
    except (DecodeError, RecursionError) as error:
        raise BundleError(f"{path} is not an ONNX file: {error}", _AGAIN) from error
    if not proto.graph.node:
        raise BundleError(f"{path} is not an ONNX file: it has no operators", _AGAIN)
    return proto


def _reaches_out(proto: Any) -> Iterator[str]:
    """Yield what a classifier of ours never asks for."""
    foreign = sorted({o.domain for o in proto.opset_import if o.domain not in ("", "ai.onnx")})
    foreign += sorted({node.domain for node in proto.graph.node if node.domain not in ("", "ai.onnx")})
    if foreign:
        yield f"it uses the operators of {foreign[0]!r}"
    if proto.functions:
        yield "it defines functions"
    for node in proto.graph.node:
        if node.op_type in _CONTROL_FLOW or any(a.HasField("g") or a.graphs for a in node.attribute):
            yield f"node {node.name!r} branches or loops ({node.op_type})"
    for tensor in _tensors(proto):
        if tensor.data_location or tensor.external_data:
            yield f"weight {tensor.name!r} lies outside the file"
    if proto.graph.sparse_initializer:
        yield "it has sparse weights"


def _tensors(proto: Any) -> Iterator[Any]:
    yield from proto.graph.initializer
    for node in proto.graph.node:
        for attribute in node.attribute:
            yield from (*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors)


def _wrong_weights(proto: Any) -> Iterator[str]:
    """Yield weights whose bytes are not those of their shape; a product that overflows is one too."""
    import onnx

    for tensor in _tensors(proto):
        if tensor.data_type not in onnx.TensorProto.DataType.values() or not tensor.data_type:
            yield f"weight {tensor.name!r} has an unknown type"
            continue
        if any(n < 0 for n in tensor.dims) or _size(tensor.dims) > _LARGEST_TENSOR:
            yield f"weight {tensor.name!r} has the absurd shape {list(tensor.dims)[:8]}"
            continue
        try:
            values = onnx.numpy_helper.to_array(tensor)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            yield f"weight {tensor.name!r} is damaged ({error})"
            continue
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            yield f"weight {tensor.name!r} holds what is no finite number"


def _wrong_ends(proto: Any, input_size: tuple[int, int, int], classes: int) -> Iterator[str]:
    """Yield ends other than one float32 picture in and its logits out."""
    from onnx import TensorProto

    weights = {i.name for i in proto.graph.initializer}
    inputs = [i for i in proto.graph.input if i.name not in weights]
    for kind, found, expected in (
        ("input", inputs, [1, *input_size]),
        ("output", list(proto.graph.output), [1, classes]),
    ):
        shapes = [[d.dim_value for d in item.type.tensor_type.shape.dim] for item in found]
        if shapes != [expected] or found[0].type.tensor_type.elem_type != TensorProto.FLOAT:
            yield f"its {kind} is {shapes[:3]}, not one float32 tensor {expected}"


def _too_large(proto: Any) -> Iterator[str]:
    """Yield tensors of unknown or absurd size, and whatever onnx's own full check finds."""
    import onnx

    newest = onnx.defs.onnx_opset_version()
    if any(o.version > newest for o in proto.opset_import):
        yield f"it is not valid ONNX (of an operator set above {newest})"
        return
    try:
        onnx.checker.check_model(proto, full_check=True)
        known = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True).graph
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
        yield f"it is not valid ONNX ({str(error).strip().splitlines()[0]})"
        return
    shapes = {
        v.name: [d.dim_value if d.HasField("dim_value") else -1 for d in v.type.tensor_type.shape.dim]
        for v in (*known.value_info, *known.output)
        if v.type.tensor_type.HasField("shape")
    }
    for node in known.node:
        for name in filter(None, node.output):
            shape = shapes.get(name)
            if shape is None or -1 in shape:
                yield f"the size of tensor {name!r} is not known before it runs"
            elif _size(shape) > _LARGEST_TENSOR:
                yield f"tensor {name!r} would have the absurd shape {shape[:8]}"


def _size(dims: Any) -> int:
    product = 1
    for n in dims:
        product *= int(n)
    return product
