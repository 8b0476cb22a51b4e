"""Small pieces of messages that many modules say."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


def nearest(name: str, known: Iterable[str]) -> str:
    """Suggest the known name that was probably meant, or list what there is."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, 1, 0.5)
    return f"Did you mean {near[0]!r}?" if near else f"It has {some(names)}"


def precision(name: str) -> str:
    """Return a precision as it is written in sentences: fp32, FP16, bf16, INT8."""
    return {"fp16": "FP16", "int8": "INT8"}.get(name, name)


def some(items: Sequence[str], most: int = 8) -> str:
    """List the first items and count the rest."""
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")
