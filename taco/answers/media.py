"""The pictures that a Camtrap DP package lists in its media table (camtrap-dp.tdwg.org, 1.0); no labels are needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from taco.errors import InputError
from taco.formats.camtrap_dp import DESCRIPTOR
from taco.formats.rows import locate, unusable
from taco.formats.stream import entries
from taco.formats.text import csv_rows

_COLUMNS = ("mediaID", "deploymentID", "filePath")
_ADVICE = "Check the package against camtrap-dp.tdwg.org, or give the folder of its pictures"


class Medium(NamedTuple):
    """One picture of a package.

    Attributes:
        path: The file; it need not exist.
        media_id: Its mediaID.
        deployment_id: Its deploymentID.
        event_id: Its eventID (sequenceID before version 1.0), or nothing.
        timestamp: When it was taken, as the package writes it, or nothing.
    """

    path: Path
    media_id: str
    deployment_id: str
    event_id: str
    timestamp: str


@dataclass(frozen=True, slots=True)
class Media:
    """What a package's media table lists.

    Attributes:
        pictures: In the table's order.
        warnings: How many media were left out, and why.
    """

    pictures: tuple[Medium, ...]
    warnings: tuple[str, ...]


def package_folder(source: Path) -> Path | None:
    """Return the folder of a Camtrap DP package, given as that folder or as its `datapackage.json`; None for others.

    Raises:
        InputError: There is a `datapackage.json` that cannot be read as one.
    """
    file = source / DESCRIPTOR if source.is_dir() else source
    if file.name != DESCRIPTOR or not file.is_file():
        return None
    return file.parent if _tables(file) else None


def media_of(folder: Path) -> Media:
    """List the pictures of a package.

    Args:
        folder: From `package_folder`.

    Raises:
        InputError: The media table is missing or damaged, or lists no picture inside the package.
    """
    pictures: dict[str, Medium] = {}
    left_out: Counter[str] = Counter()
    for table in _tables(folder / DESCRIPTOR):
        try:
            for found in _read(folder, table):
                if isinstance(found, str):
                    left_out[found] += 1
                elif pictures.setdefault(found.media_id, found) is not found:
                    raise InputError(f"{table}: the mediaID {found.media_id!r} comes twice", _ADVICE)
        except OSError as error:
            raise InputError(f"cannot read {table}: {error.strerror}", "Check its permissions") from error
    warnings = tuple(f"{n} of the package's media are left out: {why}" for why, n in sorted(left_out.items()))
    if not pictures:
        raise InputError("; ".join((f"{folder} lists no picture inside the package", *warnings)), _ADVICE)
    return Media(tuple(pictures.values()), warnings)


def _read(folder: Path, table: Path) -> Iterator[Medium | str]:
    """Yield each medium, or why it is left out."""
    rows = csv_rows(table)
    header = next(rows).cells
    if missing := [name for name in _COLUMNS if name.lower() not in header]:
        raise InputError(f"the first line of {table} names no column {missing[0]}", _ADVICE)
    for line, cells in rows:
        where, name = f"{table} line {line}", cells["filepath"]
        media_id, deployment = cells["mediaid"], cells["deploymentid"]
        if not media_id or not deployment:
            raise InputError(f"{where} lacks a mediaID or a deploymentID", _ADVICE)
        path = locate(folder, name, where)
        reason = "it is a video" if cells.get("filemediatype", "").startswith("video") else unusable(name)
        event = cells.get("eventid") or cells.get("sequenceid", "")
        yield reason or Medium(path, media_id, deployment, event, cells.get("timestamp", ""))


def _tables(descriptor: Path) -> list[Path]:
    """Return where the media table lies; nothing where the package is not one of camera traps."""
    try:
        listed = list(entries(descriptor, {"resources": frozenset({"name", "path"})}))
    except OSError as error:
        raise InputError(f"cannot read {descriptor}: {error.strerror}", "Check its permissions") from error
    path = next((entry.fields.get("path") for entry in listed if entry.fields.get("name") == "media"), [])
    return [descriptor.parent / _inside(name, descriptor) for name in (path if isinstance(path, list) else [path])]


def _inside(name: object, descriptor: Path) -> PurePosixPath:
    if isinstance(name, str) and "\0" not in name and "://" not in name:
        pure = PurePosixPath(name)
        if pure.name and not pure.is_absolute() and ".." not in pure.parts:
            return pure
    raise InputError(f"{descriptor}: the media table {name!r} is no file of the package", _ADVICE)
