"""Answers in MegaDetector's output format 1.4, which Timelapse and other tools read.

The format is that of lila.science/megadetector-output-format. Where boxes were given, every one of them is passed on
with its category and confidence, and the animals get classifications. Without boxes a picture gets one detection:

- its box is the whole frame, its category animal (person or vehicle where a class of that name is the answer);
- its confidence is the probability that the frame is not blank, 1 where no class is blank: what the model doubts then
  is the class, and that is what the classifications say;
- a blank answer gives no detection. An UNSURE blank answer keeps its detection, of low confidence: an empty list would
  hide a picture that a person should look at. `typical_detection_threshold` lies below such confidences.

The blank class is never among the classifications, as a detection is never blank; the other classes keep their indices
as category numbers. Readers of this format ignore fields that they do not know; three are added: `unsure` (true, at a
detection and its picture), `reason` beside `failure`, and `note`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import taco
from taco.answers.prediction import Prediction, class_kind, kind_of, relative
from taco.bundle import Manifest
from taco.formats.megadetector import Detection, DetectorOutput
from taco.formats.stream import entries

FORMAT_VERSION = "1.4"
#: What readers know for a picture that cannot be opened.
FAILURE = "Failure image access"
_CATEGORIES = {"1": "animal", "2": "person", "3": "vehicle"}
_CATEGORY_OF = {"human": "2", "vehicle": "3"}
_MOST, _LEAST = 5, 0.001


def to_megadetector(
    answers: Sequence[Prediction], manifest: Manifest, root: Path | None, boxes: DetectorOutput | None, when: datetime
) -> str:
    """Write the JSON.

    Args:
        answers: One a picture or box, those of a picture together.
        manifest: Of the bundle that answered.
        root: Folder that the file names are relative to.
        boxes: What the detector said, where boxes were given.
        when: When the pictures were classified, with its time zone.
    """
    writer = _Writer(manifest, root)
    images = [writer.image(path, list(group)) for path, group in groupby(answers, lambda a: a.path)]
    whole = {
        "info": _info(manifest, boxes, when),
        "detection_categories": writer.categories,
        "classification_categories": {i: name for name, i in writer.classes.items()},
        "images": images,
    }
    return json.dumps(whole, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


class _Writer:
    def __init__(self, manifest: Manifest, root: Path | None) -> None:
        self.categories = dict(_CATEGORIES)
        self.classes = {name: str(i) for i, name in enumerate(manifest.classes) if name != manifest.blank_class}
        self._manifest = manifest
        self._root = root

    def image(self, path: Path, answers: Sequence[Prediction]) -> dict[str, Any]:
        image: dict[str, Any] = {"file": relative(path, self._root)}
        unreadable = next((a.failure for a in answers if a.failure and a.box is None), None)
        if unreadable is not None:
            return {**image, "failure": FAILURE, "detections": None, "reason": unreadable}
        looked_at = [d for a in answers for d in self._detections(a)]
        image["detections"] = looked_at + [self._found(d) for a in answers for d in a.below]
        if any("unsure" in d for d in image["detections"]):
            image["unsure"] = True
        if notes := [a.note or a.failure for a in answers if a.note or a.failure]:
            image["note"] = "; ".join(filter(None, notes))
        return image

    def _detections(self, answer: Prediction) -> Iterator[dict[str, Any]]:
        if answer.box is not None:
            found = self._found(Detection(answer.category or "", answer.confidence or 0.0, answer.box))
            yield found | self._judged(answer)
        elif answer.by == "model" and (answer.sure is False or kind_of(answer, self._manifest) != "blank"):
            yield self._whole_frame(answer)

    def _found(self, detection: Detection) -> dict[str, Any]:
        known = next((i for i, name in self.categories.items() if name == detection.category), None)
        if known is None:
            known = str(1 + max(map(int, self.categories)))
            self.categories[known] = detection.category
        return {"category": known, "conf": float(detection.confidence), "bbox": [float(v) for v in detection.box]}

    def _whole_frame(self, answer: Prediction) -> dict[str, Any]:
        shares = answer.probabilities or {}
        likeliest = max(self.classes, key=lambda name: shares.get(name, 0.0), default="")
        category = _CATEGORY_OF.get(class_kind(likeliest, self._manifest), "1")
        not_blank = 1 - shares.get(self._manifest.blank_class or "", 0.0) if self._manifest.blank_class else 1.0
        found: dict[str, Any] = {"category": category, "conf": round(max(0.0, not_blank), 4)}
        return {**found, "bbox": [0.0, 0.0, 1.0, 1.0]} | self._judged(answer)

    def _judged(self, answer: Prediction) -> dict[str, Any]:
        shares = {name: p for name, p in (answer.probabilities or {}).items() if name in self.classes}
        ranked = sorted(shares.items(), key=lambda item: -item[1])[:_MOST]
        kept = [item for place, item in enumerate(ranked) if place == 0 or item[1] >= _LEAST]
        fields: dict[str, Any] = {}
        if kept:
            fields["classifications"] = [[self.classes[name], round(p, 4)] for name, p in kept]
        if answer.sure is False:
            fields["unsure"] = True
        return fields


def _info(manifest: Manifest, boxes: DetectorOutput | None, when: datetime) -> dict[str, Any]:
    stamp = when.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
    info: dict[str, Any] = {"format_version": FORMAT_VERSION}
    if boxes is None:
        threshold = _detection_threshold(manifest)
        info |= {
            "detector": f"taco-export {manifest.task}",
            "detection_completion_time": stamp,
            "detector_metadata": {
                "typical_detection_threshold": threshold,
                "conservative_detection_threshold": threshold,
            },
        }
    else:
        told = _detector_info(boxes)
        info["detector"] = f"unknown ({boxes.file.name})"
        info |= {name: told[name] for name in ("detector", "detection_completion_time") if _is_text(told.get(name))}
        if isinstance(told.get("detector_metadata"), dict):
            info["detector_metadata"] = told["detector_metadata"]
    info["classifier"] = f"taco-export {taco.__version__} {manifest.model.name} {manifest.task}"
    info["classification_completion_time"] = stamp
    if manifest.sure_from is not None:
        info["classifier_metadata"] = {"typical_classification_threshold": min(1.0, manifest.sure_from)}
    return info


def _detection_threshold(manifest: Manifest) -> float:
    """Return a confidence that every answer but a sure blank one reaches.

    A blank class that is not the likeliest has at most a probability of 0.5; one that is, and is unsure, less than
    `sure_from`.
    """
    sure_from = 0.0 if manifest.sure_from is None else manifest.sure_from
    return math.floor(1000 * max(0.0, min(0.5, 1 - sure_from))) / 1000


def _detector_info(boxes: DetectorOutput) -> Mapping[str, object]:
    return next((dict(entry.fields) for entry in entries(boxes.file, {"info": None})), {})


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())
