"""From a known set that is at hand to labelled pictures."""

from __future__ import annotations

import importlib.util
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from calib_data.known_set import CocoCameraTraps, ImageFolder, KnownSet, KnownSetError, PackageTable
from taco.errors import TaskError
from taco.task import ListOptions, list_pictures

Row = tuple[Path, str]


def labelled_rows(known: KnownSet, folder: Path | None) -> list[Row]:
    """Return (absolute path, class) of every picture of the set, sorted.

    Args:
        known: The set.
        folder: Where the person keeps it; not used by sets that come as a Python package.

    Raises:
        KnownSetError: If the set is not at hand; the message says how to get it.
    """
    if isinstance(known.load, PackageTable):
        rows = _from_package(known, known.load)
    elif folder is None:
        raise KnownSetError(f"{known.name} has to be given a folder", f"{known.get} Then add --folder DIR")
    elif not folder.is_dir():
        raise KnownSetError(f"{folder} is not a folder", known.get)
    elif isinstance(known.load, CocoCameraTraps):
        rows = _from_coco(known, folder.absolute())
    else:
        rows = _from_folder(known, known.load, folder.absolute())
    return sorted(rows)


def _from_package(known: KnownSet, load: PackageTable) -> list[Row]:
    spec = importlib.util.find_spec(load.package)
    if spec is None or spec.origin is None:
        raise KnownSetError(f"{known.name} is not at hand: {load.requirement} is not installed", known.get)
    table = Path(spec.origin).parent / load.table
    try:
        lines = table.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise KnownSetError(f"cannot read {table}: {error.strerror}", f"Install {load.requirement} again") from error
    rows: list[Row] = []
    for number, line in enumerate(lines, 1):
        cells = line.split()
        try:
            value, path = float(cells[load.value_column]), table.parent / cells[load.path_column]
        except (ValueError, IndexError) as error:
            raise KnownSetError(f"{table} line {number} is not as expected", f"Install {load.requirement}") from error
        rows.append((path, load.below if value < load.threshold else load.above))
    return rows


def _from_folder(known: KnownSet, load: ImageFolder, folder: Path) -> list[Row]:
    inner = folder / load.subfolder
    root = inner if inner.is_dir() else folder
    name_of = {entry.folder or entry.name: entry.name for entry in known.classes}
    present = [name for name in name_of if (root / name).is_dir()]
    if name_of and not present:
        raise KnownSetError(f"{root} has none of the folders {', '.join(name_of)}", known.get)
    try:
        listing = list_pictures(root, ListOptions(present or None))
    except TaskError as error:
        raise KnownSetError(error.what, known.get) from error
    folders = [listing.classes[picture.label_index] for picture in listing.pictures]
    return [(p.path, name_of.get(name, name)) for p, name in zip(listing.pictures, folders, strict=True)]


def _from_coco(known: KnownSet, folder: Path) -> list[Row]:
    files = sorted(folder.glob("*.json"))
    if len(files) != 1:
        raise KnownSetError(f"{folder} holds {len(files)} .json files instead of the set's one", known.get)
    try:
        rows = _coco_rows(json.loads(files[0].read_bytes()), folder)
    except (ValueError, KeyError, TypeError) as error:
        raise KnownSetError(f"{files[0]} is not COCO Camera Traps metadata ({error})", known.get) from error
    if not rows:
        raise KnownSetError(f"none of the pictures that {files[0].name} lists is in {folder}", known.get)
    return rows


def _coco_rows(metadata: dict[str, Any], folder: Path) -> list[Row]:
    category = {entry["id"]: str(entry["name"]) for entry in metadata["categories"]}
    labels: dict[Any, set[str]] = defaultdict(set)
    for annotation in metadata["annotations"]:
        labels[annotation["image_id"]].add(category[annotation["category_id"]])
    files: Sequence[dict[str, Any]] = [image for image in metadata["images"] if len(labels[image["id"]]) == 1]
    rows = [(folder / image["file_name"], *labels[image["id"]]) for image in files]
    return [(path, label) for path, label in rows if path.is_file()]
