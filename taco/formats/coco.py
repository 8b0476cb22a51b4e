"""COCO and COCO Camera Traps (LILA): images, annotations and categories in one JSON file, read as a stream.

Identifiers may be numbers or texts and are compared as texts. Of an image id, file_name and, where there, location,
seq_id, datetime, width, height and corrupt are used; boxes are pixels of the upright picture.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from taco.errors import TaskError
from taco.formats.boxes import BoxReader
from taco.formats.dates import DateReader
from taco.formats.headers import upright_size
from taco.formats.rows import Found, Row, locate, unusable
from taco.formats.stream import Entry, entries
from taco.pictures.listing import Box, Skipped

_SECTIONS: Mapping[str, frozenset[str]] = {
    "images": frozenset({"id", "file_name", "location", "seq_id", "datetime", "width", "height", "corrupt"}),
    "annotations": frozenset({"id", "image_id", "category_id", "bbox"}),
    "categories": frozenset({"id", "name"}),
}


class _Image(NamedTuple):
    path: Path
    number: int
    size: tuple[float, float] | None
    location: str | None
    sequence: str | None
    taken: float | None


class _Reader:
    """Gathers the three sections, which may come in any order."""

    def __init__(self, file: Path, root: Path) -> None:
        self.file = file
        self.root = root
        self.found = Found()
        self.images: dict[str, _Image | None] = {}  # None: listed, and not usable
        self.categories: dict[str, str] = {}
        self.annotations: dict[str, list[tuple[str, object]]] = {}
        self.annotation_ids: set[str] = set()
        self.boxes, self.dates = BoxReader(), DateReader()

    def image(self, entry: Entry, where: str) -> None:
        fields = entry.fields
        key = _id(fields, "id", where)
        if key in self.images:
            raise TaskError(f"{where}: the id {key!r} comes twice", "Give each image an id of its own")
        name = fields.get("file_name")
        path = locate(self.root, name, where)
        reason = "it is marked as damaged" if fields.get("corrupt") is True else unusable(name)
        if reason is not None:
            self.found.skipped.append(Skipped(path, reason))
            self.images[key] = None
            return
        location, sequence = (_text(fields, field, where) for field in ("location", "seq_id"))
        taken = self.dates.taken(fields.get("datetime"))
        self.images[key] = _Image(path, entry.number, _size(fields, where), location, sequence, taken)

    def annotation(self, entry: Entry, where: str) -> None:
        fields = entry.fields
        if fields.get("id") is not None:  # nothing refers to it, so some leave it out
            key = _id(fields, "id", where)
            if key in self.annotation_ids:
                raise TaskError(f"{where}: the id {key!r} comes twice", "Give each annotation an id of its own")
            self.annotation_ids.add(key)
        image, category = _id(fields, "image_id", where), sys.intern(_id(fields, "category_id", where))
        self.annotations.setdefault(image, []).append((category, fields.get("bbox")))

    def category(self, entry: Entry, where: str) -> None:
        key, name = _id(entry.fields, "id", where), entry.fields.get("name")
        if not isinstance(name, str) or not name.strip():
            what = f"has {str(name)[:40]!r} as" if name and not isinstance(name, str) else "has no"
            raise TaskError(f"{where} {what} name", "Give it one, as a text")
        if key in self.categories:
            raise TaskError(f"{where}: the id {key!r} comes twice", "Give each category an id of its own")
        self.categories[key] = self.found.label_of(name)

    def finish(self) -> Found:
        """Join the sections."""
        _check_known(self.file, "image", (image for image in self.annotations if image not in self.images))
        used = (category for labels in self.annotations.values() for category, _ in labels)
        _check_known(self.file, "category", (category for category in used if category not in self.categories))
        unlabelled = 0
        for key, image in self.images.items():
            if image is None:
                continue
            labels = self.annotations.pop(key, ())
            unlabelled += not labels
            for category, box in labels:
                self._row(image, self.categories[category], box)
        if unlabelled:
            self.found.warnings.append(f"{unlabelled} pictures have no annotation and are not used")
        self.found.warnings += [*self.dates.warnings(), *self.boxes.warnings()]
        self.found.unused = tuple(sorted(set(self.categories.values())))
        return self.found

    def _row(self, image: _Image, label: str, values: object) -> None:
        box: Box | None = None
        if values is not None and values != []:
            size = image.size or upright_size(image.path)
            if size is None:
                reason = f"its size is neither in {self.file.name} nor readable, so its box in pixels says nothing"
                self.found.skipped.append(Skipped(image.path, reason))
                return
            box = self.boxes.read(values, f"{self.file}: an annotation of {image.path.name!r}", size)
        self.found.rows.append(Row(label, image.path, box, image.location, image.sequence, image.taken))


def read_coco(file: Path, root: Path) -> Found:
    """List the pictures of a COCO file.

    Args:
        file: The JSON.
        root: Where its file names start.

    Raises:
        TaskError: It cannot be used; the message names the entry.
        OSError: It cannot be read.
    """
    reader = _Reader(file, root)
    take = {"images": reader.image, "annotations": reader.annotation, "categories": reader.category}
    for entry in entries(file, _SECTIONS):
        take[entry.section](entry, f"{file}: entry {entry.number} of {entry.section!r}")
    if not reader.images:
        raise TaskError(f"{file} lists no picture", "Its images should hold id and file_name")
    return reader.finish()


def _check_known(file: Path, what: str, unknown: Iterator[str]) -> None:
    first = next(unknown, None)
    if first is not None:
        count = 1 + sum(1 for _ in unknown)
        listed = "images" if what == "image" else "categories"
        problem = f"{file}: annotations name {count} {what} ids that {listed!r} does not list, the first is {first!r}"
        raise TaskError(problem, f"Complete {listed!r} or remove those annotations")


def _id(fields: Mapping[str, object], name: str, where: str) -> str:
    value = fields.get(name)
    if type(value) is str and value:  # nearly all of them
        return value
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a table once lay between
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        what = "has no" if value is None else f"has {str(value)[:40]!r} as"
        raise TaskError(f"{where} {what} {name}", "Give a number or a text")
    return str(value)


def _text(fields: Mapping[str, object], name: str, where: str) -> str | None:
    value = fields.get(name)
    if value is None or value == "":
        return None
    if type(value) is str:
        return sys.intern(value)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TaskError(f"{where}: {name} is neither a text nor a number", "Give a text or leave it out")
    return sys.intern(str(value))


def _size(fields: Mapping[str, object], where: str) -> tuple[float, float] | None:
    values = fields.get("width"), fields.get("height")
    if None in values:
        return None
    numbers = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) < 2 or not all(0 < v < math.inf for v in numbers):
        raise TaskError(f"{where}: width and height are {values[0]!r} and {values[1]!r}", "Give pixels above 0")
    return numbers[0], numbers[1]
