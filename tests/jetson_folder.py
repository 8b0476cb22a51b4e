"""A folder for a Jetson as the host leaves it, with a tiny network, made without a run."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from int8_models import CLASSES, SIZE, calibration, run, small_net
from make_report import make_precision, make_unmeasured

from taco.attached.agent_pack import pack_agent
from taco.device.normalise import normalised
from taco.device.trt_kit import KIT, MANIFEST, PICTURES
from taco.exporters.half import to_half
from taco.exporters.mixed import quantise
from taco.exporters.opened import Simulated
from taco.exporters.scheme import TENSORRT
from taco.report.schema import RuntimeSection
from taco.report.write import write_report

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def quantised_kit(folder: Path, *, int8_pays: bool) -> dict[str, Any]:
    """Write INT8 graphs beside those in FP16; returns what jetson.json and the report say of them.

    The stand-in's times grow with the file, and INT8 graphs hold their weights as floats: they are slower unless those
    in FP16 are made larger.
    """
    net = small_net()
    made, _ = quantise(net, TENSORRT, calibration(net), Simulated())
    models = {}
    for role, extra in (("dense", 40_000), ("compressed", 20_000)):
        half = to_half(net)
        half.doc_string = "x" * (extra if int8_pays else 0)
        (folder / f"{role}.int8.onnx").write_bytes(made.SerializeToString())
        (folder / f"{role}.fp16.onnx").write_bytes(half.SerializeToString())
        models[role] = {"weak": f"{role}.int8.onnx", "strong": f"{role}.int8.onnx", "precision": "int8"}
        models[f"{role}_fp16"] = {"weak": f"{role}.fp16.onnx", "strong": f"{role}.fp16.onnx", "precision": "fp16"}
    return {"models": models, "instead": {"dense": "dense_fp16", "compressed": "compressed_fp16"}}


def make_jetson_folder(folder: Path, pictures: int = 4, int8_pays: bool | None = None, **changes: Any) -> Path:
    """Write a folder whose labels are what the fp32 network answers.

    Args:
        folder: Made.
        pictures: How many go along.
        int8_pays: Whether INT8 is faster than FP16 there; None makes a folder in FP16 alone.
        changes: Keys of jetson.json.
    """
    folder.mkdir(parents=True)
    net = small_net()
    half = to_half(net)
    larger = onnx.ModelProto()
    larger.CopyFrom(net)
    larger.doc_string = "x" * 20_000  # the stand-in's times grow with the file
    for name, proto in (("model", half), ("dense", to_half(larger)), ("dense.fp32", larger)):
        (folder / f"{name}.onnx").write_bytes(proto.SerializeToString())
    pixels = np.random.default_rng(0).integers(0, 256, (pictures, *SIZE[1:], 3), np.uint8)
    np.save(folder / PICTURES, pixels, allow_pickle=False)
    labels = [int(run(net, picture[None])[0].argmax()) for picture in normalised(pixels, MEAN, STD)]
    nodes = {node.name: node.name.removeprefix("n_") for node in net.graph.node}
    asked: dict[str, Any] = {
        "target": "jetson-orin",
        "models": {
            "dense": {"weak": "dense.onnx", "strong": "dense.onnx", "precision": "fp16"},
            "compressed": {"weak": "model.onnx", "strong": "model.onnx", "precision": "fp16"},
            "baseline_fp32": {"weak": "dense.fp32.onnx", "strong": "dense.fp32.onnx", "precision": "fp32"},
        },
        "sparse": False,
        "input": {"name": "input", "shape": [1, *SIZE], "mean": list(MEAN), "std": list(STD)},
        "output": "logits",
        "classes": [f"class {index}" for index in range(CLASSES)],
        "labels": labels,
        "host_answers": {"compressed": labels},
        "evaluated_on": "evaluation",
        "balanced": False,
        "rounds": 2,
        "round_s": 1.0,
        "max_s": 600.0,
        "owners": {"dense": nodes, "compressed": nodes},
        "units": {"stem": ["pw"], "pw": ["pw"]},
    }
    if int8_pays is not None:
        asked |= quantised_kit(folder, int8_pays=int8_pays)
        asked["host_answers"] = {"compressed": labels, "compressed_fp16": labels}
    (folder / KIT).write_text(json.dumps(asked | changes))
    files = [path for path in folder.iterdir() if path.suffix in (".onnx", ".npy")]
    hashes = {path.name: {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()} for path in files}
    (folder / MANIFEST).write_text(json.dumps({"files": hashes}))
    precision = "fp16" if int8_pays is None else "int8"
    runtime = RuntimeSection(name="TensorRT", version=None, precision=precision, provider=None, threads=None)
    told = None if int8_pays is None else make_precision(compared_with="fp16", faster_than_fp32=None)
    write_report(make_unmeasured(runtime=runtime, precision=told), folder)
    pack_agent(folder / "agent.pyz")
    return folder
