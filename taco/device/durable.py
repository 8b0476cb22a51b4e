"""Writing that outlives a power cut: write, fsync, rename, fsync of the folder.

What is not synced may be gone, cut short or full of zeros after a power cut, and a new name may be gone with it. So a
file is whole under its name or is not there, and a line counts only when its checksum is right.
"""

from __future__ import annotations

import contextlib
import os


def write_whole(path: str, content: bytes) -> None:
    """Write a file so that its name means the old content or the new one at every moment, whatever ends the process.

    Args:
        path: The file; replaced when it exists.
        content: All of it.

    Raises:
        OSError: The disk is full, or the folder cannot be written.
    """
    temporary = path + ".part"
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        write_all(handle, content)
        os.fsync(handle)
    finally:
        os.close(handle)
    os.replace(temporary, path)
    sync_folder(os.path.dirname(path))


def write_all(handle: int, content: bytes) -> None:
    """Write every byte to an open file.

    Raises:
        OSError: The disk is full; some bytes may have been written.
    """
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(handle, rest) :]


def point(link: str, target: str) -> None:
    """Let a symbolic link mean another target, in one step.

    Raises:
        OSError: The folder cannot be written.
    """
    temporary = link + ".part"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    os.symlink(target, temporary)
    os.replace(temporary, link)
    sync_folder(os.path.dirname(link))


def remove(path: str) -> None:
    """Remove a file that may be gone already."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def sync_folder(folder: str) -> None:
    """Wait until the names in a folder have reached the disk, where its file system can do that."""
    handle = os.open(folder or ".", os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(handle)
    finally:
        os.close(handle)
