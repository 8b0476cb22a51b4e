"""Name new pictures of a folder for as long as the device runs: look, name, note, publish, wait.

What names them is given as a function, so that everything here can be run without a model. See `taco.device.arrivals`
for what counts as a new picture, and `taco.device.ledger` for how nothing is lost or named twice.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any, Callable, List, Mapping, Optional, Tuple

from taco.device import answers
from taco.device.arrivals import Arrivals, Frame, frame_of, frames
from taco.device.ledger import MOST_DEATHS, PART_FRAMES, Ledger
from taco.device.wire import DeviceError, RequestError

#: Results that wait for the disk at most: they are named again after a power cut.
_UNSYNCED = 32
#: A look at a full folder takes long: it is not done for more than a tenth of the time.
_REST = 10.0

#: From a file to the probability of each class and "", or to None and why it cannot be read.
Name = Callable[[str], Tuple[Optional[List[float]], str]]


@dataclass(frozen=True)
class WatchAsked:
    """What is watched, and how.

    Attributes:
        pictures: The folder where pictures arrive.
        results: The folder where results go.
        settle_s: How long a picture must have stayed as it is, seconds.
        patience_s: How long a picture that cannot be read is tried again, seconds.
        poll_s: Pause between two looks at the folder, seconds.
        publish_s: How often the part that grows is written anew while pictures keep coming, seconds.
        part_frames: Frames of one part of the results.
        keep: Finished parts that stay; 0 is all of them.
        once: Whether to end when every picture there has been dealt with.
    """

    pictures: str
    results: str
    settle_s: float = 2.0
    patience_s: float = 60.0
    poll_s: float = 2.0
    publish_s: float = 60.0
    part_frames: int = PART_FRAMES
    keep: int = 0
    once: bool = False

    def check(self) -> None:
        """Refuse what makes no sense.

        Raises:
            RequestError: A number is out of range; says which.
            DeviceError: There is no such folder of pictures.
        """
        for name, least in (("settle_s", 0.0), ("patience_s", 0.0), ("poll_s", 0.01), ("publish_s", 0.0)):
            if not least <= getattr(self, name) < 1e6:
                raise RequestError(f"{name[:-2]} must be at least {least:g} seconds, not {getattr(self, name):g}")
        if self.part_frames < 1 or self.keep < 0:
            raise RequestError("a part has at least one frame, and no fewer than 0 parts can be kept")
        if not os.path.isdir(self.pictures):
            raise DeviceError(f"there is no folder of pictures {self.pictures!r}", "Is the card mounted?")


@dataclass(frozen=True)
class Means:
    """What a watcher works with; tests give their own.

    Attributes:
        name: Names one picture.
        facts: Of the bundle, from `taco.device.answers.facts_of`.
        changed: Tells whether another bundle has been put in this one's place.
        clock: Seconds of a clock that only runs forward.
        sleep: Waits some seconds.
        tell: Takes a line for people.
    """

    name: Name
    facts: Mapping[str, Any]
    changed: Callable[[], bool]
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    tell: Callable[[str], None] = lambda _line: None


class Watcher:
    """Watches one folder.

    Args:
        asked: What is watched.
        means: What it works with.

    Raises:
        DeviceError: Another watcher writes there, or what is there is damaged.
        OSError: The results cannot be written.
    """

    def __init__(self, asked: WatchAsked, means: Means) -> None:
        self._asked, self._means = asked, means
        there = asked.pictures
        self._ledger = Ledger(asked.results, means.facts, lambda: frames(there), asked.part_frames, asked.keep)
        self._arrivals = Arrivals(there, self._ledger.is_new, asked.settle_s, asked.patience_s, means.clock)
        self._published = means.clock()
        self.named = 0

    def run(self) -> bool:
        """Name pictures.

        Returns:
            Whether another bundle has taken this one's place; otherwise all is done, which only `once` allows.

        Raises:
            DeviceError: The runtime fails.
            OSError: The disk is full.
        """
        try:
            while True:
                began = self._means.clock()
                ready = self._arrivals.look()
                took_s = self._means.clock() - began
                if not self._work(ready):
                    return True
                self._publish(at_once=not ready)
                if self._asked.once and not self._arrivals.waiting:
                    return False
                if not ready:
                    self._means.sleep(max(self._asked.poll_s, _REST * took_s))
        except (KeyboardInterrupt, SystemExit):
            self._publish(at_once=True)
            raise
        finally:
            self._ledger.close()

    def _work(self, ready: List[Frame]) -> bool:
        """Name some frames; returns whether this bundle is still the one to do it."""
        for number, frame in enumerate(ready, 1):
            if self._means.changed():
                break
            self._one(frame)
            if number % _UNSYNCED == 0:
                self._ledger.sync()
                self._publish(at_once=False)
        if not self._means.changed():
            return True
        self._publish(at_once=True)
        return False

    def _one(self, frame: Frame) -> None:
        if self._ledger.deaths(frame) >= MOST_DEATHS:
            reason = f"the program ended {MOST_DEATHS} times while it looked at it"
            self._add(frame, {"failure": reason})
            return
        self._ledger.trying(frame)
        shares, reason = self._means.name(os.path.join(self._asked.pictures, frame.name))
        if frame_of(self._asked.pictures, frame.name) != frame:  # it has gone, or was still being written
            self._ledger.doubted(frame)
        elif shares is not None:
            self._add(frame, answers.answer(shares, self._means.facts))
        elif self._arrivals.doubt(frame):
            self._ledger.doubted(frame)
        else:
            self._means.tell(f"{frame.name!r} cannot be read: {reason}")
            self._add(frame, {"failure": reason})

    def _add(self, frame: Frame, said: Mapping[str, Any]) -> None:
        self._ledger.add(frame, said)
        self.named += 1

    def _publish(self, *, at_once: bool) -> None:
        now = self._means.clock()
        if (at_once or now - self._published >= self._asked.publish_s) and self._ledger.publish():
            self._published = now
