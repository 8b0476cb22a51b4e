"""Small pieces of messages that many modules say."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

#: What stands in a text for the bytes of a name that are no UTF-8; no encoding has it.
_NO_CHARACTER = re.compile("[\ud800-\udfff]")


def nearest(name: str, known: Iterable[str]) -> str:
    """Suggest the known name that was probably meant, or list what there is."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, 1, 0.5)
    return f"Did you mean {near[0]!r}?" if near else f"It has {some(names)}"


def precision(name: str) -> str:
    """Return a precision as it is written in sentences: fp32, FP16, bf16, INT8."""
    return {"fp16": "FP16", "int8": "INT8"}.get(name, name)


def asked_points(value: float) -> str:
    """`1 point`, `0.5 points`: as it was asked for."""
    return f"{value:g} point{'' if value == 1 else 's'}"


def some(items: Sequence[str], most: int = 8) -> str:
    """List the first items and count the rest."""
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")


def printable(text: str) -> str:
    """Write a text as valid Unicode: names of files and arguments may hold any bytes."""
    return _NO_CHARACTER.sub("\N{REPLACEMENT CHARACTER}", text)


def all_printable(value: Any) -> Any:
    """Return a value, with every text in its mappings, lists and tuples written by `printable`."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {all_printable(key): all_printable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [all_printable(inner) for inner in value]
    return tuple(map(all_printable, value)) if isinstance(value, tuple) else value


def some_of_each(lines: Iterable[str], most: int = 20) -> list[str]:
    """Keep the first lines `path: reason` of each reason, and count the rest."""
    kept, counts = list[str](), Counter[str]()
    for line in lines:
        reason = line.partition(": ")[2]
        counts[reason] += 1
        if counts[reason] <= most:
            kept.append(line)
    return kept + [f"and {count - most} more: {reason}" for reason, count in counts.items() if count > most]
