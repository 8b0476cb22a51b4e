"""Readings of power while a model works, taken beside it: after the last run the board is at rest again."""

from __future__ import annotations

import threading
from typing import Callable, Dict, List, Optional

from taco.device import board

#: A Pi's own program takes a moment of one core, so it is not asked more often.
EVERY_S = 2.0


def mean_power(readings: List[Dict[str, float]]) -> Dict[str, float]:
    """Return the mean watts of each rail, over the readings that tell it."""
    found = {}
    for name in sorted({name for reading in readings for name in reading}):
        values = [reading[name] for reading in readings if name in reading]
        found[name] = round(sum(values) / len(values), 3)
    return found


class PowerSampler:
    """Reads power again and again in a thread of its own; use it as a context manager.

    Args:
        read: Gives watts by the name of the rail; an empty first answer ends the reading at once.
        every_s: Seconds between two readings.
    """

    def __init__(self, read: Callable[[], Dict[str, float]] = board.power_w, every_s: float = EVERY_S) -> None:
        self._read, self._every_s = read, every_s
        self._readings: List[Dict[str, float]] = []
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread: Optional[threading.Thread] = None

    def __enter__(self) -> "PowerSampler":
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def take(self) -> Dict[str, float]:
        """Return the mean watts of each rail since the last call; empty where nothing was read."""
        with self._lock:
            readings, self._readings = self._readings, []
        return mean_power(readings)

    def _sample(self) -> None:
        while not self._stop.wait(self._every_s):
            reading = self._read()
            if not reading:
                return
            with self._lock:
                self._readings.append(reading)
