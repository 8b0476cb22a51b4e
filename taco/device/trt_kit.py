"""What a folder for a Jetson holds: `jetson.json`, written by the host, checked here before anything is built."""

from __future__ import annotations

import json
import os
from typing import Any, Dict, List, Mapping, NamedTuple, Tuple

import numpy as np

from taco.device.trt_engines import sha256_of
from taco.device.trt_versions import Recipe
from taco.device.wire import RequestError

KIT = "jetson.json"
MANIFEST = "manifest.json"
PICTURES = "evaluation.npy"
PRECISIONS = ("fp32", "fp16", "int8")
_AGAIN = "Copy the whole folder again, or export it again."


class Model(NamedTuple):
    """One model: a graph for weakly and one for strongly typed networks, often the same file, and its precision.

    `sparse` lets the builder consider 2:4 kernels.
    """

    weak: str
    strong: str
    precision: str
    sparse: bool = False

    def graph(self, recipe: Recipe) -> str:
        """Return the graph that is built."""
        return self.strong if recipe.strong else self.weak


class Shown(NamedTuple):
    """The pictures that accuracy is judged on.

    `pixels` is uint8 (n, height, width, 3); `labels` are the true classes, `host` maps a model to the answers that its
    exported file gave on the computer that made the folder, all (n,) int64; `balanced` weighs classes alike; `kind`
    says whether they are evaluation pictures, or select pictures that also guided choices.
    """

    pixels: Any
    labels: Any
    host: Dict[str, Any]
    balanced: bool
    kind: str


class Kit(NamedTuple):
    """A checked folder.

    `models` go by name, `dense` is what the others are compared with; `instead` maps dense and compressed to their form
    in FP16, where they are INT8 and that may not pay; `owners` maps a model to its ONNX nodes' modules,
    `units` a module to the units that decide its width;
    `rounds` interleaved rounds of `round_s` seconds a model, no more than `max_s` seconds together.
    """

    folder: str
    target: str
    models: Dict[str, Model]
    instead: Dict[str, str]
    input_name: str
    output_name: str
    mean: Tuple[float, ...]
    std: Tuple[float, ...]
    classes: List[str]
    shown: Shown
    owners: Dict[str, Dict[str, str]]
    units: Dict[str, List[str]]
    rounds: int
    round_s: float
    max_s: float


def read_kit(folder: str) -> Kit:
    """Read and check a folder.

    Raises:
        RequestError: Something is missing, damaged or out of range; names it.
    """
    asked = _object(os.path.join(folder, KIT))
    try:
        kit = _kit(folder, asked)
    except (KeyError, TypeError, ValueError) as error:
        raise RequestError(f"{KIT} does not say what it must: {type(error).__name__}: {error}", _AGAIN) from error
    _check_files(kit)
    return kit


def read_models(given: Mapping[str, Any]) -> Dict[str, Model]:
    """Read models by name; every other exception than ValueError comes from a wrong form too.

    Raises:
        ValueError: A precision is not known.
    """
    models = {
        str(name): Model(str(m["weak"]), str(m["strong"]), str(m["precision"]), bool(m.get("sparse", False)))
        for name, m in given.items()
    }
    if any(model.precision not in PRECISIONS for model in models.values()):
        raise ValueError(f"a precision is none of {', '.join(PRECISIONS)}")
    return models


def _kit(folder: str, asked: Mapping[str, Any]) -> Kit:
    models = {
        name: model._replace(sparse=bool(asked["sparse"])) for name, model in read_models(asked["models"]).items()
    }
    instead = {str(role): str(name) for role, name in asked.get("instead", {}).items()}
    if not {"dense", "compressed", *instead.values()} <= set(models):
        raise ValueError("models must hold 'dense' and 'compressed', and what stands in for them")
    if instead and set(instead) != {"dense", "compressed"}:
        raise ValueError("instead must name a model for 'dense' and one for 'compressed'")
    return Kit(
        folder=folder,
        target=str(asked["target"]),
        models=models,
        instead=instead,
        input_name=str(asked["input"]["name"]),
        output_name=str(asked["output"]),
        mean=tuple(map(float, asked["input"]["mean"])),
        std=tuple(map(float, asked["input"]["std"])),
        classes=list(map(str, asked["classes"])),
        shown=_shown(folder, asked),
        owners={str(name): dict(nodes) for name, nodes in asked["owners"].items()},
        units={str(module): list(map(str, names)) for module, names in asked["units"].items()},
        rounds=int(asked["rounds"]),
        round_s=float(asked["round_s"]),
        max_s=float(asked["max_s"]),
    )


def _shown(folder: str, asked: Mapping[str, Any]) -> Shown:
    try:
        pixels = np.load(os.path.join(folder, PICTURES), mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise RequestError(f"{PICTURES} cannot be read: {error}", _AGAIN) from error
    labels = np.asarray(asked["labels"], np.int64)
    host = {str(name): np.asarray(answers, np.int64) for name, answers in asked["host_answers"].items()}
    height_width = tuple(asked["input"]["shape"][2:])
    if pixels.dtype != np.uint8 or pixels.shape != (len(labels), *height_width, 3):
        raise ValueError(f"{PICTURES} has {pixels.dtype} {pixels.shape}, not uint8 {(len(labels), *height_width, 3)}")
    if any(answers.shape != labels.shape for answers in host.values()):
        raise ValueError("host_answers and labels are not of one length")
    if asked["evaluated_on"] not in ("evaluation", "select"):
        raise ValueError("evaluated_on must be evaluation or select")
    lacking = {"compressed", *filter(None, [asked.get("instead", {}).get("compressed")])} - set(host)
    if lacking:
        raise ValueError(f"host_answers lacks {min(lacking)!r}")
    return Shown(pixels, labels, host, bool(asked["balanced"]), str(asked["evaluated_on"]))


def _check_files(kit: Kit) -> None:
    """Compare every file that is used with the manifest's hash: a copy over a bad cable is told at once."""
    listed = _object(os.path.join(kit.folder, MANIFEST)).get("files", {})
    for name in sorted({file for model in kit.models.values() for file in (model.weak, model.strong)} | {PICTURES}):
        entry = listed.get(name)
        if not isinstance(entry, dict):
            raise RequestError(f"{MANIFEST} does not list {name}", _AGAIN)
        if sha256_of(os.path.join(kit.folder, name)) != entry.get("sha256"):
            raise RequestError(f"{name} is not the file that was exported (its hash differs)", _AGAIN)


def _object(path: str) -> Dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as stream:
            found = json.load(stream)
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}", "Run in the folder of an export.") from error
    except ValueError as error:
        raise RequestError(f"{path} is not JSON: {error}", _AGAIN) from error
    if not isinstance(found, dict):
        raise RequestError(f"{path} must hold a JSON object", _AGAIN)
    return found
