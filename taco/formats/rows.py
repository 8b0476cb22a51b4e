"""What every form gives: one row for each label of each picture, and what could not be used."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from taco.device.naming import FOREIGN, why_foreign
from taco.errors import TaskError
from taco.formats.boxes import BoxReader
from taco.formats.names import canonical
from taco.pictures.listing import Box, Skipped

_VIDEOS = (".mp4", ".avi", ".mov", ".m4v", ".mkv", ".wmv", ".mpg")
#: CSV columns of a box, in lower case: ours, and Camtrap DP's.
BOX_COLUMNS = (
    ("bbox_x", "bbox_y", "bbox_width", "bbox_height"),
    ("bboxx", "bboxy", "bboxwidth", "bboxheight"),
)


class Row(NamedTuple):
    """One label of one picture; the fields are those of `LabelledPicture`, with the class by its canonical name."""

    label: str
    path: Path
    box: Box | None = None
    location: str | None = None
    sequence: str | None = None
    taken: float | None = None


@dataclass(slots=True)
class Found:
    """What a source holds.

    Attributes:
        rows: Every label of every picture, in the source's order.
        unused: Classes that it knows beside those of the rows.
        warnings: What a person should know.
        skipped: Pictures that cannot be used.
        one_label: A picture with two labels is a mistake of a person rather than a picture of two species.
        written: Canonical name of a class -> how the source writes it.
    """

    rows: list[Row] = field(default_factory=list)
    unused: tuple[str, ...] = ()
    warnings: list[str] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    one_label: bool = False
    written: dict[str, str] = field(default_factory=dict)

    def label_of(self, name: str) -> str:
        """Return the canonical name of a class, and remember how the source writes it."""
        label = canonical(name)
        self.written.setdefault(label, name)
        return label


class Places:
    """Where files really are: links are followed, each folder and each file once."""

    def __init__(self) -> None:
        self._folders: dict[str, str] = {}
        self._files: dict[str, str] = {}

    def of(self, path: Path) -> str:
        """Return the real place of one file."""
        spelled = str(path)
        known = self._files.get(spelled)
        if known is None:
            known = self._files[spelled] = self._find(spelled)
        return known

    def _find(self, spelled: str) -> str:
        folder, name = os.path.split(spelled)
        if name in ("", ".", "..") or os.path.islink(spelled):  # noqa: PTH114 - a hundred thousand paths
            return os.path.realpath(spelled)  # Path.resolve fails on a link to itself
        real = self._folders.get(folder)
        if real is None:
            real = self._folders[folder] = os.path.realpath(folder)
        return f"{real}/{name}"


def locate(root: Path, name: object, where: str) -> Path:
    """Return the place of a picture that a source names; it need not exist.

    Args:
        root: Where relative names start.
        name: As the source writes it; where there is no such file, backslashes divide folders, and an accent and its
            letter may be one character or two.
        where: Names the entry in messages.

    Raises:
        TaskError: It is no name of a file.
    """
    if not isinstance(name, str) or not name.strip():
        what = (
            f"has {str(name)[:40]!r} as the name of a file" if name and not isinstance(name, str) else "names no file"
        )
        raise TaskError(f"{where} {what}", "Complete or remove it")
    if "\0" in name or not _encodable(name):
        raise TaskError(f"{where}: {name!r} cannot be the name of a file", "Correct or remove it")
    if _is_on_the_web(name):
        return Path(name)
    path = root / name
    if (name.isascii() and "\\" not in name) or _exists(path):  # the first for nearly all: nothing is looked up
        return path
    name = name.replace("\\", "/")
    spellings = (root / unicodedata.normalize(form, name) for form in ("NFC", "NFD"))
    return next(filter(_exists, spellings), root / name)


def unusable(name: object) -> str | None:
    """Return why what a name stands for cannot be a picture here; None where it may be one."""
    if not isinstance(name, str):
        return None
    if _is_on_the_web(name):
        return "it is on the web: download it first"
    end = name.rstrip("/")[-5:].lower()
    if end.endswith(_VIDEOS):
        return "it is a video"
    return why_foreign(name.rstrip("/")) if end.endswith(FOREIGN) else None


def box_columns(columns: Mapping[str, str], file: Path) -> Sequence[str] | None:
    """Return the names of a CSV's columns of boxes; None where it has none.

    Raises:
        TaskError: It has some of the four.
    """
    for names in BOX_COLUMNS:
        if missing := [name for name in names if name not in columns]:
            if len(missing) < len(names):
                what = f"the first line of {file} lacks the column {missing[0]}"
                raise TaskError(what, f"A box needs {', '.join(names)}: fractions of the picture from its upper left")
        else:
            return names
    return None


def box_of(cells: Mapping[str, str], names: Sequence[str] | None, where: str, boxes: BoxReader) -> Box | None:
    """Read a box from a row of a CSV; None where its cells are empty.

    Raises:
        TaskError: They are no box.
    """
    texts = [cells[name] for name in names or ()]
    if not any(texts):
        return None
    return boxes.read([_number(text) for text in texts], where)


def _exists(path: Path) -> bool:
    return os.path.exists(path)  # noqa: PTH110 - no error where a name is too long or a folder closed


def _is_on_the_web(name: str) -> bool:
    return "://" in name[:12]


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _encodable(name: str) -> bool:
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return True
