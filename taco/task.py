"""A task: classes, a few labelled pictures a class to learn from, and pictures to evaluate on.

`list_pictures` says what a folder or a CSV file holds without opening a picture; `split` divides what could be read.
Every choice is made on the select shots, the evaluation pictures serve the report only (ARCHITECTURE section 8). Which
pictures of a class become shots depends on the seed, the class's name and its own pictures, never on other classes,
on the order of a list, or on where the folder lies; asking for more shots keeps the earlier ones.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import io
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from taco.errors import TaskError

PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif"})
SELECT_SHARE = 0.25
_PATH_COLUMNS = ("path", "filepath")
_LAYOUT = "Give a folder with one folder of pictures for each class, or a CSV file with the header path,label"
_Pictures = tuple["LabelledPicture", ...]


@dataclass(frozen=True, slots=True)
class LabelledPicture:
    """One picture and the index of its class in `classes`."""

    path: Path
    label_index: int


@dataclass(frozen=True, slots=True)
class Skipped:
    """A picture that cannot be used, and why."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class Listing:
    """What a source holds: absolute paths, unread. Pictures are sorted by class, then by path."""

    name: str
    classes: tuple[str, ...]
    pictures: tuple[LabelledPicture, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SplitOptions:
    """How to divide: `shots` pictures a class; evaluation on `evaluation`, or on the rest where that is None."""

    shots: int = 16
    seed: int = 0
    evaluation: Listing | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """Readable pictures divided into fit, select and evaluation."""

    name: str
    classes: tuple[str, ...]
    fit: tuple[LabelledPicture, ...]
    select: tuple[LabelledPicture, ...]
    evaluation: tuple[LabelledPicture, ...]
    skipped: tuple[Skipped, ...] = ()
    warnings: tuple[str, ...] = ()


def list_pictures(source: Path, classes: Sequence[str] | None = None) -> Listing:
    """List the labelled pictures of an image folder (one folder a class) or of a CSV file (`path,label`).

    Args:
        source: The folder or the CSV file.
        classes: Classes to use, in this order; all of them, sorted by name, where None.

    Raises:
        TaskError: If the source cannot be used; the message says how it should look.
    """
    source = source.absolute()
    try:
        if not source.exists():
            raise TaskError(f"{source} does not exist", "Check the path")
        found, warnings = _in_folder(source, classes) if source.is_dir() else (_in_csv(source), [])
    except OSError as error:
        raise TaskError(f"cannot read {source}: {error.strerror or error}", "Check its permissions") from error
    chosen = _choose(sorted(found) if classes is None else classes, found, source)
    _check_names(chosen, source)
    unique, repeated = _once_each(chosen, found)
    if repeated:
        warnings.append(f"{repeated} pictures were listed more than once in {source.name} and are used once")
    pictures = (LabelledPicture(path, index) for index, paths in enumerate(unique) for path in paths)
    return Listing(source.name if source.is_dir() else source.stem, chosen, tuple(pictures), tuple(warnings))


def _check_names(classes: Sequence[str], source: Path) -> None:
    """Refuse names that `labels.txt` could not hold, before hours are spent on them."""
    for name in classes:
        if not name.isprintable() or not name.strip():
            raise TaskError(f"{source}: the class name {name!r} is not printable text", "Rename it")


def split(listing: Listing, readable: Collection[Path], options: SplitOptions, skipped: Iterable[Skipped] = ()) -> Task:
    """Divide the readable pictures of a listing, class by class and seeded.

    Args:
        listing: All pictures.
        readable: Paths, of `listing` and of `options.evaluation`, that can be decoded.
        options: Shots, seed, and where the evaluation pictures come from.
        skipped: Why the others cannot; only passed on.

    Raises:
        TaskError: If a class has fewer than two readable pictures, or an evaluation label is unknown.
    """
    if options.shots < 2:
        raise TaskError(f"{options.shots} shots a class are too few", "Ask for at least 2: one to fit, one to select")
    usable = frozenset(readable)
    by_class = [
        _shuffled([p.path for p in listing.pictures if p.label_index == index and p.path in usable], options.seed, name)
        for index, name in enumerate(listing.classes)
    ]
    for name, paths in zip(listing.classes, by_class, strict=True):
        if len(paths) < 2:
            what = f"class {name!r} has {len(paths)} readable pictures, at least 2 are needed"
            raise TaskError(what, "Add pictures to it, or leave it out with --classes")
    fit, select, rest = _divide(by_class, options.shots)
    candidates = rest if options.evaluation is None else _relabel(options.evaluation, listing.classes, usable)
    try:
        evaluation = _without_copies(candidates, [p.path for p in (*fit, *select)])
    except OSError as error:
        raise TaskError(f"cannot read {error.filename}: {error.strerror}", "Leave the pictures in place") from error
    warnings = [*listing.warnings, *(options.evaluation.warnings if options.evaluation else ())]
    warnings += _split_warnings(listing.classes, by_class, options.shots, evaluation)
    if dropped := len(candidates) - len(evaluation):
        warnings.append(f"{dropped} evaluation pictures are copies of shots and were left out of the evaluation")
    return Task(listing.name, listing.classes, fit, select, evaluation, tuple(skipped), tuple(warnings))


def _in_folder(source: Path, classes: Sequence[str] | None) -> tuple[dict[str, list[Path]], list[str]]:
    entries = [entry for entry in source.iterdir() if not entry.name.startswith(".")]
    names = {entry.name for entry in entries if entry.is_dir()}
    loose = sum(_is_picture(entry.name) for entry in entries if not entry.is_dir())
    if not names:
        what = f"{source} holds {loose} pictures but no class folders" if loose else f"{source} is empty"
        raise TaskError(what, f"{_LAYOUT}, such as {source.name}/fox/1.jpg and {source.name}/hare/1.jpg")
    wanted = names if classes is None else names & set(classes)
    found = {name: picture_files(source / name) for name in wanted}
    for name in sorted(found):
        if not found[name]:
            what = f"{source / name} holds no picture ({' '.join(sorted(PICTURE_SUFFIXES))})"
            raise TaskError(what, "Fill it, remove it, or use --classes")
    found.update((name, []) for name in names - wanted)  # known, so that a wrong name can be told from an unused one
    warnings = [f"{loose} pictures beside the class folders of {source.name} are not used"] if loose else []
    return found, warnings


def picture_files(folder: Path) -> list[Path]:
    """Return the pictures under a folder, in depth; hidden files are ignored, loops of links are safe."""
    pictures: list[Path] = []
    visited: set[tuple[int, int]] = set()
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=_raise):
        status = Path(parent).stat()
        if (status.st_dev, status.st_ino) in visited:  # a link back into the tree
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        pictures += [Path(parent, name) for name in files if _is_picture(name)]
    return pictures


def _raise(error: OSError) -> NoReturn:
    raise error


def _is_picture(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in PICTURE_SUFFIXES


def _in_csv(source: Path) -> dict[str, list[Path]]:
    if source.suffix.lower() != ".csv":
        raise TaskError(f"{source} is neither a folder nor a CSV file", _LAYOUT)
    text = _decode(source.read_bytes())
    found: dict[str, list[Path]] = {}
    try:
        rows = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True)
        columns = {(name or "").strip().lower(): name for name in rows.fieldnames or ()}
        path_column = next((columns[name] for name in _PATH_COLUMNS if name in columns), None)
        label_column = columns.get("label")
        if path_column is None or label_column is None:
            raise TaskError(f"the first line of {source} names no columns path and label", _LAYOUT)
        for row in rows:
            path, label = (row[path_column] or "").strip(), (row[label_column] or "").strip()
            if not path or not label or "\0" in path:
                raise TaskError(f"{source} line {rows.line_num} lacks a path or a label", "Complete or remove it")
            found.setdefault(label, []).append(source.parent / path)
    except csv.Error as error:
        raise TaskError(f"{source} is not a CSV file: {error}", _LAYOUT) from error
    if not found:
        raise TaskError(f"{source} lists no picture", _LAYOUT)
    return found


def _decode(raw: bytes) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _choose(wanted: Sequence[str], found: Mapping[str, list[Path]], source: Path) -> tuple[str, ...]:
    if len(set(wanted)) < len(wanted):
        raise TaskError(f"a class is asked for twice: {', '.join(wanted)}", "Name each class once")
    for name in wanted:
        if name not in found:
            raise TaskError(f"{source} has no class {name!r}", _nearest(name, found))
    if len(wanted) < 2:
        raise TaskError(f"{source} gives {len(wanted)} class ({', '.join(wanted)}); at least 2 are needed", _LAYOUT)
    return tuple(wanted)


def _nearest(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    near = difflib.get_close_matches(name, names, 1, 0.5)
    return f"Did you mean {near[0]!r}?" if near else f"It has {_some(names)}"


def _once_each(classes: Sequence[str], found: Mapping[str, list[Path]]) -> tuple[list[list[Path]], int]:
    label_of: dict[str, str] = {}
    unique: list[list[Path]] = []
    for name in classes:
        kept: dict[str, Path] = {}
        for path in sorted(found[name]):
            place = os.path.realpath(path)  # Path.resolve fails on a link to itself
            other = label_of.setdefault(place, name)
            if other != name:
                raise TaskError(f"{path} is listed as {other!r} and as {name!r}", "Keep it under one label")
            kept.setdefault(place, path)
        unique.append(list(kept.values()))
    return unique, sum(len(found[name]) for name in classes) - sum(map(len, unique))


def _shuffled(paths: Iterable[Path], seed: int, name: str) -> list[Path]:
    def rank(position: int) -> bytes:  # a generator's stream may change with the Python release, a hash does not
        return hashlib.sha256(f"{seed}\0{name}\0{position}".encode()).digest()

    ordered = sorted(paths)
    return [ordered[position] for position in sorted(range(len(ordered)), key=rank)]


def _divide(by_class: Sequence[Sequence[Path]], shots: int) -> tuple[_Pictures, _Pictures, _Pictures]:
    fit, select, rest = [], [], []
    for index, paths in enumerate(by_class):
        pictures = [LabelledPicture(path, index) for path in paths]
        taken = min(shots, len(paths))
        first_select = taken - max(1, round(taken * SELECT_SHARE))
        fit += pictures[:first_select]
        select += pictures[first_select:taken]
        rest += pictures[taken:]
    return tuple(fit), tuple(select), tuple(rest)


def _relabel(evaluation: Listing, classes: Sequence[str], usable: frozenset[Path]) -> _Pictures:
    for name in evaluation.classes:
        if name not in classes:
            raise TaskError(f"evaluation class {name!r} is not a class of the task", _nearest(name, classes))
    index_of = [classes.index(name) for name in evaluation.classes]
    return tuple(LabelledPicture(p.path, index_of[p.label_index]) for p in evaluation.pictures if p.path in usable)


def _without_copies(candidates: _Pictures, shots: Sequence[Path]) -> _Pictures:
    if not candidates:
        return ()
    places = {os.path.realpath(path) for path in shots}
    contents = {_content(path) for path in shots}
    sizes = {size for size, _ in contents}

    def is_copy(path: Path) -> bool:
        # Hashing only files of a shot's size spares reading nearly all of them.
        return os.path.realpath(path) in places or (path.stat().st_size in sizes and _content(path) in contents)

    return tuple(picture for picture in candidates if not is_copy(picture.path))


def _content(path: Path) -> tuple[int, bytes]:
    with path.open("rb") as stream:
        return path.stat().st_size, hashlib.file_digest(stream, "sha256").digest()


def _split_warnings(
    classes: Sequence[str], by_class: Sequence[Sequence[Path]], shots: int, evaluation: _Pictures
) -> Iterable[str]:
    if few := [f"{n} ({len(paths)})" for n, paths in zip(classes, by_class, strict=True) if len(paths) < shots]:
        yield f"fewer readable pictures than the {shots} shots asked, all of them used: {_some(few)}"
    evaluated = {classes[picture.label_index] for picture in evaluation}
    if none := [name for name in classes if name not in evaluated]:
        yield f"no picture left for evaluation: {_some(none)}"


def _some(items: Sequence[str]) -> str:
    return ", ".join(items[:8]) + (f" and {len(items) - 8} more" if len(items) > 8 else "")
