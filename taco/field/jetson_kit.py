"""The folder that a person copies to a Jetson: graphs, pictures, the agent, a builder, and what is to be done.

Everything that the device needs is in it, so that one command does the whole job there without this program. INT8 goes
along with its form in FP16: the device times both and uses what pays there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import taco.device
from taco.attached.agent_pack import agent_bytes
from taco.device.trt_kit import KIT, PICTURES
from taco.exporters.editions import strong_file
from taco.exporters.protocol import Artifact
from taco.field.engine_judge import input_words, pixels_file
from taco.metrics.accuracy import is_unequal
from taco.pictures.listing import LabelledPicture
from taco.pipeline import Finished
from taco.steps.converting import spread
from taco.steps.node_owners import owners_of, units_by_module

BUILDER = "build_engine.py"
#: More pictures would take longer to judge than to measure: each is a process of its own on the device.
MOST_PICTURES = 400
#: What stands in for INT8 models where INT8 does not pay.
INSTEAD = {"dense": "dense_fp16", "compressed": "compressed_fp16"}
#: Role -> the stem of its files' names.
_STEMS = {"dense": "dense", "compressed": "model"}

Files = dict[str, Path | bytes]


def jetson_kit(done: Finished) -> Files:
    """Return the files of the folder beside the bundle's own: name -> content, or a finished file.

    Args:
        done: A finished run for a TensorRT target.
    """
    files: Files = {
        "agent.pyz": agent_bytes(),
        BUILDER: (Path(taco.device.__file__).parent / "trt_builder.py").read_bytes(),
        "dense.fp32.onnx": done.dense.fp32.path,
    }
    models = {"baseline_fp32": {"weak": "dense.fp32.onnx", "strong": "dense.fp32.onnx", "precision": "fp32"}}
    owners: dict[str, dict[str, str]] = {}
    instead = {}
    for role, pair in (("dense", done.dense), ("compressed", done.compressed)):
        models[role] = _model(pair.shipped, f"{_STEMS[role]}.onnx", files)
        owners[role] = owners_of(pair.fp32.path, pair.shipped.path)
        if pair.fp16 is not None:
            name = instead[role] = INSTEAD[role]
            models[name] = _model(pair.fp16, f"{_STEMS[role]}.fp16.onnx", files)
            owners[name] = owners_of(pair.fp32.path, pair.fp16.path)
    pictures, rows = _shown(done)
    files[PICTURES] = pixels_file(done.material, pictures)
    request = _request(done, rows) | {"models": models, "owners": owners, "instead": instead}
    files[KIT] = (json.dumps(request, indent=1) + "\n").encode()
    return files


def _model(file: Artifact, name: str, files: Files) -> dict[str, str]:
    """Name a model's graphs, and make the one for strongly typed networks where it is another file."""
    files[name] = file.path
    strong = name
    if file.precision == "int8":
        strong = f"{name.removesuffix('.onnx')}.strong.onnx"
        files[strong] = strong_file(file.path)
    return {"weak": name, "strong": strong, "precision": file.precision}


def _shown(done: Finished) -> tuple[Sequence[LabelledPicture], list[int]]:
    """Return the pictures that go along, and their rows among the judged ones."""
    judged = done.material.judged
    rows = spread([(row, p) for row, p in enumerate(judged)], MOST_PICTURES)
    return [p for _, p in rows], [row for row, _ in rows]


def _request(done: Finished, rows: Sequence[int]) -> dict[str, Any]:
    task, judged, target = done.material.task, done.judgement, done.plan.target
    protocol = target.benchmark
    labels = judged.labels[rows]
    # No FP16 file was judged here where INT8 is shipped: its engine is compared with the network that it was made of.
    answers: Mapping[str, Any] = {"compressed": judged.exported, INSTEAD["compressed"]: judged.compressed}
    return {
        "target": target.name,
        "sparse": done.cut.sparsity is not None and done.cut.sparsity.pattern == "2:4",
        **input_words(done.plan.generalist.preprocessing),
        "classes": list(task.classes),
        "labels": labels.tolist(),
        "host_answers": {name: found[rows].tolist() for name, found in answers.items()},
        "evaluated_on": "evaluation" if task.evaluation else "select",
        "balanced": is_unequal(np.bincount(labels, minlength=len(task.classes))),
        "units": units_by_module(done.plan.units.within_blocks),
        "rounds": protocol.rounds,
        "round_s": protocol.round_ms / 1000,
        "max_s": protocol.max_seconds,
    }
