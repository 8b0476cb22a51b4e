"""The folder that a person copies to a Jetson: graphs, pictures, the agent, a builder, and what is to be done.

Everything that the device needs is in it, so that one command does the whole job there without this program.
"""

from __future__ import annotations

import ast
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import taco.device
from taco.accuracy import is_unequal
from taco.agent_pack import agent_bytes
from taco.converting import Pair, spread
from taco.device.trt_kit import KIT, PICTURES
from taco.exporters.trt import strong_file
from taco.listing import LabelledPicture
from taco.pipeline import Finished

BUILDER = "build_engine.py"
#: More pictures would take longer to judge than to measure: each is a process of its own on the device.
MOST_PICTURES = 400
_SCOPES = "pkg.torch.onnx.name_scopes"
_ROOT = "(the model itself)"


def jetson_kit(done: Finished) -> dict[str, Path | bytes]:
    """Return the files of the folder beside the bundle's own: name -> content, or a finished file.

    Args:
        done: A finished run for a TensorRT target.
    """
    files: dict[str, Path | bytes] = {
        "agent.pyz": agent_bytes(),
        BUILDER: (Path(taco.device.__file__).parent / "trt_builder.py").read_bytes(),
        "dense.onnx": done.dense.shipped.path,
        "dense.fp32.onnx": done.dense.fp32.path,
    }
    models = {
        "dense": _model(done.dense, "dense", files),
        "compressed": _model(done.compressed, "model", files),
        "baseline_fp32": {"weak": "dense.fp32.onnx", "strong": "dense.fp32.onnx", "precision": "fp32"},
    }
    pictures, rows = _shown(done)
    buffer = io.BytesIO()
    np.save(buffer, done.material.bank.pixels([p.view for p in pictures]), allow_pickle=False)
    files[PICTURES] = buffer.getvalue()
    request = {**_request(done, rows), "models": models, "owners": _owners(done), "units": _units(done)}
    files[KIT] = (json.dumps(request, indent=1) + "\n").encode()
    return files


def _model(pair: Pair, name: str, files: dict[str, Path | bytes]) -> dict[str, str]:
    """Name a model's graphs, and make the one for strongly typed networks where it is another file."""
    file, precision = f"{name}.onnx", pair.shipped.precision
    if precision != "int8":
        return {"weak": file, "strong": file, "precision": precision}
    strong = f"{name}.strong.onnx"
    files[strong] = strong_file(pair.shipped.path)
    return {"weak": file, "strong": strong, "precision": precision}


def _shown(done: Finished) -> tuple[Sequence[LabelledPicture], list[int]]:
    """Return the pictures that go along, and their rows among the judged ones."""
    judged = done.material.judged
    rows = spread([(row, p) for row, p in enumerate(judged)], MOST_PICTURES)
    return [p for _, p in rows], [row for row, _ in rows]


def _request(done: Finished, rows: Sequence[int]) -> dict[str, Any]:
    task, judged, target = done.material.task, done.judgement, done.plan.target
    preprocessing, protocol = done.plan.generalist.preprocessing, target.benchmark
    labels = judged.labels[rows]
    return {
        "target": target.name,
        "sparse": done.cut.sparsity is not None and done.cut.sparsity.pattern == "2:4",
        "input": {
            "name": "input",
            "shape": [1, *preprocessing.input_size],
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.std),
        },
        "output": "logits",
        "classes": list(task.classes),
        "labels": labels.tolist(),
        "host_answers": {"compressed": judged.exported[rows].tolist()},
        "evaluated_on": "evaluation" if task.evaluation else "select",
        "balanced": is_unequal(np.bincount(labels, minlength=len(task.classes))),
        "rounds": protocol.rounds,
        "round_s": protocol.round_ms / 1000,
        "max_s": protocol.max_seconds,
    }


def _units(done: Finished) -> dict[str, list[str]]:
    """Return the units that decide the width of each module."""
    found: dict[str, list[str]] = {}
    for unit in done.plan.units.within_blocks:
        for module in dict.fromkeys(member.module for member in unit.members):
            found.setdefault(module, []).append(unit.name)
    return found


def _owners(done: Finished) -> dict[str, dict[str, str]]:
    return {"dense": _owners_of(done.dense), "compressed": _owners_of(done.compressed)}


def _owners_of(pair: Pair) -> dict[str, str]:
    return owners(onnx.load(pair.fp32.path), onnx.load(pair.shipped.path))


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
