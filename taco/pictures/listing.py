"""What a source of pictures lists: paths, boxes, labels, and where and when each was taken; nothing is opened here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


class Box(NamedTuple):
    """Where the animal is: fractions 0-1 of the upright picture, from its upper left corner (MegaDetector's order)."""

    left: float
    top: float
    width: float
    height: float


class View(NamedTuple):
    """What is looked at: a whole picture, or the part of it around a box."""

    path: Path
    box: Box | None = None


@dataclass(frozen=True, slots=True)
class LabelledPicture:
    """One view and the index of its class in `classes`.

    Attributes:
        path: The file.
        label_index: Index of the class.
        box: Where the animal is; None looks at the whole picture.
        location: Name of the place or camera, where the source tells.
        sequence: Name of the burst that it belongs to, where the source tells.
        taken: Seconds since 1970 on the camera's own clock, where the source tells.
    """

    path: Path
    label_index: int
    box: Box | None = None
    location: str | None = None
    sequence: str | None = None
    taken: float | None = None

    @property
    def view(self) -> View:
        """What is looked at."""
        return View(self.path, self.box)


@dataclass(frozen=True, slots=True)
class Skipped:
    """A picture that cannot be used.

    Attributes:
        path: The file.
        reason: Why.
        passing: Another try may succeed, as after a lost network drive or a lack of permission or memory.
    """

    path: Path
    reason: str
    passing: bool = False


@dataclass(frozen=True, slots=True)
class Listing:
    """What a source holds: absolute paths, unread. Pictures are sorted by class, then by path, then by box.

    Attributes:
        name: Name of the source.
        classes: In the order of their indices.
        pictures: Every usable picture.
        warnings: What a person should know.
        skipped: Pictures that the source lists and that cannot be used, such as several species without boxes.
        written: The classes as the source writes them (`Empty` for `blank`); nothing where just so.
    """

    name: str
    classes: tuple[str, ...]
    pictures: tuple[LabelledPicture, ...]
    warnings: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    written: tuple[str, ...] = ()
