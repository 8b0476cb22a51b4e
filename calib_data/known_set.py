"""A known set: the description read from its TOML file.

title, summary, page        what it is and where it is described
pictures                    how many; absent where nobody has said so
[licence]                   name, url, sentence (printed whenever a set is used)
[[class]]                   name, and what it means; folder for sets whose folders have other names
[get]                       how: what a person does to have it
[load]                      kind: package-table | image-folder | coco-camera-traps, with what the kind needs
cite                        whom to cite, where the authors ask for it
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taco.errors import InputError

FOLDER = Path(__file__).parent


class KnownSetError(InputError):
    """An unknown set, or one that is not at hand."""


@dataclass(frozen=True, slots=True)
class Licence:
    """What may be done with the pictures."""

    name: str
    url: str
    sentence: str


@dataclass(frozen=True, slots=True)
class KnownClass:
    """A class; `folder` is where its pictures lie if that is not its name."""

    name: str
    meaning: str = ""
    folder: str = ""


@dataclass(frozen=True, slots=True)
class PackageTable:
    """A table inside an installed Python package; a number in it decides between two classes.

    Rows are split at white space; columns are counted from 0; paths are relative to the table.
    """

    package: str
    requirement: str
    table: str
    path_column: int
    value_column: int
    threshold: float
    below: str
    above: str


@dataclass(frozen=True, slots=True)
class ImageFolder:
    """One folder a class in the folder that a person gives, or in its `subfolder` where there is one."""

    subfolder: str = ""


@dataclass(frozen=True, slots=True)
class CocoCameraTraps:
    """A folder with the pictures and one COCO Camera Traps `.json`; pictures with several categories are left out."""


Load = PackageTable | ImageFolder | CocoCameraTraps
_LOADS: Mapping[str, type[Load]] = {
    "package-table": PackageTable,
    "image-folder": ImageFolder,
    "coco-camera-traps": CocoCameraTraps,
}


@dataclass(frozen=True, slots=True)
class KnownSet:
    """Everything a TOML file says about a set."""

    name: str
    title: str
    summary: str
    licence: Licence
    classes: tuple[KnownClass, ...]
    get: str
    load: Load
    page: str = ""
    pictures: int | None = None
    cite: str = ""


def names() -> tuple[str, ...]:
    """Return the names of all known sets, sorted."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


def read(name: str) -> KnownSet:
    """Read the description of a set.

    Raises:
        KnownSetError: If there is no such set, or its file is not as it must be.
    """
    if name not in names():
        near = difflib.get_close_matches(name, names(), 1, 0.5)
        hint = f"Did you mean {near[0]}?" if near else f"There are {', '.join(names())}"
        raise KnownSetError(f"there is no known set {name!r}", hint)
    path = FOLDER / f"{name}.toml"
    try:
        return _parse(name, tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise KnownSetError(f"{path} does not describe a set: {error}", "See known_set.py for its parts") from error


def _parse(name: str, values: Mapping[str, Any]) -> KnownSet:
    load = dict(values["load"])
    return KnownSet(
        name=name,
        title=values["title"],
        summary=values["summary"],
        page=values.get("page", ""),
        licence=Licence(**values["licence"]),
        classes=tuple(KnownClass(**entry) for entry in values.get("class", ())),
        get=values["get"]["how"],
        load=_LOADS[load.pop("kind")](**load),
        pictures=values.get("pictures"),
        cite=values.get("cite", ""),
    )
