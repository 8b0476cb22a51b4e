"""A CSV file: path (or filepath) and label, and where wanted location, sequence, time and box.

Columns, in any order and case: `path` or `filepath`; `label`; `location`; `sequence` or `seq_id`; `taken`, `timestamp`
or `datetime`; `bbox_x`, `bbox_y`, `bbox_width`, `bbox_height` (or Camtrap DP's `bboxX` ...): fractions of the picture,
from its upper left corner. A picture with several boxes has one row for each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from taco.errors import TaskError
from taco.formats.boxes import BoxReader
from taco.formats.dates import DateReader
from taco.formats.rows import Found, Row, box_columns, box_of, locate, unusable
from taco.formats.text import csv_rows
from taco.pictures.listing import Skipped

_FORM = "Give a folder with one folder of pictures for each class, or a CSV file with the header path,label"
_PATH, _SEQUENCE, _TAKEN = ("path", "filepath"), ("sequence", "seq_id"), ("taken", "timestamp", "datetime")


def read_table(file: Path, root: Path) -> Found:
    """List the pictures of a CSV file.

    Args:
        file: The CSV.
        root: Where relative paths start.

    Raises:
        TaskError: It cannot be used; the message names the line.
        OSError: It cannot be read.
    """
    rows = csv_rows(file)
    header = next(rows).cells
    path_column = _first(_PATH, header)
    if path_column is None or "label" not in header:
        raise TaskError(f"the first line of {file} names no columns path and label", _FORM)
    sequence_column, taken_column = _first(_SEQUENCE, header), _first(_TAKEN, header)
    box_names, boxes, dates, found = box_columns(header, file), BoxReader(), DateReader(), Found(one_label=True)
    for line, cells in rows:
        where = f"{file} line {line}"
        name, label = cells[path_column], cells["label"]
        if not name or not label or "\0" in name:
            raise TaskError(f"{where} lacks a path or a label", "Complete or remove it")
        if (name.lower(), label.lower()) == (path_column, "label"):
            raise TaskError(f"{where} repeats the names of the columns", "Remove it")
        path = locate(root, name, where)
        if (reason := unusable(name)) is not None:
            found.skipped.append(Skipped(path, reason))
            continue
        box = box_of(cells, box_names, where, boxes)
        sequence = cells[sequence_column] if sequence_column else ""
        taken = dates.taken(cells[taken_column]) if taken_column else None
        found.rows.append(Row(found.label_of(label), path, box, cells.get("location") or None, sequence or None, taken))
    found.warnings += [*dates.warnings(), *boxes.warnings()]
    if not found.rows and not found.skipped:
        raise TaskError(f"{file} lists no picture", _FORM)
    return found


def _first(names: Sequence[str], header: Mapping[str, str]) -> str | None:
    return next((name for name in names if name in header), None)
