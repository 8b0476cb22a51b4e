"""What the system tells in small files of text below /proc, /sys and /etc: any of them may be missing or unreadable."""

from __future__ import annotations

from typing import Optional


def read_text(path: str) -> str:
    """Stripped text of a file, "" when it cannot be read.

    Args:
        path: The file.
    """
    try:
        with open(path, "rb") as stream:
            return stream.read().decode("utf-8", "replace").strip("\0 \t\r\n")
    except OSError:
        return ""


def number(text: str) -> Optional[float]:
    """The number that a text is; None where it is none.

    Args:
        text: Of a file.
    """
    try:
        return float(text)
    except ValueError:
        return None
