"""What is written of named pictures: MegaDetector's output format 1.4, and CSV.

The JSON says what `taco predict --format megadetector` says on the host of the same pictures without boxes: one
detection a frame, the whole of it, with classifications; none where the answer is blank and sure. A picture that cannot
be read is listed with its failure.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import time
from typing import Any, Dict, List, Mapping, Sequence

Record = Dict[str, Any]

FORMAT_VERSION = "1.4"
#: What readers of the format know for a picture that cannot be opened.
FAILURE = "Failure image access"
#: Decimals of a probability, as the host counts and writes them.
DECIMALS = 6
COLUMNS = ("file", "label", "probability", "failure", "sure", "modified", "bytes", "named", "bundle")
_CATEGORIES = {"1": "animal", "2": "person", "3": "vehicle"}
_HUMAN = frozenset(("human", "person", "homo sapiens"))
_MOST, _LEAST = 5, 0.001


def facts_of(manifest: Mapping[str, Any], version: str) -> Dict[str, Any]:
    """Gather what the answers of one bundle are read with.

    Args:
        manifest: The bundle's.
        version: What the bundle is called on this device.
    """
    return {
        "version": version,
        "task": manifest["task"],
        "classes": list(manifest["classes"]),
        "blank_class": manifest.get("blank_class"),
        "sure_from": manifest.get("sure_from"),
        "crops": manifest.get("crop_margin") is not None,
        "classifier": "taco-export {} {} {}".format(
            manifest["taco_version"], manifest["model"]["name"], manifest["task"]
        ),
    }


def answer(shares: Sequence[float], facts: Mapping[str, Any]) -> Record:
    """Keep of the probabilities what is written.

    Args:
        shares: One a class.
        facts: From `facts_of`.

    Returns:
        `label` and `ranked`, the likeliest classes that are not blank, by number; `share` of the label, `blank`.
    """
    rounded = [round(float(share), DECIMALS) for share in shares]
    names = facts["classes"]
    blank = names.index(facts["blank_class"]) if facts["blank_class"] in names else None
    others = sorted((i for i in range(len(rounded)) if i != blank), key=lambda i: -rounded[i])[:_MOST]
    label = max(range(len(shares)), key=lambda i: float(shares[i]))
    return {
        "label": label,
        "share": rounded[label],
        "blank": None if blank is None else rounded[blank],
        "ranked": [[i, rounded[i]] for place, i in enumerate(others) if place == 0 or rounded[i] >= _LEAST],
    }


def to_megadetector(records: Sequence[Record], facts: Mapping[str, Any]) -> str:
    """Write the JSON.

    Args:
        records: One a picture: `file`, `at` (seconds since 1970), and what `answer` gives or a `failure`.
        facts: From `facts_of`.
    """
    threshold = _detection_threshold(facts)
    stamp = _utc(max((record["at"] for record in records), default=0.0), "%Y-%m-%d %H:%M:%S")
    info: Dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "detector": "taco-export {}".format(facts["task"]),
        "detection_completion_time": stamp,
        "detector_metadata": {
            "typical_detection_threshold": threshold,
            "conservative_detection_threshold": threshold,
        },
        "classifier": facts["classifier"],
        "classification_completion_time": stamp,
    }
    if facts["sure_from"] is not None:
        info["classifier_metadata"] = {"typical_classification_threshold": min(1.0, facts["sure_from"])}
    classes = {str(i): name for i, name in enumerate(facts["classes"]) if name != facts["blank_class"]}
    whole = {
        "info": info,
        "detection_categories": _CATEGORIES,
        "classification_categories": classes,
        "images": [_image(record, facts) for record in records],
    }
    return json.dumps(whole, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def to_csv(records: Sequence[Record], facts: Mapping[str, Any]) -> str:
    """Write the table; see `to_megadetector`."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for record in records:
        said: List[Any] = ["", "", record.get("failure"), ""]
        if "failure" not in record:
            sure = {True: "yes", False: "no", None: ""}[_sure(record, facts)]
            said = [facts["classes"][record["label"]], record["share"], "", sure]
        modified, named = (_utc(moment, "%Y-%m-%dT%H:%M:%SZ") for moment in (record["mtime_ns"] / 1e9, record["at"]))
        writer.writerow([_shown(record["file"]), *said, modified, record["size"], named, facts["version"]])
    return out.getvalue()


def _image(record: Record, facts: Mapping[str, Any]) -> Dict[str, Any]:
    image: Dict[str, Any] = {"file": _shown(record["file"])}
    if "failure" in record:
        return {**image, "failure": FAILURE, "detections": None, "reason": record["failure"]}
    unsure = _sure(record, facts) is False
    label = facts["classes"][record["label"]]
    image["detections"] = [_whole_frame(record, facts, unsure)] if unsure or label != facts["blank_class"] else []
    if unsure:
        image["unsure"] = True
    if facts["crops"]:
        image["note"] = "the model learned from boxes around animals and was given the whole frame"
    return image


def _whole_frame(record: Record, facts: Mapping[str, Any], unsure: bool) -> Dict[str, Any]:
    ranked = record["ranked"]
    not_blank = 1.0 if record["blank"] is None else max(0.0, 1 - record["blank"])
    found: Dict[str, Any] = {
        "category": _category(facts["classes"][ranked[0][0]]) if ranked else "1",
        "conf": round(not_blank, 4),
        "bbox": [0.0, 0.0, 1.0, 1.0],
    }
    if ranked:
        found["classifications"] = [[str(number), round(share, 4)] for number, share in ranked]
    return {**found, "unsure": True} if unsure else found


def _category(name: str) -> str:
    plain = " ".join(name.replace("_", " ").split()).casefold()
    return "2" if plain in _HUMAN else "3" if plain == "vehicle" else "1"


def _sure(record: Record, facts: Mapping[str, Any]) -> Any:
    return None if facts["sure_from"] is None else record["share"] >= facts["sure_from"]


def _detection_threshold(facts: Mapping[str, Any]) -> float:
    """A confidence that every answer but a sure blank one reaches: see the host's `taco.answers.megadetector`."""
    sure_from = 0.0 if facts["sure_from"] is None else facts["sure_from"]
    return math.floor(1000 * max(0.0, min(0.5, 1 - sure_from))) / 1000


def _shown(name: str) -> str:
    """A path as valid Unicode, whatever bytes the file system holds."""
    return os.fsencode(name).decode("utf-8", "replace")


def _utc(seconds: float, form: str) -> str:
    try:
        return time.strftime(form, time.gmtime(seconds))
    except (ValueError, OverflowError, OSError):  # a file may say that it was written in any year
        return ""
