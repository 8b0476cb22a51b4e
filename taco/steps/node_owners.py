"""Which module of the network each ONNX node belongs to: device time is told by module through it."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx

from taco.units import Unit

_SCOPES = "pkg.torch.onnx.name_scopes"
_ROOT = "(the model itself)"


def owners_of(fp32: Path, shipped: Path) -> dict[str, str]:
    """Return the owners of a file's nodes; see `owners`."""
    return owners(onnx.load(fp32), onnx.load(shipped))


def units_by_module(units: Sequence[Unit]) -> dict[str, list[str]]:
    """Return the units that decide the width of each module."""
    found: dict[str, list[str]] = {}
    for unit in units:
        for module in dict.fromkeys(member.module for member in unit.members):
            found.setdefault(module, []).append(unit.name)
    return found


def owners(fp32: onnx.ModelProto, shipped: onnx.ModelProto) -> dict[str, str]:
    """Return which module of the network each ONNX node belongs to; nodes of no module are left out.

    A layer with a weight belongs to the module that holds the weight, because the exporter folds normalisations into
    it; every other node to the innermost module that torch notes on it; Q and DQ to what reads them.

    Args:
        fp32: As exported, with torch's names.
        shipped: What was made of it; its nodes kept their names.
    """
    known = {node.name: owner for node in fp32.graph.node if node.name and (owner := _owner(node))}
    readers = {name: node for node in shipped.graph.node for name in node.input}
    for node in shipped.graph.node:
        reader: onnx.NodeProto | None = node
        while reader is not None and reader.op_type in ("QuantizeLinear", "DequantizeLinear"):
            reader = readers.get(reader.output[0])
        if reader is not None and reader is not node and reader.name in known:
            known[node.name] = known[reader.name]
    return known


def _owner(node: onnx.NodeProto) -> str:
    """Return the module of one node; nothing where torch noted none."""
    for name in node.input[1:]:
        if ".weight" in name:
            return str(name.partition(".weight")[0])
    notes: Mapping[str, str] = {p.key: p.value for p in node.metadata_props}
    try:
        scopes = [str(scope) for scope in ast.literal_eval(notes.get(_SCOPES, "[]"))]
    except (ValueError, SyntaxError):
        return ""
    return next((scope for scope in reversed(scopes[:-1]) if scope), _ROOT if scopes else "")
