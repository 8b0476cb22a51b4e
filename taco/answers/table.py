"""Answers as a CSV table, or as a JSON list with the same fields."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

from taco.answers.prediction import Prediction

_YES_NO = {True: "yes", False: "no", None: ""}
_OF_BOXES = ("by", "box_left", "box_top", "box_width", "box_height", "category", "confidence", "note")


def to_csv(answers: Sequence[Prediction], classes: Sequence[str], *, boxed: bool) -> str:
    """Write `path,label,probability,failure,sure`, the columns of boxes, and `p:CLASS` for every class.

    Args:
        answers: One a picture or box.
        classes: The bundle's classes.
        boxed: Whether boxes were given: then there are columns that tell of them.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    columns = ["path", "label", "probability", "failure", "sure", *(_OF_BOXES if boxed else ())]
    writer.writerow([*columns, *(f"p:{name}" for name in classes)])
    for a in answers:
        cells: list[object] = [str(a.path), a.label, a.probability, a.failure, _YES_NO[a.sure]]
        if boxed:
            place = [round(v, 6) for v in a.box] if a.box else [None] * 4
            cells += [a.by if a.failure is None else None, *place, a.category, a.confidence, a.note]
        shares = a.probabilities or {}
        writer.writerow(["" if c is None else c for c in (*cells, *(shares.get(name) for name in classes))])
    return out.getvalue()


def to_json(answers: Sequence[Prediction], *, boxed: bool) -> str:
    """Write a list of objects; see `to_csv`."""
    return json.dumps([_object(a, boxed=boxed) for a in answers], indent=1, ensure_ascii=False) + "\n"


def _object(a: Prediction, *, boxed: bool) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "path": str(a.path),
        "label": a.label,
        "probability": a.probability,
        "probabilities": a.probabilities,
        "failure": a.failure,
        "sure": a.sure,
    }
    if boxed:
        fields["by"] = a.by if a.failure is None else None
        fields["box"] = list(a.box) if a.box else None
        fields |= {"category": a.category, "confidence": a.confidence, "note": a.note}
    return fields
