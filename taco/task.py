"""The pictures of a source, labelled, whatever form it has: the front of `taco.formats`."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from taco.errors import TaskError
from taco.formats.camtrap_dp import DESCRIPTOR, read_camtrap_dp
from taco.formats.coco import read_coco
from taco.formats.folder import picture_files, read_folder
from taco.formats.megadetector import read_boxes
from taco.formats.names import canonical
from taco.formats.rows import Found
from taco.formats.stream import top_keys
from taco.formats.table import read_table
from taco.formats.text import check_file, first_character
from taco.formats.views import CropOptions, Views, choose_views
from taco.options import MIN_CONFIDENCE
from taco.pictures.listing import LabelledPicture, Listing
from taco.wording import nearest, some

__all__ = ["ListOptions", "list_pictures", "picture_files"]

_LAYOUT = (
    "Give a folder with one folder of pictures for each class, a CSV file with the header path,label, a COCO file "
    "with images, annotations and categories, or a Camtrap DP"
)


@dataclass(frozen=True, slots=True)
class ListOptions:
    """What to list.

    Attributes:
        classes: Classes to use, in this order; all of them, sorted by name, where None.
        images: Where relative file names of a CSV or JSON start; None is the folder of that file.
        boxes: MegaDetector output: where the animals are, in pictures whose source does not tell.
        crop: Look at boxes only; None does so where the animals have boxes; False never.
        min_confidence: Least confidence of a detection that counts.
    """

    classes: Sequence[str] | None = None
    images: Path | None = None
    boxes: Path | None = None
    crop: bool | None = None
    min_confidence: float = MIN_CONFIDENCE


_DEFAULTS = ListOptions()


def list_pictures(source: Path, options: ListOptions = _DEFAULTS) -> Listing:
    """List the labelled pictures of an image folder, a CSV file, a COCO file or a Camtrap DP, told apart by content.

    Args:
        source: The folder or the file.
        options: What of it.

    Raises:
        TaskError: The source cannot be used; the message says how it should look.
    """
    with _no_collection():
        return _list(source.absolute(), options)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Rows by the hundred thousand hold no cycles, and looking for some takes a tenth of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _list(source: Path, options: ListOptions) -> Listing:
    asked = None if options.classes is None else [canonical(name) for name in options.classes]
    try:
        if not source.exists():
            raise TaskError(f"{source} does not exist", "Check the path")
        if options.images is not None and not options.images.is_dir():
            raise TaskError(f"--images {options.images}: there is no such folder", "Name the folder of the pictures")
        found = _read(source, options.images, asked)
    except OSError as error:
        raise TaskError(f"cannot read {source}: {error.strerror or error}", "Check its permissions") from error
    _check_exist(found, source, options.images or (source if source.is_dir() else source.parent))
    classes = _choose(asked, found, source)
    root = source if source.is_dir() else source.parent
    roots = [root] if options.images is None else [options.images, root]
    detector = None if options.boxes is None or options.crop is False else read_boxes(options.boxes, roots)
    how = CropOptions(options.crop, options.min_confidence, detector)
    views = choose_views(found, classes, how, source)
    views.warnings += () if detector is None else detector.warnings
    return _listing(source, found, views, _still_there(classes, asked, views, source))


def _read(source: Path, images: Path | None, classes: Sequence[str] | None) -> Found:
    if source.is_dir() and not (source / DESCRIPTOR).exists():
        return read_folder(source, classes)
    file = source / DESCRIPTOR if source.is_dir() else source
    check_file(file)
    root = file.parent if images is None else images.absolute()
    if first_character(file) not in ("{", "["):
        if file.suffix.lower() == ".json":
            raise TaskError(f"{file} is not valid JSON: it begins with neither {{ nor [", _LAYOUT)
        if file.suffix.lower() != ".csv":
            raise TaskError(f"{file} is neither a folder, a CSV file nor a JSON file", _LAYOUT)
        return read_table(file, root)
    return _read_json(file, root)


def _read_json(file: Path, root: Path) -> Found:
    keys: list[str] = []
    for key in top_keys(file):
        keys.append(key)
        if key == "detection_categories":
            what = f"{file} is a detector's output: it holds boxes, not labels"
            raise TaskError(what, "Give the labels as TASK and this file with --boxes")
        if key == "resources":
            return read_camtrap_dp(file, root)
        if key == "annotations":
            return read_coco(file, root)
    raise TaskError(f"{file} holds {some(keys) or 'nothing'}, which is not a form that is known", _LAYOUT)


def _check_exist(found: Found, source: Path, root: Path) -> None:
    """Refuse a list of which nothing is there; single absent pictures are told when they are read."""
    if found.rows and not any(os.path.lexists(row.path) for row in found.rows):
        first = found.rows[0].path
        what = f"none of the {len(found.rows)} pictures that {source} lists exists, the first is {first}"
        if first.is_relative_to(root.absolute()):
            raise TaskError(what, "Name the folder where its file names start with --images")
        todo = "Correct these absolute paths, or write them relative to a folder that you name with --images"
        raise TaskError(what, todo)


def _choose(asked: Sequence[str] | None, found: Found, source: Path) -> tuple[str, ...]:
    labelled = {row.label for row in found.rows}
    wanted = sorted(labelled) if asked is None else asked
    if len(set(wanted)) < len(wanted):
        raise TaskError(f"a class is asked for twice: {', '.join(wanted)}", "Name each class once")
    for name in wanted:
        if name in labelled:
            continue
        if name in found.unused:
            raise TaskError(f"{source} has no picture of class {name!r}", nearest(name, labelled))
        raise TaskError(f"{source} has no class {name!r}", nearest(name, labelled | set(found.unused)))
    if not labelled:
        raise TaskError(f"{source} has no picture with a label", some(found.warnings) or _LAYOUT)
    if len(wanted) < 2:
        raise TaskError(f"{source} gives {len(wanted)} class ({', '.join(wanted)}); at least 2 are needed", _LAYOUT)
    for name in wanted:  # labels.txt could not hold them, which shows after hours
        if not name.isprintable() or not name:
            raise TaskError(f"{source}: the class name {name!r} is not printable text", "Rename it")
    return tuple(wanted)


def _still_there(classes: Sequence[str], asked: Sequence[str] | None, views: Views, source: Path) -> tuple[str, ...]:
    """Leave out the classes all of whose pictures were left out, unless they were asked for."""
    left = {row.label for row in views.rows}
    lost = [name for name in classes if name not in left]
    kept = tuple(name for name in classes if name in left)
    if lost and (asked is not None or len(kept) < 2):
        reason = next((s.reason for s in views.skipped), "none was left")
        what = f"{source} has no picture of {some(lost)} that can be used, for example because of: {reason}"
        raise TaskError(what, "Give boxes for them, use --no-crop for whole frames, or choose others with --classes")
    if lost:
        views.warnings.append(f"no picture of these classes can be used, so they are left out: {some(lost)}")
    return kept


def _listing(source: Path, found: Found, views: Views, classes: tuple[str, ...]) -> Listing:
    index = {name: number for number, name in enumerate(classes)}
    rows = sorted(views.rows, key=lambda row: (index[row.label], row.path.parts, row.box or ()))
    pictures = (LabelledPicture(r.path, index[r.label], r.box, r.location, r.sequence, r.taken) for r in rows)
    skipped = tuple(dict.fromkeys([*found.skipped, *views.skipped]))
    name = source.name if source.is_dir() else source.stem
    if source.name.lower() == DESCRIPTOR:
        name = source.parent.name
    written = tuple(found.written.get(label, label) for label in classes)
    return Listing(name, classes, tuple(pictures), (*found.warnings, *views.warnings), skipped, written)
