"""The accuracy of a bundle on labelled pictures, on the machine and with the runtime that will use it; no torch."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from taco.accuracy import Score
from taco.bundle import Bundle
from taco.device.images import UnreadableImage, resize_crop, to_tensor
from taco.device.opening import open_session
from taco.device.wire import DeviceError
from taco.errors import InputError, MeasurementError, TaskError
from taco.listing import Listing
from taco.pictures import open_view
from taco.task import ListOptions, list_pictures


@dataclasses.dataclass(frozen=True, slots=True)
class Evaluation:
    """What came out.

    Attributes:
        score: Accuracy, and the recall of every class.
        skipped: Pictures that could not be used, each `path: reason`.
    """

    score: Score
    skipped: tuple[str, ...]


def list_for(bundle: Bundle, task: Path, options: ListOptions | None = None) -> Listing:
    """List labelled pictures for a bundle, whole frames or boxes as it learned from.

    Raises:
        TaskError: Nothing usable was found.
        InputError: A class is none of the bundle's, or boxes are missing.
    """
    listing = list_pictures(task, options or ListOptions(crop=None if bundle.manifest.crop_margin else False))
    foreign = [name for name in listing.classes if name not in bundle.manifest.classes]
    if foreign:
        raise InputError(
            f"{task} has pictures of {foreign[0]!r}, which {bundle.path} does not know",
            f"Its classes are: {', '.join(bundle.manifest.classes)}. Choose among them with --classes",
        )
    if bundle.manifest.crop_margin is not None and not any(p.box for p in listing.pictures):
        raise InputError(f"{bundle.path} learned from boxes around animals, and {task} has none", "Give --boxes")
    return listing


def evaluate(
    bundle: Bundle, listing: Listing, threads: int | None = None, progress: Callable[[int], None] | None = None
) -> Evaluation:
    """Ask a bundle about labelled pictures, one after the other.

    Args:
        bundle: From `taco.verify.open_bundle`.
        listing: From `list_for`.
        threads: Threads of the model; None is every core.
        progress: Called with 1 for every picture.

    Raises:
        TaskError: No picture can be read.
        MeasurementError: The runtime is missing, or cannot run the model.
    """
    labels, answers = [], []
    skipped = [f"{s.path}: {s.reason}" for s in listing.skipped]
    index = {name: i for i, name in enumerate(bundle.manifest.classes)}
    try:
        session = open_session(str(bundle.model_path), threads or os.cpu_count() or 1, bundle.provider)
        for picture in listing.pictures:
            try:
                pixels = resize_crop(open_view(picture.view), bundle.preprocessing)
            except UnreadableImage as error:
                skipped.append(f"{picture.path}: {error.reason}")
            else:
                logits = session.run(to_tensor(pixels, bundle.preprocessing))[0]
                labels.append(index[listing.classes[picture.label_index]])
                answers.append(int(np.argmax(logits)))
            if progress is not None:
                progress(1)
    except DeviceError as error:
        raise MeasurementError(error.what, error.todo) from error
    if not labels:
        raise TaskError("no picture could be read", "Check the pictures")
    score = Score.from_predictions(np.array(labels), np.array(answers), bundle.manifest.classes)
    return Evaluation(score, tuple(skipped))
