"""Camtrap DP 1.0: a package of deployments, media and observations (camtrap-dp.tdwg.org).

A medium that was looked at by itself is labelled by its own observations; otherwise by those of the events of its
deployment during which it was taken.
"""

from __future__ import annotations

import bisect
import datetime
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from taco.errors import TaskError
from taco.formats.boxes import BoxReader
from taco.formats.dates import DateReader, clock
from taco.formats.names import BLANK, canonical
from taco.formats.rows import Found, Row, box_columns, box_of, locate, unusable
from taco.formats.stream import entries
from taco.formats.text import CsvRow, csv_rows
from taco.pictures.listing import Box, Skipped

DESCRIPTOR = "datapackage.json"
_TABLES = ("deployments", "media", "observations")
_FIXED = {"blank": BLANK, "human": "human", "vehicle": "vehicle"}


class _Medium(NamedTuple):
    path: Path
    deployment: str
    moment: datetime.datetime | None


class _Seen(NamedTuple):
    """One observation: its class ("" where it names none), its box, its event."""

    label: str
    box: Box | None
    event: str | None


class _Event(NamedTuple):
    deployment: str
    start: datetime.datetime
    end: datetime.datetime
    seen: _Seen


@dataclass(slots=True)
class _Package:
    """The tables, joined by `_rows`."""

    locations: dict[str, str] = field(default_factory=dict)
    media: dict[str, _Medium | None] = field(default_factory=dict)  # None: listed, and not usable
    of_medium: dict[str, list[_Seen]] = field(default_factory=dict)
    events: list[_Event] = field(default_factory=list)
    unnamed: Counter[str] = field(default_factory=Counter)
    boxes: BoxReader = field(default_factory=BoxReader)
    dates: DateReader = field(default_factory=DateReader)
    found: Found = field(default_factory=Found)


def read_camtrap_dp(descriptor: Path, root: Path) -> Found:
    """List the pictures of a Camtrap DP.

    Args:
        descriptor: Its datapackage.json.
        root: Where relative file paths start.

    Raises:
        TaskError: It cannot be used; the message names the file and the line.
        OSError: A table cannot be read.
    """
    tables, package = _tables(descriptor), _Package()
    for file in tables["deployments"]:
        _read_deployments(file, package)
    for file in tables["media"]:
        _read_media(file, root, package)
    if not package.media:
        raise TaskError(f"{tables['media'][0]} lists no picture", "Export the package again, with its media")
    for file in tables["observations"]:
        _read_observations(file, package)
    _join_events(package)
    package.found.rows += _rows(package)
    if unlabelled := sum(m is not None and key not in package.of_medium for key, m in package.media.items()):
        package.found.warnings.append(f"{unlabelled} pictures have no observation and are not used")
    if package.unnamed:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(package.unnamed.items()))
        package.found.warnings.append(f"observations that name no class are not used: {kinds}")
    package.found.warnings += [*package.dates.warnings(), *package.boxes.warnings()]
    return package.found


def _tables(descriptor: Path) -> dict[str, list[Path]]:
    tables: dict[str, list[Path]] = {}
    for entry in entries(descriptor, {"resources": frozenset({"name", "path"})}):
        where = f"{descriptor}: entry {entry.number} of 'resources'"
        name, path = entry.fields.get("name"), entry.fields.get("path")
        if name not in _TABLES:
            continue
        if name in tables:
            raise TaskError(f"{where}: {name} comes twice", "Keep one of the two")
        paths = path if isinstance(path, list) else [path]
        tables[str(name)] = [_inside(descriptor.parent, one, where) for one in paths]
    if missing := [name for name in _TABLES if not tables.get(name)]:
        what = f"{descriptor} lists no table {missing[0]}"
        raise TaskError(what, "A Camtrap DP has the resources deployments, media and observations, each with a path")
    return tables


def _inside(folder: Path, path: object, where: str) -> Path:
    """Return the place of a table, which may not lie outside of its package."""
    if not isinstance(path, str) or not path.strip() or "\0" in path:
        raise TaskError(f"{where} has no path", "Name the CSV file")
    if "://" in path:
        raise TaskError(f"{where}: {path} is on the web", "Download it first, and name the file in datapackage.json")
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts:
        raise TaskError(f"{where}: {path} lies outside of the package", "Put the table beside datapackage.json")
    if pure.suffix.lower() in (".gz", ".zip", ".bz2"):
        raise TaskError(f"{where}: {path} is compressed", "Unpack it, and name the CSV file in datapackage.json")
    return folder / path


def _table(file: Path, needed: Sequence[str]) -> tuple[Mapping[str, str], Iterator[CsvRow]]:
    """Return the header and the rows of a table that has the needed columns."""
    rows = csv_rows(file)
    header = next(rows).cells
    if missing := [name for name in needed if name.lower() not in header]:
        raise TaskError(f"the first line of {file} lacks the column {missing[0]}", f"It needs {', '.join(needed)}")
    return header, rows


def _read_deployments(file: Path, package: _Package) -> None:
    _, rows = _table(file, ["deploymentID"])
    for line, cells in rows:
        key = cells["deploymentid"]
        if not key or key in package.locations:
            what = f"the deploymentID {key!r} comes twice" if key else "there is no deploymentID"
            raise TaskError(f"{file} line {line}: {what}", "Give each deployment an ID of its own")
        package.locations[key] = cells.get("locationid") or cells.get("locationname") or key


def _read_media(file: Path, root: Path, package: _Package) -> None:
    _, rows = _table(file, ["mediaID", "deploymentID", "timestamp", "filePath"])
    for line, cells in rows:
        where, key, name = f"{file} line {line}", cells["mediaid"], cells["filepath"]
        if not key or key in package.media:
            what = f"the mediaID {key!r} comes twice" if key else "there is no mediaID"
            raise TaskError(f"{where}: {what}", "Give each medium an ID of its own")
        path = locate(root, name, where)
        reason = "it is a video" if cells.get("filemediatype", "").startswith("video") else unusable(name)
        if reason is None:
            package.media[key] = _Medium(
                path, sys.intern(cells["deploymentid"]), package.dates.read(cells["timestamp"])
            )
        else:
            package.media[key] = None
            package.found.skipped.append(Skipped(path, reason))


def _read_observations(file: Path, package: _Package) -> None:
    header, rows = _table(file, ["deploymentID", "mediaID", "observationType", "scientificName"])
    box_names = box_columns(header, file)
    for line, cells in rows:
        where, medium = f"{file} line {line}", cells["mediaid"]
        kind = cells["observationtype"].lower()
        label = canonical(cells["scientificname"]) if kind == "animal" else _FIXED.get(kind, "")
        if not label:
            package.unnamed[f"{kind} without a name" if kind == "animal" else kind or "without a type"] += 1
        event = cells.get("eventid") or None
        if medium and cells.get("observationlevel", "").lower() != "event":
            if medium not in package.media:
                raise TaskError(f"{where}: there is no medium {medium!r}", "Add it to the media, or remove the line")
            seen = _Seen(sys.intern(label), box_of(cells, box_names, where, package.boxes), event)
            package.of_medium.setdefault(medium, []).append(seen)
            continue
        start, end = (package.dates.read(cells.get(name)) for name in ("eventstart", "eventend"))
        if start is not None and end is not None:
            seen = _Seen(sys.intern(label), None, event)
            package.events.append(_Event(sys.intern(cells["deploymentid"]), start, end, seen))


def _join_events(package: _Package) -> None:
    """Give each medium without observations of its own those of the events that it was taken in."""
    shots: dict[str, list[tuple[datetime.datetime, str]]] = {}
    for key, medium in package.media.items():
        if medium is not None and medium.moment is not None and key not in package.of_medium:
            shots.setdefault(medium.deployment, []).append((medium.moment, key))
    timelines = {name: _Timeline(taken) for name, taken in shots.items()}
    for event in package.events:
        if event.deployment in timelines:
            for key in timelines[event.deployment].during(event.start, event.end):
                package.of_medium.setdefault(key, []).append(event.seen)


class _Timeline:
    """The media of one deployment in time: as moments where all name their zone, else as the clocks show."""

    def __init__(self, taken: Sequence[tuple[datetime.datetime, str]]) -> None:
        self._zoned = all(moment.tzinfo is not None for moment, _ in taken)
        self._moments = sorted((moment.timestamp(), key) for moment, key in taken) if self._zoned else []
        self._clocks = sorted((clock(moment), key) for moment, key in taken)

    def during(self, start: datetime.datetime, end: datetime.datetime) -> list[str]:
        zoned = self._zoned and start.tzinfo is not None and end.tzinfo is not None
        line = self._moments if zoned else self._clocks
        first, last = (moment.timestamp() if zoned else clock(moment) for moment in (start, end))
        low = bisect.bisect_left(line, first, key=lambda shot: shot[0])
        high = bisect.bisect_right(line, last, key=lambda shot: shot[0])
        return [key for _, key in line[low:high]]


def _rows(package: _Package) -> Iterator[Row]:
    for key, medium in package.media.items():
        if medium is None:
            continue
        location = package.locations.get(medium.deployment) or medium.deployment or None
        taken = None if medium.moment is None else clock(medium.moment)
        for label, box, event in package.of_medium.get(key, ()):
            if label:
                yield Row(label, medium.path, box, location, event, taken)
