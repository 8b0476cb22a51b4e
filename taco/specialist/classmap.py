"""Which row of the generalist's head belongs to which class of the task.

A row is found through `--class-map FILE` or by comparing the class's name with ImageNet's names and synsets.
"""

from __future__ import annotations

import csv
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from timm.data import ImageNetInfo

from taco.errors import HeadError
from taco.formats.names import canonical

Rows = dict[str, int | None]


def map_classes(classes: Sequence[str], info: ImageNetInfo, file: Path | None = None) -> Rows:
    """Return the head row of every class, None where there is none.

    Args:
        classes: The task's class names.
        info: Names and synsets of the head's rows.
        file: JSON (`{"fox": 277}`, `{"fox": "n02119022"}`, or entries with `synset` or `imagenet_index`; a synset goes
            first, since it holds for every label set) or CSV (`class,index` or `class,synset`). A class that is not in
            it has no mapping.

    Raises:
        HeadError: The file cannot be used, names an unknown row, or puts two classes on one row.
    """
    rows = _from_names(classes, info) if file is None else _from_file(classes, info, file)
    shared = [row for row, count in Counter(r for r in rows.values() if r is not None).items() if count > 1]
    if shared:
        names = ", ".join(c for c, r in rows.items() if r == shared[0])
        raise HeadError(
            f"{names} are all mapped to row {shared[0]} ({info.index_to_description(shared[0])})",
            "Give each class a label of its own in --class-map, merge the folders, or use --head fit",
        )
    return rows


def _from_names(classes: Sequence[str], info: ImageNetInfo) -> Rows:
    known: dict[str, set[int]] = defaultdict(set)
    for index in range(info.num_classes()):
        known[info.index_to_label_name(index)].add(index)
        for name in info.index_to_description(index).split(","):
            known[_plain(name)].add(index)
    hits = {c: known.get(_plain(c), set()) for c in classes}
    # "crane" is a bird and a machine: an ambiguous name is no match
    return {c: next(iter(rows)) if len(rows) == 1 else None for c, rows in hits.items()}


def _plain(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split())


def _from_file(classes: Sequence[str], info: ImageNetInfo, file: Path) -> Rows:
    try:
        text = file.read_text(encoding="utf-8-sig")
        entries = _parse_json(text) if file.suffix.lower() == ".json" else _parse_csv(text)
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise HeadError(
            f"--class-map {file} cannot be read: {error}",
            'Write JSON such as {"fox": 277, "bear": "n02132136"} or CSV lines `fox,277` under a header `class,index`',
        ) from error
    entries = {canonical(name): label for name, label in entries.items()}
    synsets = {info.index_to_label_name(i): i for i in range(info.num_classes())}
    return {c: _row(c, entries.get(canonical(c)), synsets, file) for c in classes}


def _parse_json(text: str) -> dict[str, object]:
    loaded = json.loads(text)
    if not isinstance(loaded, Mapping):
        raise ValueError("it is not an object of class -> label")
    return {str(key): _label(value) for key, value in loaded.items()}


def _label(value: object) -> object:
    if isinstance(value, Mapping):
        given = (value.get(key) for key in ("synset", "imagenet_index", "index"))
        return next((label for label in given if label is not None), None)
    return value


def _parse_csv(text: str) -> dict[str, object]:
    lines = list(csv.reader(text.splitlines()))
    if not lines or not any(cell.strip().lower() == "class" for cell in lines[0]):
        raise ValueError("its first line must be `class,index` or `class,synset`")
    header = [cell.strip().lower() for cell in lines[0]]
    label = next((header.index(k) for k in ("index", "imagenet_index", "synset") if k in header), None)
    if label is None:
        raise ValueError("its first line names neither `index` nor `synset`")
    key = header.index("class")
    pairs = [(line[key].strip(), line[label].strip() or None) for line in lines[1:] if len(line) > max(key, label)]
    entries: dict[str, object] = dict(pairs)
    for name, given in pairs:
        if entries[name] != given:
            raise ValueError(f"{name!r} is listed with two labels")
    return entries


def _row(name: str, label: object, synsets: Mapping[str, int], file: Path) -> int | None:
    if label is None:
        return None
    if isinstance(label, str) and label.strip() in synsets:
        return synsets[label.strip()]
    try:
        index = int(label) if isinstance(label, str | int) and not isinstance(label, bool) else -1
    except ValueError:
        index = -1
    if not 0 <= index < len(synsets):
        raise HeadError(
            f"--class-map {file}: {name!r} is mapped to {label!r}, which is no row of this head",
            f"Give an index from 0 to {len(synsets) - 1} or a synset such as n02119022",
        )
    return index
