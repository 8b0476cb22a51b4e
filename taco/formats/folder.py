"""One folder a class."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from taco.errors import TaskError
from taco.formats.names import canonical
from taco.formats.rows import Found, Row

#: A folder that holds one of these is a run of ours (`taco.rundir`), put beside the pictures.
_OF_A_RUN = ".taco"
PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif"})


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
    loose = sum(_is_picture(entry.name) for entry in entries if not entry.is_dir())
    if not names:
        what = f"{source} holds {loose} pictures but no class folders" if loose else f"{source} is empty"
        layout = "Give a folder with one folder of pictures for each class, or a CSV file with the header path,label"
        raise TaskError(what, f"{layout}, such as {source.name}/fox/1.jpg and {source.name}/hare/1.jpg")
    found = Found(one_label=True)
    for name in tuple(names):
        if classes is not None and canonical(name) not in classes:
            continue
        pictures = picture_files(source / name)
        if not pictures and _holds_runs(source / name):
            names.remove(name)
            continue
        if not pictures:
            what = f"{source / name} holds no picture ({' '.join(sorted(PICTURE_SUFFIXES))})"
            raise TaskError(what, "Fill it, remove it, or use --classes")
        found.rows += [Row(canonical(name), path) for path in pictures]
    found.unused = tuple(sorted({canonical(name) for name in names}))
    if loose:
        found.warnings.append(f"{loose} pictures beside the class folders of {source.name} are not used")
    return found


def picture_files(folder: Path) -> list[Path]:
    """Return the pictures under a folder, in depth, without hidden files and runs of ours; loops of links are safe."""
    pictures: list[Path] = []
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
        pictures += [Path(parent, name) for name in files if _is_picture(name)]
    return pictures


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
