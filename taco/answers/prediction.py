"""One answer: what the model, or the detector whose boxes were given, says about a picture or a box in it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from taco.bundle import Manifest
from taco.formats.megadetector import Detection
from taco.pictures.listing import Box
from taco.wording import printable

#: What an answer is about; `other` is a detector's category that is none of these.
Kind = Literal["animal", "blank", "human", "vehicle", "other"]
_HUMAN = frozenset({"human", "person", "homo sapiens"})


@dataclass(frozen=True, slots=True)
class Prediction:
    """What is said about one picture, or about one box in it.

    Attributes:
        path: The picture.
        label: The likeliest class, or what the detector saw; None when the picture cannot be read.
        probability: Softmax of the likeliest class, 0-1; None where the model was not asked.
        probabilities: Class -> softmax.
        failure: Why it could not be read; None otherwise.
        sure: Whether the probability reaches the bundle's `sure_from`; None where that, or the probability, is missing.
        by: Who says so: the model, or the detector alone (empty frames, people, vehicles).
        box: The detection that was looked at; None for the whole frame.
        category: The detector's name for what is in the box.
        confidence: The detector's confidence, 0-1.
        note: What a person should know about this answer.
        below: The picture's detections of too little confidence; with its first answer only.
    """

    path: Path
    label: str | None
    probability: float | None
    probabilities: dict[str, float] | None
    failure: str | None
    sure: bool | None = None
    by: Literal["model", "detector"] = "model"
    box: Box | None = None
    category: str | None = None
    confidence: float | None = None
    note: str | None = None
    below: tuple[Detection, ...] = ()


def kind_of(answer: Prediction, manifest: Manifest) -> Kind:
    """Tell what a readable picture's answer is about.

    Class names count as people where they are human, person or homo sapiens, and as vehicles where they are vehicle.
    """
    if answer.by == "detector":
        if answer.box is None:
            return "blank"
        return _by_name(answer.label or "") or "other"
    return class_kind(answer.label or "", manifest)


def class_kind(name: str, manifest: Manifest) -> Kind:
    """Tell what a class of the bundle is about."""
    return "blank" if name == manifest.blank_class else _by_name(name) or "animal"


def _by_name(name: str) -> Literal["human", "vehicle"] | None:
    plain = " ".join(name.replace("_", " ").split()).casefold()
    return "human" if plain in _HUMAN else "vehicle" if plain == "vehicle" else None


def relative(path: Path, root: Path | None) -> str:
    """Write a path relative to `root`, absolute where it is not below it, and with forward slashes."""
    if root is not None:
        whole, above = (Path(os.path.abspath(p)) for p in (path, root))  # noqa: PTH100 - keeps links, drops ".."
        path = whole.relative_to(above) if whole.is_relative_to(above) else whole
    return printable(path.as_posix())
