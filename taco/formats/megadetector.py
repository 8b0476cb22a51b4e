"""MegaDetector's output file: where the animals are in each picture (lila.science/megadetector-output-format, 1.x).

Paths in it are relative to a folder that the file does not name. A picture is found by its path relative to the given
roots, by its absolute path, or else by the longest tail that the two paths share, where only one entry shares it.
"""

from __future__ import annotations

import os
import posixpath
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from taco.errors import TaskError
from taco.formats.boxes import BoxReader
from taco.formats.rows import Places
from taco.formats.stream import entries
from taco.pictures.listing import Box

ANIMAL = "animal"
_CATEGORIES = {"1": ANIMAL, "2": "person", "3": "vehicle"}
_FORM = "Give the JSON that MegaDetector writes: images with file and detections, and detection_categories"
#: Paths that are written in the normal way already, as nearly all are.
_PLAIN = re.compile(r"/?[^/\\.\s]+(?:/(?!\.)[^/\\\s]+)*").fullmatch
_Found = tuple[tuple[str, float, Box], ...]


class Detection(NamedTuple):
    """One thing that the detector saw.

    Attributes:
        category: Its name, such as animal, person or vehicle.
        confidence: 0 to 1.
        box: Where.
    """

    category: str
    confidence: float
    box: Box


class _Fit(NamedTuple):
    """The entries that fit a picture: the one at its place, or those that share the longest tail with its path."""

    entries: Sequence[str]
    placed: bool


@dataclass(frozen=True, slots=True, eq=False)
class DetectorOutput:
    """What a detector said of each picture; build it with `read_boxes`.

    Attributes:
        file: Where it was read.
        warnings: What a person should know.
        places: Where the pictures really are.
    """

    file: Path
    warnings: tuple[str, ...]
    _roots: tuple[str, ...]
    _categories: Mapping[str, str]
    _entries: Mapping[str, _Found | str]
    _by_name: Mapping[str, Sequence[str]]
    places: Places = field(default_factory=Places)
    _known: dict[Path, _Fit] = field(default_factory=dict)  # a path is looked up several times

    def best(self, path: Path, category: str, least: float) -> Box | None:
        """Return the box of the surest detection of a category in a picture; None where none is as sure as `least`."""
        entry = self.entry_of(path)
        found = None if entry is None else self._entries[entry]
        if found is None or isinstance(found, str):
            return None
        names = self._categories
        return next((box for name, sure, box in found if sure >= least and names.get(name, name) == category), None)

    def detections(self, path: Path) -> tuple[Detection, ...] | None:
        """Return what was seen in a picture, the surest first; None where it is not listed or the detector failed."""
        entry = self.entry_of(path)
        found = None if entry is None else self._entries[entry]
        if found is None or isinstance(found, str):
            return None
        return tuple(Detection(self._categories.get(name, name), sure, box) for name, sure, box in found)

    def failure(self, path: Path) -> str | None:
        """Return why the detector failed on a picture; None where it did not, or where the picture is not listed."""
        entry = self.entry_of(path)
        found = None if entry is None else self._entries[entry]
        return found if isinstance(found, str) else None

    def entry_of(self, path: Path) -> str | None:
        """Return the file name under which a picture is listed; None where none, or no single one, fits."""
        return found[0] if len(found := self._fit(path).entries) == 1 else None

    def ambiguous(self, path: Path) -> bool:
        """Tell whether several entries fit a picture equally well; it then counts as not listed."""
        return len(self._fit(path).entries) > 1

    def contested(self, paths: Iterable[Path]) -> frozenset[Path]:
        """Return the pictures that fit an entry by their names alone, where it is or may be another one's.

        An entry is of the picture at its place; where none of the pictures is there, several that share the entry's
        name are all told.
        """
        placed: set[str] = set()
        named: dict[str, list[Path]] = {}
        for path in paths:
            fit = self._fit(path)
            if len(fit.entries) != 1:
                continue
            if fit.placed:
                placed.add(fit.entries[0])
            else:
                named.setdefault(fit.entries[0], []).append(path)
        told = (some for entry, some in named.items() if entry in placed or self._several(some))
        return frozenset(path for some in told for path in some)

    def _several(self, paths: Sequence[Path]) -> bool:
        return len(paths) > 1 and len(set(map(self.places.of, paths))) > 1

    def _fit(self, path: Path) -> _Fit:
        known = self._known.get(path)
        if known is None:
            known = self._known[path] = self._looked_up(path)
        return known

    def _looked_up(self, path: Path) -> _Fit:
        spelled = _spelled(path)
        real = _normal(self.places.of(path))
        if (listed := self._at(spelled) or (self._at(real) if real != spelled else None)) is not None:
            return _Fit([listed], placed=True)
        parts = spelled.split("/")
        candidates = self._by_name.get(parts[-1], ())
        if len(candidates) < 2:
            return _Fit(candidates, placed=False)
        shared = {key: _shared_tail(parts, key.split("/")) for key in candidates}
        longest = max(shared.values(), default=0)
        return _Fit([key for key, length in shared.items() if length == longest], placed=False)

    def _at(self, place: str) -> str | None:
        if place in self._entries:
            return place
        for root in self._roots:
            if place.startswith(root) and (key := place[len(root) :]) in self._entries:
                return key
        return None


def read_boxes(file: Path, roots: Sequence[Path] = ()) -> DetectorOutput:
    """Read a detector's output as a stream.

    Args:
        file: The JSON.
        roots: Folders that its file names may be relative to, beside the folder that holds it.

    Raises:
        TaskError: It cannot be used; the message names the entry.
    """
    boxes = BoxReader()
    found: dict[str, _Found | str] = {}
    categories: Mapping[str, str] = _CATEGORIES
    sections = {"images": frozenset({"file", "detections", "failure"}), "detection_categories": None}
    seen = False
    try:
        for entry in entries(file, sections):
            if entry.section == "detection_categories":
                categories = {key: str(name).strip().lower() for key, name in entry.fields.items()}
                continue
            where, seen = f"{file}: entry {entry.number} of 'images'", True
            name = entry.fields.get("file")
            if not isinstance(name, str) or not name.strip() or "\0" in name:
                raise TaskError(f"{where} names no file", _FORM)
            if (key := _key(name, file)) in found:
                raise TaskError(f"{where}: {name!r} is listed twice", "Keep one of the two")
            found[key] = _of_picture(entry.fields, where, boxes)
    except OSError as error:
        raise TaskError(f"cannot read {file}: {error.strerror or error}", "Check its permissions") from error
    if not seen:
        raise TaskError(f"{file} lists no picture", _FORM)
    by_name: dict[str, list[str]] = {}
    for key in found:
        by_name.setdefault(posixpath.basename(key), []).append(key)
    places = [os.path.abspath(root) for root in (file.parent, *roots)]  # noqa: PTH100 - keeps links
    both = tuple(dict.fromkeys(_normal(place).rstrip("/") + "/" for place in [*places, *map(os.path.realpath, places)]))
    return DetectorOutput(file, tuple(boxes.warnings()), both, categories, found, by_name)


def _of_picture(fields: Mapping[str, object], where: str, boxes: BoxReader) -> _Found | str:
    failure, detections = fields.get("failure"), fields.get("detections")
    if failure is not None:
        return str(failure)
    if detections is None:
        return "the detector gave no detections"
    if not isinstance(detections, list):
        raise TaskError(f"{where}: detections is not a list", _FORM)
    return tuple(sorted(_seen(detections, where, boxes), key=lambda found: -found[1]))


def _seen(detections: Sequence[object], where: str, boxes: BoxReader) -> Iterator[tuple[str, float, Box]]:
    for number, detection in enumerate(detections, 1):
        what = f"{where}, detection {number}"
        if not isinstance(detection, dict):
            raise TaskError(f"{what} is not an object", _FORM)
        category, sure = detection.get("category"), detection.get("conf")
        if isinstance(category, bool) or not isinstance(category, int | str):
            raise TaskError(f"{what} has no category", _FORM)
        if isinstance(sure, bool) or not isinstance(sure, int | float) or not 0 <= sure <= 1:
            raise TaskError(f"{what}: conf is {sure!r}", "Give a number from 0 to 1")
        box = boxes.read(detection.get("bbox"), what)
        if box is not None:
            yield sys.intern(str(category)), float(sure), box


def _key(name: str, file: Path) -> str:
    key = _normal(name)
    return _normal(os.path.abspath(file.parent / key)) if key.startswith("../") else key  # noqa: PTH100


def _spelled(path: Path) -> str:
    spelled = str(path)
    return _normal(spelled if spelled[:1] == "/" else os.path.abspath(spelled))  # noqa: PTH100 - keeps links


def _normal(path: str) -> str:
    """Write a path with forward slashes and without dots: files come from Windows, too."""
    if _PLAIN(path):
        return path
    return posixpath.normpath(path.strip().replace("\\", "/"))


def _shared_tail(one: Sequence[str], other: Sequence[str]) -> int:
    length = 0
    while length < min(len(one), len(other)) and one[-1 - length] == other[-1 - length]:
        length += 1
    return length
