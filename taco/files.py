"""Write files whole or not at all: a temporary name in the same folder, fsync, rename."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from taco.errors import TacoError

#: Matches every name that `temporary_for` gives: what a killed process leaves behind.
TEMPORARIES = ".*.tmp"


def temporary_for(path: Path) -> Path:
    """Return the name, in the same folder, under which this process writes a file before it is renamed to `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def sweep(*folders: Path) -> None:
    """Remove what a killed process was writing in these folders."""
    for folder in folders:
        for left in folder.glob(TEMPORARIES):
            left.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a written file has reached the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` to `path`; an interruption leaves the old file or the new one, never half.

    Raises:
        TacoError: The disk is full or the folder cannot be written to.
    """
    temporary = temporary_for(path)
    try:
        temporary.write_bytes(content)
        sync(temporary)
        temporary.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise TacoError(f"{path} cannot be written: {reason}", "Free some space, or choose another --out") from error
    finally:
        with contextlib.suppress(OSError):  # it is gone after the rename, and where the folder is none it never was
            temporary.unlink()


def stamp(path: Path) -> tuple[int | str, ...]:
    """Identify what lies at a path by size and time, without reading it; a link to nowhere is `absent`."""
    try:
        status = path.stat()
    except OSError:  # whoever reads it says why
        return ("absent",)
    return status.st_size, status.st_mtime_ns


def sha256_of(path: Path) -> str:
    """Hash a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
