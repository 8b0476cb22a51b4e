"""Answers as the observations table of a Camtrap DP package (camtrap-dp.tdwg.org, 1.0), one row a picture or box.

Media, deployment, event and time are those of the package that the pictures came from. Without a package mediaID is the
picture's path below the given folder, deploymentID the first folder of that path, and eventStart and eventEnd, which
the standard requires, are empty: a file does not tell its time zone.

An unsure answer is `unclassified` with its likeliest class in the comment: a row that names an animal is one that the
model is sure of.
"""

from __future__ import annotations

import csv
import io
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path

import taco
from taco.answers.media import Medium, media_of, package_folder
from taco.answers.prediction import Prediction, kind_of, relative
from taco.bundle import Manifest
from taco.wording import printable

COLUMNS = (
    *("observationID", "deploymentID", "mediaID", "eventID", "eventStart", "eventEnd", "observationLevel"),
    *("observationType", "cameraSetupType", "scientificName", "count", "lifeStage", "sex", "behavior", "individualID"),
    *("individualPositionRadius", "individualPositionAngle", "individualSpeed"),
    *("bboxX", "bboxY", "bboxWidth", "bboxHeight"),
    *("classificationMethod", "classifiedBy", "classificationTimestamp", "classificationProbability"),
    *("observationTags", "observationComments"),
)
_DETECTOR = "detector of the given boxes"


def to_camtrap_dp(answers: Sequence[Prediction], manifest: Manifest, root: Path | None, when: datetime) -> str:
    """Write `observations.csv`.

    Args:
        answers: One a picture or box, those of a picture together.
        manifest: Of the bundle that answered.
        root: The package's folder, or the folder that paths are relative to.
        when: When the pictures were classified, with its time zone.

    Raises:
        InputError: The package's media table cannot be read.
    """
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    listed: dict[Path, list[Medium]] = {}
    folder = None if root is None else package_folder(root)
    for medium in () if folder is None else media_of(folder).pictures:
        listed.setdefault(medium.path, []).append(medium)
    stamp = when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    for path, group in groupby(answers, lambda a: a.path):
        said = list(group)
        for medium in listed.get(path) or [_unlisted(path, root)]:
            writer.writerows(_rows(said, medium, manifest, stamp))
    return out.getvalue()


def _unlisted(path: Path, root: Path | None) -> Medium:
    name = relative(path, root)
    first, _, rest = name.partition("/")
    return Medium(path, name, first if first and rest else printable(path.absolute().parent.name), "", "")


def _rows(answers: Sequence[Prediction], medium: Medium, manifest: Manifest, stamp: str) -> Iterator[dict[str, object]]:
    model = manifest.files[manifest.model_file].sha256
    for number, answer in enumerate(answers, 1):
        yield {
            "observationID": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{model}\n{medium.media_id}\n{number}")),
            "deploymentID": medium.deployment_id,
            "mediaID": medium.media_id,
            "eventID": medium.event_id,
            "eventStart": medium.timestamp,
            "eventEnd": medium.timestamp,
            "observationLevel": "media",
            "observationComments": "; ".join(_comments(answer)),
            **_box(answer),
            **_said(answer, manifest, stamp),
        }


def _said(answer: Prediction, manifest: Manifest, stamp: str) -> dict[str, object]:
    if answer.failure is not None:
        return {"observationType": "unclassified"}
    who = _DETECTOR if answer.by == "detector" else f"taco-export {taco.__version__} {manifest.model.name}"
    how = {"classificationMethod": "machine", "classifiedBy": who, "classificationTimestamp": stamp}
    kind = kind_of(answer, manifest)
    if answer.sure is False or kind == "other":
        return {"observationType": "unclassified", **how}
    probability = answer.confidence if answer.by == "detector" else answer.probability
    name = answer.label if kind == "animal" else ""
    said = {"observationType": kind, "scientificName": name, "classificationProbability": probability, **how}
    return {column: "" if value is None else value for column, value in said.items()}


def _box(answer: Prediction) -> dict[str, object]:
    if answer.box is None:
        return {}
    places = (round(v, 6) for v in answer.box)
    return dict(zip(("bboxX", "bboxY", "bboxWidth", "bboxHeight"), places, strict=True))


def _comments(answer: Prediction) -> Iterator[str]:
    if answer.failure is not None:
        yield f"unreadable: {answer.failure}"
    elif answer.sure is False:
        yield f"unsure: look at it (likeliest: {answer.label}, {answer.probability:.2f})"
    elif answer.by == "detector" and answer.box is not None:
        yield f"the detector says {answer.label}"
    elif answer.by == "detector":
        yield "the detector sees nothing"
    if answer.note:
        yield answer.note
