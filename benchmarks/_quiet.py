"""Wait for the machine's usual state before something is timed: a neighbour on the same cores slows it for minutes.

What a cell then finds is not looked at: it is begun when the machine is quiet, and counts whatever comes of it.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path

import torch
from torch import nn

from taco.files import write_atomically

_RUNS, _NEAR, _PAUSE_S = 60, 0.08, 15.0


class Quiet:
    """Remembers the least that a fixed piece of work has taken here.

    Args:
        file: Where it is kept between runs.
        minutes: Most to wait each time; 0 does not wait.
    """

    def __init__(self, file: Path, minutes: float) -> None:
        self._file, self._minutes = file, minutes
        torch.manual_seed(0)
        layers = [nn.Conv2d(64, 64, 3, padding=1) for _ in range(6)]
        self._work = nn.Sequential(*layers).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._input = torch.zeros(1, 64, 56, 56).contiguous(memory_format=torch.channels_last)

    def wait(self) -> float:
        """Wait until the work takes about what it took at its fastest; returns the seconds waited."""
        begin = time.monotonic()
        while self._minutes and not self._usual():
            if time.monotonic() - begin > 60 * self._minutes:
                break
            time.sleep(_PAUSE_S)
        return time.monotonic() - begin

    def _usual(self) -> bool:
        least = json.loads(self._file.read_text()) if self._file.is_file() else float("inf")
        now = self._milliseconds()
        if now < least:
            write_atomically(self._file, json.dumps(now).encode())
        return now <= (1 + _NEAR) * least and least < float("inf")

    def _milliseconds(self) -> float:
        taken = []
        with torch.inference_mode():
            for _ in range(_RUNS):
                begin = time.perf_counter()
                self._work(self._input)
                taken.append(1000 * (time.perf_counter() - begin))
        return statistics.median(taken)
