"""New pictures in a folder that cameras, cards and slow copies write to.

A picture is taken up when its size and its time have stayed as they are for a while, by a clock that only runs forward:
a copy that is still growing is left alone. Hidden files, which is what many programs call a copy that is not finished,
links and other kinds of files are none.
"""

from __future__ import annotations

import os
import stat
import time
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

from taco.device.naming import PICTURES

#: Cards are formatted with FAT, which keeps local time: when the clocks go forward, every time on a card moves by an
#: hour. No time zone is off by anything but quarters of an hour.
QUARTER_NS = 900 * 10**9
#: New pictures that are kept in mind at a time; the others wait in the folder.
MOST_WAITING = 1000


class Frame(NamedTuple):
    """One picture as it lay there: another size or time under the same name is another frame.

    Attributes:
        name: Path below the folder.
        size: Bytes.
        mtime_ns: When it was written, nanoseconds since 1970.
    """

    name: str
    size: int
    mtime_ns: int

    @property
    def identity(self) -> Tuple[str, int, int]:
        """What tells it from other frames, whatever the time zone is."""
        return self.name, self.size, self.mtime_ns % QUARTER_NS


def frames(folder: str) -> Iterator[Frame]:
    """List the pictures in a folder and below, in the order of their names.

    Args:
        folder: Where they lie; what cannot be listed there is left out.
    """
    pending = [""]
    while pending:
        inside = pending.pop()
        entries = _entries(os.path.join(folder, inside))
        pending.extend(os.path.join(inside, n) for n, mode in reversed(entries) if stat.S_ISDIR(mode))
        for name, mode in entries:
            if stat.S_ISREG(mode) and name.lower().endswith(PICTURES):
                found = frame_of(folder, os.path.join(inside, name))
                if found is not None:
                    yield found


def frame_of(folder: str, name: str) -> Optional[Frame]:
    """Look at one picture; None where it has gone."""
    try:
        found = os.stat(os.path.join(folder, name), follow_symlinks=False)
    except OSError:
        return None
    return Frame(name, found.st_size, found.st_mtime_ns)


class Arrivals:
    """What is new in a folder and has stayed as it is.

    Args:
        folder: The folder.
        is_new: Tells whether a frame has not been dealt with.
        settle_s: How long a frame must have stayed as it is, seconds.
        patience_s: How long a frame that cannot be read is tried again before it counts as broken, seconds.
        clock: Seconds of a clock that only runs forward.
    """

    def __init__(
        self,
        folder: str,
        is_new: Callable[[Frame], bool],
        settle_s: float,
        patience_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._is_new, self._clock = folder, is_new, clock
        self._settle_s, self._patience_s = settle_s, patience_s
        self._since: Dict[Frame, float] = {}
        self._doubts: Dict[Frame, Tuple[float, float]] = {}

    def look(self) -> List[Frame]:
        """Look at the folder once.

        Returns:
            Frames to deal with now, at most 1,000.
        """
        now, since = self._clock(), {}
        for frame in frames(self._folder):
            if self._is_new(frame):
                since[frame] = self._since.get(frame, now)
                if len(since) == MOST_WAITING:
                    break
        self._since = since
        self._doubts = {frame: doubt for frame, doubt in self._doubts.items() if frame in since}
        return [f for f, begin in since.items() if now - begin >= self._settle_s and now >= self._again(f)]

    @property
    def waiting(self) -> int:
        """How many new frames the last look saw."""
        return len(self._since)

    def doubt(self, frame: Frame) -> bool:
        """Note that a frame cannot be read; it may be a copy that has stopped for a moment.

        Returns:
            Whether to try it again later; else it is broken.
        """
        now = self._clock()
        first = self._doubts.get(frame, (now, now))[0]
        self._doubts[frame] = (first, now + max(self._settle_s, self._patience_s / 4))
        return now - first < self._patience_s

    def _again(self, frame: Frame) -> float:
        return self._doubts[frame][1] if frame in self._doubts else 0.0


def _entries(folder: str) -> List[Tuple[str, int]]:
    """Names and kinds in one folder, by name."""
    found = []
    try:
        with os.scandir(folder) as listed:
            for entry in listed:
                if not entry.name.startswith("."):
                    found.append((entry.name, _kind(entry)))
    except OSError:
        return []
    return sorted(found)


def _kind(entry: "os.DirEntry[str]") -> int:
    """Tell folders, files and the rest apart without asking for more than the folder's own list says."""
    try:
        if entry.is_dir(follow_symlinks=False):
            return stat.S_IFDIR
        return stat.S_IFREG if entry.is_file(follow_symlinks=False) else 0
    except OSError:
        return 0
