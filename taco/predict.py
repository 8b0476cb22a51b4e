"""Name the pictures of new frames with a bundle alone: onnxruntime, numpy and Pillow; torch is never imported."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from taco.bundle import Bundle
from taco.device.images import UnreadableImage, read_rgb, resize_crop, to_tensor
from taco.device.session import OrtSession
from taco.device.wire import DeviceError
from taco.errors import InputError, MeasurementError
from taco.task import picture_files

Format = Literal["csv", "json"]


@dataclasses.dataclass(frozen=True, slots=True)
class Prediction:
    """What the model says about one picture.

    Attributes:
        path: The picture.
        label: The likeliest class; None when the picture cannot be read.
        probability: Softmax of the likeliest class, 0-1.
        probabilities: Class -> softmax.
        failure: Why it could not be read; None otherwise.
    """

    path: Path
    label: str | None
    probability: float | None
    probabilities: dict[str, float] | None
    failure: str | None


def find_images(sources: Sequence[Path]) -> list[Path]:
    """Return the pictures among files and in folders, folders searched in depth, each once.

    Raises:
        InputError: A source does not exist, or there is no picture at all.
    """
    found: dict[Path, None] = {}
    for source in sources:
        if not source.exists():
            raise InputError(f"there is no file or folder {source}", "Check the path")
        for path in sorted(picture_files(source)) if source.is_dir() else [source]:
            found[path] = None
    if not found:
        raise InputError(f"no pictures under {', '.join(map(str, sources))}", "Give picture files or a folder of them")
    return list(found)


def predict(
    bundle: Bundle, images: Sequence[Path], threads: int | None = None, progress: Callable[[int], None] | None = None
) -> Iterator[Prediction]:
    """Classify pictures one after the other; an unreadable one is listed with its reason.

    Raises:
        MeasurementError: ONNX Runtime is missing or cannot open the model.
    """
    try:
        session = OrtSession(str(bundle.model_path), threads or os.cpu_count() or 1)
    except DeviceError as error:
        raise MeasurementError(str(error)) from error
    for path in images:
        yield _one(session, bundle, path)
        if progress is not None:
            progress(1)


def _one(session: OrtSession, bundle: Bundle, path: Path) -> Prediction:
    try:
        pixels = resize_crop(read_rgb(path), bundle.preprocessing)
    except UnreadableImage as error:
        return Prediction(path, None, None, None, error.reason)
    logits = session.run(to_tensor(pixels, bundle.preprocessing))[0]
    shares = softmax(np.asarray(logits, np.float64))
    best = int(shares.argmax())
    classes = bundle.manifest.classes
    named = {name: round(float(p), 6) for name, p in zip(classes, shares, strict=True)}
    return Prediction(path, classes[best], named[classes[best]], named, None)


def softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return exp(x) / sum exp(x), (classes,)."""
    shifted: npt.NDArray[np.float64] = np.exp(logits - logits.max())
    shares: npt.NDArray[np.float64] = shifted / shifted.sum()
    return shares


def render(predictions: Sequence[Prediction], classes: Sequence[str], form: Format) -> str:
    """Write predictions as CSV (`path,label,probability,failure` and a column a class) or JSON."""
    if form == "json":
        return json.dumps([{**dataclasses.asdict(p), "path": str(p.path)} for p in predictions], indent=1) + "\n"
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["path", "label", "probability", "failure", *(f"p:{c}" for c in classes)])
    for p in predictions:
        shares = p.probabilities or {}
        cells = [str(p.path), p.label or "", "" if p.probability is None else p.probability, p.failure or ""]
        writer.writerow([*cells, *(shares.get(c, "") for c in classes)])
    return out.getvalue()
