"""One folder a class."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from taco.device.naming import PICTURES, foreign, why_foreign
from taco.errors import TaskError
from taco.formats.names import canonical
from taco.formats.rows import Found, Row
from taco.pictures.listing import Skipped

#: A folder that holds one of these is a run of ours (`taco.rundir`), put beside the pictures.
_OF_A_RUN = ".taco"
PICTURE_SUFFIXES = frozenset(PICTURES)


class Files(NamedTuple):
    """What a folder holds, in depth.

    Attributes:
        pictures: Those that can be read.
        foreign: Pictures of kinds that are not read, such as HEIC and raw files.
    """

    pictures: list[Path]
    foreign: list[Path]


def read_folder(source: Path, classes: Sequence[str] | None) -> Found:
    """List the pictures of an image folder.

    Args:
        source: It holds one folder a class; runs of taco-export, there or further down, are not looked into.
        classes: Canonical names; folders of others are not looked into. None is all.

    Raises:
        TaskError: There are no class folders, or one that is asked for holds no picture.
        OSError: A folder cannot be read.
    """
    entries = [entry for entry in source.iterdir() if not entry.name.startswith(".")]
    above = _with_parents(source)
    names = sorted(e.name for e in entries if e.is_dir() and not (e / _OF_A_RUN).is_dir() and _place(e) not in above)
    beside = [entry.name for entry in entries if not entry.is_dir()]
    loose = sum(map(_is_picture, beside)) + len(foreign(beside))
    if not names:
        what = f"{source} holds {loose} pictures but no class folders" if loose else f"{source} is empty"
        layout = "Give a folder with one folder of pictures for each class, or a CSV file with the header path,label"
        raise TaskError(what, f"{layout}, such as {source.name}/fox/1.jpg and {source.name}/hare/1.jpg")
    found, left_out = Found(one_label=True), list[Path]()
    for name in tuple(names):
        if classes is not None and canonical(name) not in classes:
            continue
        files = files_of(source / name)
        if not files.pictures and _holds_runs(source / name):
            names.remove(name)
            continue
        if not files.pictures:
            what = f"{source / name} holds no picture ({' '.join(sorted(PICTURE_SUFFIXES))})"
            raise TaskError("; ".join([what, *told_foreign(files.foreign)]), "Fill it, remove it, or use --classes")
        label = found.label_of(name)
        found.rows += [Row(label, path) for path in files.pictures]
        left_out += files.foreign
    found.unused = tuple(sorted({canonical(name) for name in names}))
    found.skipped += [Skipped(path, why_foreign(path.name)) for path in left_out]
    found.warnings += told_foreign(left_out)
    if loose:
        found.warnings.append(f"{loose} pictures beside the class folders of {source.name} are not used")
    return found


def told_foreign(foreign_pictures: Sequence[Path]) -> list[str]:
    """Say how many pictures are of kinds that are not read, of which, and what to do; nothing where there are none."""
    kinds = Counter(path.suffix.lower() for path in foreign_pictures)
    if not kinds:
        return []
    counted = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    return [f"pictures of kinds that are not read are left out ({counted}): convert them to JPEG"]


def picture_files(folder: Path) -> list[Path]:
    """Return the pictures under a folder that can be read; see `files_of`."""
    return files_of(folder).pictures


def files_of(folder: Path) -> Files:
    """Return the pictures under a folder, in depth, without hidden files and runs of ours; loops of links are safe."""
    found = Files([], [])
    visited = _with_parents(folder) - {_place(folder)}
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=_raise):
        place = _place(Path(parent))
        if place in visited:  # a link back into the tree, or above it
            folders.clear()
            continue
        visited.add(place)
        if _OF_A_RUN in folders and parent != str(folder):  # the folder itself was asked for
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found.pictures.extend(Path(parent, name) for name in files if _is_picture(name))
        found.foreign.extend(Path(parent, name) for name in foreign(files))
    return found


def _place(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _with_parents(folder: Path) -> set[tuple[int, int]]:
    real = folder.resolve()
    return {_place(above) for above in (real, *real.parents)}


def _holds_runs(folder: Path) -> bool:
    return any(_OF_A_RUN in folders for _, folders, _ in os.walk(folder))


def _raise(error: OSError) -> NoReturn:
    raise error


def _is_picture(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES  # noqa: PTH122 - many
