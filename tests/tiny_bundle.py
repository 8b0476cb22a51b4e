"""A bundle whose model names the colour of a picture: red is a fox, green a hare, blue the third class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from taco.bundle import Bundle, labels_file, publish

PREPROCESSING: dict[str, Any] = {
    "input_size": [3, 32, 32],
    "interpolation": "bicubic",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "crop_pct": 1.0,
    "crop_mode": "squash",
}
SOURCE = {"weights_source": "file a.pth", "weights_sha256": "0" * 64, "licence": "unknown", "random_weights": False}
#: Sure ones: the model is nearly certain. Doubtful ones: a probability between 0.5 and 0.7.
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
PALE_RED, PALE_BLUE = (170, 128, 128), (128, 128, 170)


def colour_model() -> bytes:
    """(1, 3, 32, 32) float32 -> (1, 3) logits: four times the mean of each channel."""
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["input"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
            helper.make_node("MatMul", ["flat", "w"], ["logits"]),
        ],
        "colour",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 3])],
        [numpy_helper.from_array((4 * np.eye(3)).astype(np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def make_bundle(
    folder: Path, classes: tuple[str, str, str] = ("fox", "hare", "blank"), agent: bytes = b"", **changes: Any
) -> Bundle:
    """Publish one, with the device agent where that is given; `changes` are fields of its manifest."""
    folder.mkdir(parents=True)
    files: dict[str, Path | bytes] = {
        "model.onnx": colour_model(),
        "labels.txt": labels_file(classes),
        "preprocessing.json": json.dumps(PREPROCESSING).encode(),
        **({"agent.pyz": agent} if agent else {}),
    }
    manifest = {
        "taco_version": "0.1.0",
        "created": "2025-01-01T00:00:00+00:00",
        "task": "site",
        "classes": list(classes),
        "model": {"name": "colours", "head": "keep", **SOURCE},
        "target": "host-cpu",
        "runtime": "ort",
        "precision": "fp32",
        "allocation": {},
        "seed": 0,
    }
    publish(folder, files, manifest | changes)
    return Bundle(folder)


def paint(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (64, 48)) -> Path:
    """Save a picture of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path
