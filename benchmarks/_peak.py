"""The most memory that this process and all its children have at a time."""

from __future__ import annotations

import threading

import psutil


class PeakMemory(threading.Thread):
    """Watches from `start` to `stop`; what processes share counts once (PSS)."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._ended = threading.Event()
        self._most = 0

    def run(self) -> None:
        """Look twice a second."""
        me = psutil.Process()
        while not self._ended.wait(0.5):
            total = 0
            for process in (me, *me.children(recursive=True)):
                try:
                    total += process.memory_full_info().pss
                except psutil.NoSuchProcess:
                    continue
            self._most = max(self._most, total)

    def stop(self) -> int:
        """Return the most bytes that they had together."""
        self._ended.set()
        self.join()
        return self._most
