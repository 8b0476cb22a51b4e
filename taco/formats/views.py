"""From rows to what is looked at: boxes or whole frames, each file once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from taco.errors import TaskError
from taco.formats.megadetector import ANIMAL, DetectorOutput
from taco.formats.names import BLANK
from taco.formats.rows import Found, Places, Row
from taco.pictures.listing import Skipped

#: Classes that a detector calls otherwise than animal.
_DETECTED_AS = {"human": "person", "person": "person", "vehicle": "vehicle"}


@dataclass(frozen=True, slots=True)
class CropOptions:
    """Whether to look at boxes.

    Attributes:
        crop: As in `taco.task.ListOptions`.
        min_confidence: Least confidence of a detection that counts.
        detector: Boxes of pictures that have none of their own.
    """

    crop: bool | None
    min_confidence: float
    detector: DetectorOutput | None


@dataclass(slots=True)
class Views:
    """What is looked at: at most one row for each box of a file, or one for the file."""

    rows: list[Row]
    skipped: list[Skipped]
    warnings: list[str]


def choose_views(found: Found, classes: Sequence[str], options: CropOptions, source: Path) -> Views:
    """Decide between boxes and whole frames, and leave out the pictures that the decision makes useless.

    Boxes are looked at where asked for, or, unasked, where at least half of the pictures with an animal have one.

    Args:
        found: What the source holds.
        classes: Classes to use, by their canonical names.
        options: What was asked.
        source: For messages.

    Raises:
        TaskError: A file has two labels where it may have one, or boxes are asked for and there are none.
    """
    chosen = frozenset(classes)
    pictures, repeated = _by_picture(found, chosen, Places() if options.detector is None else options.detector.places)
    views = Views([], [], [])
    if repeated:
        views.warnings.append(f"{repeated} pictures were listed more than once in {source.name} and are used once")
    boxed = _with_detections(pictures, options)
    animals = [rows for rows in pictures if any(row.label != BLANK and row.label in chosen for row in rows)]
    have = sum(any(row.box is not None for row in boxed.rows.get(rows[0].path, rows)) for rows in animals)
    _check(have, options, source)
    crop = options.crop if options.crop is not None else have > 0 and 2 * have >= len(animals)
    if not crop and options.crop is None and (have or options.detector is not None):
        views.warnings.append(
            f"only {have} of {len(animals)} pictures with an animal have a box: whole frames are looked at"
        )
    without = 0
    for rows in pictures:
        kept = _cropped(rows, boxed) if crop else _whole(rows)
        if isinstance(kept, str):
            views.skipped.append(Skipped(rows[0].path, kept))
        else:
            views.rows += [row for row in kept if row.label in chosen]
            without += len({row.label for row in rows} - {row.label for row in kept})
    if without:
        views.warnings.append(f"{without} labels without a box, of pictures where others have one, are not used")
    return views


def _by_picture(found: Found, classes: frozenset[str], places: Places) -> tuple[list[list[Row]], int]:
    """Gather the rows of each file that has a label in `classes`; counts exact repeats of one-label sources."""
    pictures: dict[str, dict[tuple[object, ...], Row]] = {}
    repeated = 0
    for row in sorted(found.rows, key=lambda row: row.path.parts):
        if found.one_label and row.label not in classes:
            continue
        rows = pictures.setdefault(places.of(row.path), {})
        known = rows.setdefault((row.box,) if found.one_label else (row.box, row.label), row)
        if known is not row:
            if known.label != row.label:
                both = row.path if known.path == row.path else f"the same file as {known.path} and {row.path}"
                raise TaskError(f"{both} is listed as {known.label!r} and as {row.label!r}", "Keep one label")
            repeated += 1
    chosen = [list(rows.values()) for rows in pictures.values() if any(row.label in classes for row in rows.values())]
    return chosen, repeated if found.one_label else 0


@dataclass(slots=True)
class _Boxed:
    """Rows with a box from the detector, by the picture's path; or why there is none."""

    rows: Mapping[Path, list[Row]]
    reasons: Mapping[Path, str]


def _with_detections(pictures: Sequence[Sequence[Row]], options: CropOptions) -> _Boxed:
    rows: dict[Path, list[Row]] = {}
    reasons: dict[Path, str] = {}
    detector = options.detector
    if detector is None:
        return _Boxed(rows, reasons)
    entries = {picture[0].path: detector.entry_of(picture[0].path) for picture in pictures}
    if not any(entries.values()):
        what = f"{detector.file} lists none of the {len(entries)} pictures, such as {next(iter(entries))}"
        raise TaskError(what, "Give the detections of these pictures, or --images FOLDER where its file names start")
    contested = detector.contested(entries)
    for picture in pictures:
        path, labels = picture[0].path, _labels(picture)
        if len(labels) > 1 or labels == [BLANK] or any(row.box is not None for row in picture):
            continue
        entry = entries[path]
        if entry is None:
            many = detector.ambiguous(path)
            reasons[path] = f"{'several entries' if many else 'no entry'} of {detector.file.name} may be of it"
        elif path in contested:
            reasons[path] = f"an entry of {detector.file.name} may be of several pictures of this name"
        elif (failure := detector.failure(path)) is not None:
            reasons[path] = f"the detector failed: {failure}"
        else:
            kind = _DETECTED_AS.get(labels[0].casefold(), ANIMAL)
            box = detector.best(path, kind, options.min_confidence)
            if box is None:
                reasons[path] = f"no detection of at least {options.min_confidence:g}"
            else:
                rows[path] = [picture[0]._replace(box=box)]
    return _Boxed(rows, reasons)


def _check(have: int, options: CropOptions, source: Path) -> None:
    if options.crop is not True or have:
        return
    if options.detector is None:
        raise TaskError(f"{source} has no boxes to crop to", "Give MegaDetector's output with --boxes, or drop --crop")
    what = f"{options.detector.file} has no detection of at least {options.min_confidence:g} in these pictures"
    raise TaskError(what, "Lower --min-confidence, or drop --crop")


def _whole(rows: Sequence[Row]) -> list[Row] | str:
    labels = _labels(rows)
    if len(labels) == 1:
        return [rows[0]._replace(box=None)]
    if any(row.box is not None for row in rows):
        return f"{len(labels)} species in one frame: {', '.join(labels)}"
    return f"{len(labels)} species and no boxes: {', '.join(labels)}"


def _cropped(rows: Sequence[Row], boxed: _Boxed) -> list[Row] | str:
    labels = _labels(rows)
    if BLANK in labels:
        return _whole(rows)
    with_box = boxed.rows.get(rows[0].path) or [row for row in rows if row.box is not None]
    if not with_box:
        return _whole(rows) if len(labels) > 1 else boxed.reasons.get(rows[0].path, "it has no box")
    for box, count in Counter(row.box for row in with_box).items() if len(with_box) > 1 else ():
        if count > 1:
            return f"one box with {count} species: {', '.join(row.label for row in with_box if row.box == box)}"
    return with_box


def _labels(rows: Sequence[Row]) -> list[str]:
    if len(rows) == 1:
        return [rows[0].label]
    return sorted({row.label for row in rows})
