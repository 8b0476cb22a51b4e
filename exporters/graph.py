"""torch -> one ONNX file, the interchange of every exporter.

The dynamo exporter, one file, static batch 1 (a dynamic batch is slower on every runtime; LESSONS 64), opset read back
(RUNTIMES.md: asking is not getting), local paths stripped, denormal weights flushed to zero.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import torch

from taco.device.openvino_session import PRECISION_KEY
from taco.errors import GateError
from taco.exporters.operators import remembered_operators
from taco.exporters.protocol import Artifact, Compressed, Quantisation
from taco.files import write_atomically

OPSET = 20
_TINY = float(np.finfo(np.float32).tiny)
#: Keys that torch writes on every node. Stack traces hold paths of this machine; scopes name torch modules and stay.
_PRIVATE_KEYS = ("stack_trace", "pkg.torch.onnx.stack_trace", "pkg.torch.export.graph_module", "pkg.torch.onnx.fx_node")

log = logging.getLogger(__name__)


def write_onnx(model: Compressed, out: Path, opset: int = OPSET) -> Artifact:
    """Export `model` to `out`, atomically, and check the file.

    Raises:
        GateError: torch cannot export it, or the file fails onnx's full check, its shapes or its opset.
        TacoError: The file cannot be written.
    """
    return write_proto(export_proto(model, opset), out)


def export_proto(model: Compressed, opset: int = OPSET) -> onnx.ModelProto:
    """Export `model` and check the graph.

    Raises:
        GateError: torch cannot export it, or the graph fails onnx's full check, its shapes or its opset.
    """
    if model.fp32 is not None:
        return onnx.load(model.fp32)
    examples = (torch.zeros(1, *model.input_size),)
    proto = tidied(program_proto(plain(model.module), examples, (["input"], ["logits"]), opset))
    check_graph(proto, model, opset)
    return proto


def write_proto(proto: onnx.ModelProto, out: Path, quantisation: Quantisation | None = None) -> Artifact:
    """Write a graph to `out`, atomically, after onnx's full check.

    Raises:
        GateError: The graph is not valid.
        TacoError: The file cannot be written.
    """
    _check_valid(proto)
    data = proto.SerializeToString(deterministic=True)
    write_atomically(out, data)
    precision = "int8" if quantisation is not None and quantisation.quantised else _precision(proto)
    digest = hashlib.sha256(data).hexdigest()
    return Artifact(out, digest, len(data), precision, _opset(proto), len(proto.graph.node), quantisation)


def program_proto(
    module: torch.nn.Module, examples: tuple[Any, ...], names: Sequence[list[str]], opset: int
) -> onnx.ModelProto:
    """Return what torch makes of a module, as it is.

    Args:
        module: From `plain`.
        examples: Its arguments.
        names: Of the graph's inputs, and of its outputs.
        opset: To ask for.

    Raises:
        GateError: torch cannot export it.
    """
    inputs, outputs = names
    try:
        with _quiet(), remembered_operators():
            program = torch.onnx.export(
                module,
                examples,
                dynamo=True,
                external_data=False,
                opset_version=opset,
                input_names=inputs,
                output_names=outputs,
                optimize=True,
                verbose=False,
            )
    except (RuntimeError, torch.onnx.errors.OnnxExporterError, ValueError, NotImplementedError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise GateError(f"torch cannot export {type(module).__name__} to ONNX: {first}") from error
    assert program is not None  # noqa: S101 - dynamo=True returns a program
    proto: onnx.ModelProto = program.model_proto
    return proto


def tidied(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy without paths of this machine and without denormal weights."""
    clean = strip_paths(proto)
    flush_denormals(clean)
    return clean


def plain(module: torch.nn.Module) -> torch.nn.Module:
    """Return a contiguous float32 copy in eval mode."""
    return copy.deepcopy(module).float().to(memory_format=torch.contiguous_format).eval()


def flush_denormals(proto: onnx.ModelProto) -> None:
    """Set denormal weights of `proto` to zero, in place: they slow CPUs down tenfold (LESSONS 15).

    Done on the file, because the exporter multiplies BatchNorm into convolutions and may make new ones.
    """
    for initializer in proto.graph.initializer:
        if initializer.data_type != onnx.TensorProto.FLOAT:
            continue
        values = onnx.numpy_helper.to_array(initializer)
        tiny = (values != 0) & (np.abs(values) < _TINY)
        if tiny.any():
            initializer.CopyFrom(onnx.numpy_helper.from_array(np.where(tiny, 0, values), initializer.name))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch.onnx prints progress to stdout and warns about its own internals."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def strip_paths(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy without anything that names files of this machine; module scopes stay."""
    clean = onnx.ModelProto()
    clean.CopyFrom(proto)
    holders = [clean, *_holders(clean.graph), *clean.functions]
    holders += [inner for function in clean.functions for inner in _of_nodes(function.node)]
    for holder in holders:
        kept = [(p.key, p.value) for p in holder.metadata_props if p.key not in _PRIVATE_KEYS and ".py" not in p.value]
        del holder.metadata_props[:]
        for key, value in kept:
            holder.metadata_props.add(key=key, value=value)
        holder.doc_string = ""
    return clean


def _holders(graph: onnx.GraphProto) -> Iterator[Any]:
    """Yield everything of a graph that carries metadata, the bodies of its loops and branches included."""
    yield graph
    yield from (*graph.value_info, *graph.input, *graph.output, *graph.initializer)
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[Any]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for body in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from _holders(body)


def _check_valid(proto: onnx.ModelProto) -> None:
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GateError(f"the exported graph is not valid ONNX: {error}") from error


def check_graph(proto: onnx.ModelProto, model: Compressed, opset: int) -> None:
    """Check the graph of a module.

    Raises:
        GateError: It fails onnx's full check, or its shapes or opset are not those of the module.
    """
    _check_valid(proto)
    if _opset(proto) != opset:
        raise GateError(f"opset {opset} was asked, the file says {_opset(proto)}")
    if len(proto.graph.input) != 1 or len(proto.graph.output) != 1:
        found = f"{len(proto.graph.input)} inputs and {len(proto.graph.output)} outputs"
        raise GateError(f"the exported graph has {found}, not one of each")
    shape = [d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim]
    if shape != [1, *model.input_size]:
        raise GateError(f"the exported input is {shape}, not {[1, *model.input_size]}")
    norms = sum(isinstance(m, torch.nn.LayerNorm) for m in model.module.modules())
    nodes = sum(node.op_type == "LayerNormalization" for node in proto.graph.node)
    if nodes < norms:
        raise GateError(f"{norms} LayerNorm modules became {nodes} LayerNormalization nodes; FP16 would go wrong")


def _precision(proto: onnx.ModelProto) -> str:
    """Return what a graph without Q/DQ computes in: what its metadata asks for, else most of its numbers decide."""
    asked = [str(entry.value) for entry in proto.metadata_props if entry.key == PRECISION_KEY]
    if asked:
        return asked[0]
    kinds = [i.data_type for i in proto.graph.initializer for _ in range(int(np.prod(i.dims)) > 1)]
    halves = kinds.count(onnx.TensorProto.FLOAT16)
    return "fp16" if halves > kinds.count(onnx.TensorProto.FLOAT) else "fp32"


def _opset(proto: onnx.ModelProto) -> int:
    return next(int(o.version) for o in proto.opset_import if o.domain in ("", "ai.onnx"))
