"""Name the pictures of new frames with a bundle alone: one runtime, numpy and Pillow; torch is never imported."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from taco.answers.camtrap_dp import to_camtrap_dp
from taco.answers.media import media_of, package_folder
from taco.answers.megadetector import to_megadetector
from taco.answers.prediction import Prediction
from taco.answers.table import to_csv, to_json
from taco.bundle import Bundle
from taco.device.images import UnreadableImage, crop_box, read_rgb, resize_crop, to_tensor
from taco.device.opening import Session, open_session
from taco.device.wire import DeviceError
from taco.errors import InputError, MeasurementError
from taco.formats.folder import files_of, told_foreign
from taco.formats.megadetector import ANIMAL, Detection, DetectorOutput
from taco.formats.names import BLANK
from taco.metrics.abstain import DECIMALS, is_sure, softmax
from taco.options import MIN_CONFIDENCE
from taco.wording import printable

Format = Literal["csv", "json", "megadetector", "camtrap-dp"]
log = logging.getLogger(__name__)

__all__ = ["Format", "Prediction", "common_root", "find_images", "predict", "render", "softmax"]


def find_images(sources: Sequence[Path]) -> list[Path]:
    """Return the pictures among files and in folders, folders searched in depth, each once.

    A Camtrap DP package (its folder or its `datapackage.json`) gives the pictures of its media table, in that order.

    Raises:
        InputError: A source does not exist, there is no picture at all, or a package comes with other sources.
    """
    found: dict[Path, None] = {}
    for source in sources:
        if not source.exists():
            raise InputError(f"there is no file or folder {source}", "Check the path")
        package = package_folder(source)
        if package is not None and len(sources) > 1:
            raise InputError(f"{source} is a Camtrap DP package and not the only source", "Give each package alone")
        if package is not None:
            media = media_of(package)
            for warning in media.warnings:
                log.warning(warning)
            found.update((medium.path, None) for medium in media.pictures)
        elif source.is_dir():
            files = files_of(source)
            for warning in told_foreign(files.foreign):
                log.warning("%s: %s", source, warning)
            found.update((path, None) for path in sorted(files.pictures))
        else:
            found[source] = None
    if not found:
        raise InputError(f"no pictures under {', '.join(map(str, sources))}", "Give picture files or a folder of them")
    return list(found)


def common_root(sources: Sequence[Path]) -> Path:
    """Return the folder that file names in results are relative to: the source, its folder, or what several share."""
    folders = [source if source.is_dir() else source.parent for source in sources]
    if len(set(folders)) == 1:
        return folders[0]
    return Path(os.path.commonpath([os.path.abspath(folder) for folder in folders]))  # noqa: PTH100 - keeps links


def predict(
    bundle: Bundle,
    images: Sequence[Path],
    threads: int | None = None,
    progress: Callable[[int], None] | None = None,
    boxes: DetectorOutput | None = None,
    min_confidence: float = MIN_CONFIDENCE,
) -> Iterator[Prediction]:
    """Classify pictures one after the other; an unreadable one is listed with its reason.

    With boxes every animal gets an answer of its own; people, vehicles and frames in which the detector saw nothing are
    answered by the detector; a picture without an entry that is surely its own is judged as a whole frame, with a note.

    Args:
        bundle: What to ask.
        images: Pictures, from `find_images`; none is kept in memory.
        threads: Threads of the model; None is every core.
        progress: Called with 1 for every picture.
        boxes: A detector's output for these pictures.
        min_confidence: Least confidence of a detection that counts.

    Raises:
        InputError: Boxes for a bundle that looks at whole frames, or boxes of other pictures.
        MeasurementError: The runtime is missing, or cannot open or run the model.
    """
    if not 0 <= min_confidence <= 1:
        raise InputError(f"a least confidence of {min_confidence} makes no sense", "Give one from 0 to 1")
    _check_boxes(bundle, images, boxes)
    try:
        session = open_session(str(bundle.model_path), threads or os.cpu_count() or 1, bundle.provider)
    except DeviceError as error:
        raise MeasurementError(str(error)) from error
    contested = frozenset[Path]() if boxes is None else boxes.contested(images)
    judge = _Judge(bundle, session, boxes, min_confidence, contested)

    return _run(judge, images, progress)


def _run(judge: _Judge, images: Sequence[Path], progress: Callable[[int], None] | None) -> Iterator[Prediction]:
    whole = 0
    for path in images:
        answers = judge.answers(path)
        whole += any(a.note is not None for a in answers)
        yield from answers
        if progress is not None:
            progress(1)
    if whole:
        log.warning("%d of %d pictures have no boxes and were judged as whole frames", whole, len(images))


def _check_boxes(bundle: Bundle, images: Sequence[Path], boxes: DetectorOutput | None) -> None:
    crops = bundle.manifest.crop_margin is not None
    if boxes is None:
        if crops:
            log.warning("This bundle learned from boxes around animals and gets whole frames: give --boxes to be right")
        return
    if not crops:
        todo = "Leave --boxes out, or export the bundle again from pictures with boxes"
        raise InputError(f"{bundle.path} learned from whole frames and cannot use boxes", todo)
    for warning in boxes.warnings:
        log.warning(warning)
    if images and all(boxes.entry_of(path) is None for path in images):
        todo = "Give the detector's output for these pictures; its file names are relative to the folder it ran on"
        raise InputError(f"{boxes.file} lists none of the {len(images)} pictures", todo)


@dataclass(frozen=True, slots=True)
class _Judge:
    bundle: Bundle
    session: Session
    boxes: DetectorOutput | None
    min_confidence: float
    contested: frozenset[Path]

    def answers(self, path: Path) -> list[Prediction]:
        """Answer for one picture: one answer, or one a box."""
        if self.boxes is None:
            return [self._whole(path)]
        found = None if path in self.contested else self.boxes.detections(path)
        if found is None:
            return [replace(self._whole(path), note=self._why_whole(path, self.boxes))]
        counted = [d for d in found if d.confidence >= self.min_confidence]
        first, *others = self._in_boxes(path, counted) if counted else [self._empty(path)]
        return [replace(first, below=tuple(d for d in found if d.confidence < self.min_confidence)), *others]

    def _whole(self, path: Path) -> Prediction:
        try:
            return self._ask(path, read_rgb(path))
        except UnreadableImage as error:
            return Prediction(path, None, None, None, error.reason)

    def _empty(self, path: Path) -> Prediction:
        return Prediction(path, self.bundle.manifest.blank_class or BLANK, None, None, None, by="detector")

    def _in_boxes(self, path: Path, detections: Sequence[Detection]) -> list[Prediction]:
        try:  # one picture is decoded once for all of its boxes, and not at all for people
            image = read_rgb(path) if any(d.category == ANIMAL for d in detections) else None
        except UnreadableImage as error:
            return [Prediction(path, None, None, None, error.reason)]
        answers = []
        for category, confidence, box in detections:
            if image is not None and category == ANIMAL:
                answer = self._in_box(path, image, box)
            else:
                answer = Prediction(path, category, None, None, None, by="detector")
            answers.append(replace(answer, box=box, category=category, confidence=confidence))
        return answers

    def _why_whole(self, path: Path, boxes: DetectorOutput) -> str:
        if path in self.contested:
            return f"an entry of {boxes.file.name} may be of several pictures of this name: judged as a whole frame"
        if (reason := boxes.failure(path)) is not None:
            return f"the detector failed on it ({reason}): judged as a whole frame"
        if boxes.ambiguous(path):
            return f"several entries of {boxes.file.name} fit it: judged as a whole frame"
        return f"{boxes.file.name} does not list it: judged as a whole frame"

    def _in_box(self, path: Path, image: Image.Image, box: Sequence[float]) -> Prediction:
        try:
            return self._ask(path, crop_box(image, box, self.bundle.manifest.crop_margin or 0.0))
        except UnreadableImage as error:
            return Prediction(path, None, None, None, error.reason)

    def _ask(self, path: Path, image: Image.Image) -> Prediction:
        preprocessing, manifest = self.bundle.preprocessing, self.bundle.manifest
        try:
            logits: Any = self.session.run(to_tensor(resize_crop(image, preprocessing), preprocessing))[0]
        except DeviceError as error:
            raise MeasurementError(str(error)) from error
        shares = softmax(np.asarray(logits))
        best = int(shares.argmax())
        named = {name: round(float(p), DECIMALS) for name, p in zip(manifest.classes, shares, strict=True)}
        label = manifest.classes[best]
        return Prediction(path, label, named[label], named, None, is_sure(named[label], manifest.sure_from))


def render(
    answers: Sequence[Prediction],
    bundle: Bundle,
    form: Format,
    root: Path | None = None,
    boxes: DetectorOutput | None = None,
    when: datetime | None = None,
) -> str:
    """Write answers in one of the forms, as valid Unicode whatever the names of files hold.

    Args:
        answers: From `predict`, in its order.
        bundle: What answered.
        form: csv, json, megadetector or camtrap-dp.
        root: Folder that file names are relative to (`common_root`); csv and json write paths as they were given.
        boxes: What was given to `predict`.
        when: When the pictures were classified; None is now.

    Raises:
        InputError: The media table of the package in `root`, or the file of boxes, cannot be read any more.
    """
    when = when or datetime.now(UTC)
    manifest, boxed = bundle.manifest, boxes is not None
    if form == "json":
        text = to_json(answers, boxed=boxed)
    elif form == "megadetector":
        text = to_megadetector(answers, manifest, root, boxes, when)
    elif form == "camtrap-dp":
        text = to_camtrap_dp(answers, manifest, root, when)
    else:
        text = to_csv(answers, manifest.classes, boxed=boxed)
    return printable(text)
