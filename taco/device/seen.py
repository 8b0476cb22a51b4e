"""Which frames have been dealt with in finished parts: 8 bytes a frame, in one file that is written as a whole."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import zlib
from array import array
from bisect import bisect_left
from typing import Callable, Iterable, List, Set

from taco.device.arrivals import Frame
from taco.device.durable import write_whole
from taco.device.wire import DeviceError

#: So many of the latest frames are remembered, and of older ones those that still lie in the folder.
REMEMBERED = 50_000


class Seen:
    """The frames of all finished parts.

    Args:
        path: The file; none is the beginning.

    Attributes:
        next: Number of the part that is not finished yet.

    Raises:
        DeviceError: The file is damaged.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self.next = 1
        self._keys = array("Q")
        if os.path.exists(path):
            self._read()
        self._sorted = array("Q", sorted(self._keys))

    def __contains__(self, frame: object) -> bool:
        key = _key(frame) if isinstance(frame, Frame) else 0
        place = bisect_left(self._sorted, key)
        return place < len(self._sorted) and self._sorted[place] == key

    def __len__(self) -> int:
        return len(self._keys)

    def finish(self, frames: Iterable[Frame], there: Callable[[], Iterable[Frame]], most: int = REMEMBERED) -> None:
        """Note that a part is finished: in one step its frames are dealt with, and the next part begins.

        Args:
            frames: Of the part.
            there: Lists the frames that lie in the folder; asked only when there are many to remember.
            most: How many of the latest are remembered in any case.

        Raises:
            OSError: The disk is full.
        """
        keys = array("Q", self._keys)
        keys.extend(map(_key, frames))
        if len(keys) > most:
            keys = _forget(keys, {_key(frame) for frame in there()}, most)
        content = _bytes(keys)
        head = {"next": self.next + 1, "frames": len(keys), "crc32": zlib.crc32(content)}
        write_whole(self._path, json.dumps(head).encode("ascii") + b"\n" + content)
        self.next, self._keys, self._sorted = self.next + 1, keys, array("Q", sorted(keys))

    def _read(self) -> None:
        try:
            with open(self._path, "rb") as stream:
                head = json.loads(stream.readline().decode("ascii"))
                content = stream.read()
            if zlib.crc32(content) != head["crc32"]:
                raise ValueError("its checksum is wrong")
            self.next = int(head["next"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DeviceError(
                f"{self._path!r}, which tells what has been named, cannot be read: {error}",
                "Check the disk. Without this file every picture in the folder is named again.",
            ) from error
        self._keys.frombytes(content)
        if sys.byteorder == "big":
            self._keys.byteswap()


def _forget(keys: "array[int]", there: Set[int], most: int) -> "array[int]":
    """Forget older frames that have gone; where none is there the card is out, and will come back."""
    if not there:
        return keys
    kept: List[int] = [key for key in keys[:-most] if key in there]
    return array("Q", kept) + keys[-most:]


def _bytes(keys: "array[int]") -> bytes:
    if sys.byteorder == "little":
        return keys.tobytes()
    swapped = array("Q", keys)
    swapped.byteswap()
    return swapped.tobytes()


def _key(frame: Frame) -> int:
    name, size, moment = frame.identity
    told = os.fsencode(name) + b"\0%d %d" % (size, moment)
    return int.from_bytes(hashlib.blake2b(told, digest_size=8).digest(), "little")
