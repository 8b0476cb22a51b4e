"""A file of lines that only grows: one JSON object a line, each with a checksum.

A power cut may leave the last lines cut short or full of zeros. Such lines do not count; what was synced does.
"""

from __future__ import annotations

import json
import os
import zlib
from typing import Any, Dict, List, Mapping, Optional

from taco.device.durable import sync_folder, write_all

Record = Dict[str, Any]


class Journal:
    """A journal that is open for more lines.

    Args:
        path: The file; made when it is missing.

    Raises:
        OSError: It cannot be opened or written.
    """

    def __init__(self, path: str) -> None:
        new = not os.path.exists(path)
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        if new:
            sync_folder(os.path.dirname(path))
        size = os.fstat(self._handle).st_size
        if size and os.pread(self._handle, 1, size - 1) != b"\n":
            write_all(self._handle, b"\n")  # what was cut short must not swallow the next line

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a line; it may be lost until `sync`.

        Raises:
            OSError: The disk is full.
        """
        text = json.dumps(record, separators=(",", ":"), allow_nan=False).encode("ascii")
        write_all(self._handle, b"%08x %s\n" % (zlib.crc32(text), text))

    def sync(self) -> None:
        """Wait until every line has reached the disk.

        Raises:
            OSError: It could not be written.
        """
        os.fsync(self._handle)

    def close(self) -> None:
        """Close the file; calling it again does nothing."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)


def read_journal(path: str) -> List[Record]:
    """Read the lines that count, in their order.

    Args:
        path: The file; none has no lines.

    Raises:
        OSError: It is there and cannot be read.
    """
    records: List[Record] = []
    try:
        with open(path, "rb") as stream:
            for line in stream:
                record = _record(line)
                if record is not None:
                    records.append(record)
    except FileNotFoundError:
        return []
    return records


def _record(line: bytes) -> Optional[Record]:
    checksum, _, text = line.rstrip(b"\n").partition(b" ")
    try:
        if int(checksum, 16) != zlib.crc32(text):
            return None
        found = json.loads(text.decode("ascii"))
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
