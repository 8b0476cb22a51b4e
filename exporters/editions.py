"""What an ONNX file asks of TensorRT: its precision, 2:4 kernels, and the graph for the typing of the device.

One file serves weakly and strongly typed networks in fp32 and in FP16. INT8 needs a second one for strongly typed
networks (10.12 and later), in which everything between Q and DQ is FP16.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import onnx
from onnx import TensorProto

from taco.exporters.half import to_half
from taco.exporters.opsets import raised
from taco.exporters.trt_rules import require_rules
from taco.exporters.zeroed import has_two_to_four
from taco.files import sha256_of
from taco.targets.loading import Precision

#: Of the INT8 graph for strongly typed networks: Q and DQ take halves from 19 on, TensorRT 10.3 reads up to 20.
STRONG_OPSET = 20


@dataclasses.dataclass(frozen=True, slots=True)
class Edition:
    """A file as one TensorRT builds it.

    Attributes:
        path: Its graph.
        precision: What the graph computes in.
        sparse: Whether its weights have the 2:4 pattern, so that 2:4 kernels are worth considering.
    """

    path: Path
    precision: Precision
    sparse: bool


def edition_for(path: Path, folder: Path, *, strong: bool) -> Edition:
    """Return the edition of a file.

    Args:
        path: As it was exported for TensorRT.
        folder: For graphs that have to be made; one that is there already is taken.
        strong: Whether the device's networks are strongly typed.

    Raises:
        GateError: The strongly typed graph breaks a rule of TensorRT.
    """
    proto = onnx.load(path)
    precision, sparse = precision_of(proto), has_two_to_four(proto)
    if precision != "int8" or not strong:
        return Edition(path, precision, sparse)
    made = folder / f"{sha256_of(path)}.strong.onnx"
    if not made.is_file():
        made.write_bytes(strong_file(path))
    return Edition(made, precision, sparse)


def precision_of(proto: onnx.ModelProto) -> Precision:
    """Return what a graph computes in: INT8 where it quantises anything, FP16 where a weight is a half, else fp32."""
    if any(node.op_type == "QuantizeLinear" for node in proto.graph.node):
        return "int8"
    halves = any(tensor.data_type == TensorProto.FLOAT16 for tensor in proto.graph.initializer)
    return "fp16" if halves else "fp32"


def strongly_typed(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return the INT8 graph whose other arithmetic is FP16, for TensorRT 10.12 and later.

    Args:
        proto: With symmetric Q/DQ, operator set 17, else fp32.

    Raises:
        GateError: It breaks a rule of TensorRT.
    """
    made = to_half(raised(proto, STRONG_OPSET))
    require_rules(made, STRONG_OPSET)
    return made


def strong_file(path: Path) -> bytes:
    """Return the content of the strongly typed form of an INT8 file."""
    from taco.exporters.graph import write_proto

    with tempfile.TemporaryDirectory(prefix="taco-strong-") as folder:
        artifact = write_proto(strongly_typed(onnx.load(path)), Path(folder) / "strong.onnx")
        return artifact.path.read_bytes()
