"""Which picture this is, wherever it lies: so that two runs know that they were judged on the same ones."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

_HEAD = 64 * 1024
_LENGTH = 16
_DECIMALS = 5


def picture_id(path: Path, box: Sequence[float] | None) -> str | None:
    """Return a short name made of a file's size, its first 64 KiB and the box that is looked at.

    Args:
        path: The file; its name does not matter.
        box: (x, y, width, height) as shares of the frame; None is the whole of it.

    Returns:
        16 hexadecimal digits; None where the file cannot be read any more.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD)
        size = path.stat().st_size
    except OSError:
        return None
    looked = "whole" if box is None else ",".join(f"{side:.{_DECIMALS}f}" for side in box)
    return hashlib.sha256(f"{size}|{looked}|".encode() + head).hexdigest()[:_LENGTH]
