"""How a process under test is killed at a moment of its own choice: around one of the renames that end a writing."""

from __future__ import annotations

import itertools
import os
import signal
from pathlib import Path
from typing import Literal


def die_at_rename(number: int, where: str, when: Literal["before", "after"]) -> None:
    """In the process: everything is written under another name and renamed; be killed at one rename.

    Args:
        number: Which of the renames to a path that matches `where`, from 1.
        where: A glob.
        when: Whether the file has its name by then.
    """
    rename, seen = Path.replace, itertools.count(1)

    def replace(self: Path, target: Path) -> Path:
        last = target.match(where) and next(seen) == number
        if last and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        named = rename(self, target)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
        return named

    Path.replace = replace  # type: ignore[method-assign,assignment]
