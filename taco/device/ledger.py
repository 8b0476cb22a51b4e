"""What has been named so far: no frame twice, none lost, whatever ends the program, a power cut included.

A frame counts as named when its line in the journal has reached the disk, and at no other moment. A journal holds one
part of the results, at most 1,000 frames of one bundle. Of each part there are `part-NNNNNN.json` and `.csv`. A part is
finished in this order: its files are written, `seen` is replaced (that is the one step that counts), its journal goes.
What a program that was killed on the way has left is put right when the next one begins; every step may be repeated.

Writes go through `taco.device.durable` and `taco.device.journal`; tests cut the power before and after each of them.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Sequence

from taco.device import answers
from taco.device.arrivals import Frame
from taco.device.durable import remove, write_whole
from taco.device.journal import Journal, Record, read_journal
from taco.device.seen import Seen
from taco.device.wire import DeviceError

#: Frames of one part: its files are written anew as it grows, and it is all that is kept in memory.
PART_FRAMES = 1000
#: So often the program may end while it looks at one frame; then that frame is listed as broken.
MOST_DEATHS = 5
_JOURNAL = re.compile(r"part-(\d{6})\.journal")
_PART = re.compile(r"part-(\d{6})\.(?:json|csv)")


class Ledger:
    """The results of one watched folder.

    Args:
        folder: Where results go; made when it is missing.
        facts: Of the bundle that names from now on, from `taco.device.answers.facts_of`.
        there: Lists the frames that lie in the watched folder.
        part_frames: Frames of one part.
        keep: Finished parts that stay; 0 is all of them.

    Raises:
        DeviceError: Another program writes there, or what is there is damaged.
        OSError: The folder cannot be written.
    """

    def __init__(
        self,
        folder: str,
        facts: Mapping[str, Any],
        there: Callable[[], Iterable[Frame]],
        part_frames: int = PART_FRAMES,
        keep: int = 0,
    ) -> None:
        self._folder, self._facts, self._there = folder, dict(facts), there
        self._part_frames, self._keep = part_frames, keep
        os.makedirs(folder, exist_ok=True)
        self._lock = _locked(os.path.join(folder, ".lock"))
        self._seen = Seen(os.path.join(folder, "seen"))
        self._named: Dict[str, Record] = {}
        self._order: List[Record] = []
        self._deaths: Dict[Frame, int] = {}
        self._dirty = False
        self._begin()

    def is_new(self, frame: Frame) -> bool:
        """Tell whether a frame is still to be named."""
        known = self._named.get(frame.name)
        if known is not None and _frame(known).identity == frame.identity:
            return False
        return frame not in self._seen

    def deaths(self, frame: Frame) -> int:
        """How often the program has ended while it looked at a frame, one time after the other."""
        return self._deaths.get(frame, 0)

    def trying(self, frame: Frame) -> None:
        """Note that a frame is looked at now, so that one which ends the program is not tried for ever."""
        self._journal.append({"try": list(frame), "deaths": self.deaths(frame)})

    def doubted(self, frame: Frame) -> None:
        """Note that looking at a frame has ended, without an answer."""
        self._journal.append({"doubt": list(frame)})

    def add(self, frame: Frame, said: Mapping[str, Any]) -> None:
        """Note an answer, or a `failure`; it counts after `sync`.

        Raises:
            OSError: The disk is full.
        """
        known = self._named.get(frame.name)
        if (known is not None and "failure" not in known) or len(self._order) >= self._part_frames:
            self._finish()  # names are unique within a part; a failed one is replaced by what came of it
        record = {**frame._asdict(), "file": frame.name, "at": time.time(), **said}
        record.pop("name")
        self._journal.append({"frame": record})
        self._deaths.pop(frame, None)
        self._take(record)
        self._dirty = True

    def sync(self) -> None:
        """Make what was added count."""
        self._journal.sync()

    def publish(self) -> bool:
        """Write the files of the part as far as it goes; returns whether there was anything new."""
        if not self._dirty:
            return False
        self.sync()
        self._write(self._seen.next, self._records(), self._facts)
        self._dirty = False
        return True

    def close(self) -> None:
        """Let others write there."""
        self._journal.close()
        os.close(self._lock)

    def _begin(self) -> None:
        """Go on where the last program stopped."""
        for number in sorted(_numbers(self._folder, _JOURNAL)):
            if number < self._seen.next:
                remove(self._path(number, "journal"))
            elif number > self._seen.next:
                raise DeviceError(
                    f"{self._path(number, 'journal')!r} is newer than 'seen' beside it: files were mixed or lost",
                    "Choose another folder for the results.",
                )
        lines = read_journal(self._path(self._seen.next, "journal"))
        facts = next((line["bundle"] for line in lines if "bundle" in line), None)
        if facts is None:
            remove(self._path(self._seen.next, "journal"))  # it had not got as far as its first line
        else:
            for line in lines:
                if "frame" in line:
                    self._take(line["frame"])
        self._dirty = bool(self._order)
        self._journal = Journal(self._path(self._seen.next, "journal"))
        if facts is None:
            self._head()
        elif facts != self._facts:
            self._finish(facts)
        if lines and "try" in lines[-1]:
            self._deaths[Frame(*lines[-1]["try"])] = int(lines[-1]["deaths"]) + 1

    def _take(self, record: Record) -> None:
        self._named[record["file"]] = record
        self._order.append(record)

    def _head(self) -> None:
        self._journal.append({"bundle": self._facts})
        self._journal.sync()

    def _records(self) -> List[Record]:
        """The part's answers in their order, without failures that were replaced."""
        return [record for record in self._order if self._named[record["file"]] is record]

    def _finish(self, facts: Optional[Mapping[str, Any]] = None) -> None:
        number = self._seen.next
        self._journal.sync()
        if self._order:
            self._write(number, self._records(), facts or self._facts)
            self._seen.finish(map(_frame, self._order), self._there)
            self._journal.close()
            remove(self._path(number, "journal"))
            self._forget_parts()
        else:
            self._journal.close()
            remove(self._path(number, "journal"))
        self._named, self._order, self._dirty = {}, [], False
        self._journal = Journal(self._path(self._seen.next, "journal"))
        self._head()

    def _write(self, number: int, records: Sequence[Record], facts: Mapping[str, Any]) -> None:
        write_whole(self._path(number, "csv"), answers.to_csv(records, facts).encode())
        write_whole(self._path(number, "json"), answers.to_megadetector(records, facts).encode())

    def _forget_parts(self) -> None:
        parts = sorted(set(_numbers(self._folder, _PART)))
        for number in parts[: -self._keep] if self._keep else []:
            for kind in ("csv", "json"):
                remove(self._path(number, kind))

    def _path(self, number: int, kind: str) -> str:
        return os.path.join(self._folder, f"part-{number:06}.{kind}")


def _numbers(folder: str, pattern: "re.Pattern[str]") -> Iterable[int]:
    matches = (pattern.fullmatch(name) for name in os.listdir(folder))
    return [int(match.group(1)) for match in matches if match]


def _frame(record: Mapping[str, Any]) -> Frame:
    return Frame(record["file"], record["size"], record["mtime_ns"])


def _locked(path: str) -> int:
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise DeviceError(
            f"another program writes results into {os.path.dirname(path)!r}", "Give --results another folder."
        ) from error
    return handle
