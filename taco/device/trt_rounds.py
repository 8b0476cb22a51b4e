"""Time engines in alternating rounds, each run a process of its own, and keep every sample."""

from __future__ import annotations

import os
import statistics
import time
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Tuple

from taco.device.bench import round_order
from taco.device.trt_arguments import time_arguments
from taco.device.trt_read import read_log, read_times
from taco.device.trt_run import Trtexec

Say = Callable[[str], None]


class Protocol(NamedTuple):
    """How to time: `rounds` rounds of `round_s` seconds a model, no more than `max_s` seconds together."""

    rounds: int
    round_s: float
    max_s: float

    @classmethod
    def read(cls, asked: Mapping[str, Any]) -> "Protocol":
        """Read it from JSON values.

        Raises:
            KeyError, TypeError, ValueError: One is missing or no number.
        """
        return cls(int(asked["rounds"]), float(asked["round_s"]), float(asked["max_s"]))

    @property
    def takes_time(self) -> bool:
        """Whether anything can be timed by it."""
        return self.rounds >= 1 and self.round_s > 0 and self.max_s > 0


class Timed(NamedTuple):
    """What was timed.

    `rounds_ms` maps a model to its samples by round, milliseconds; `unstable` to the coefficients of variation, in
    percent, of the runs that trtexec itself called unstable.
    """

    rounds_ms: Dict[str, List[List[float]]]
    unstable: Dict[str, List[float]]


def time_rounds(trtexec: Trtexec, engines: Mapping[str, str], protocol: Protocol, scratch: str, say: Say) -> Timed:
    """Time engines against each other.

    Args:
        trtexec: Runs them.
        engines: Model -> path of its engine.
        protocol: How long and how often.
        scratch: Folder for what trtexec writes.
        say: Told what is being done.

    Raises:
        DeviceError: A run failed.
    """
    say(f"timing {', '.join(engines)} in {protocol.rounds} rounds of {protocol.round_s:g} s")
    timed = Timed({name: [] for name in engines}, {name: [] for name in engines})
    start, longest = time.monotonic(), 0.0
    for index in range(protocol.rounds):
        began = time.monotonic()
        if index and began - start + longest > protocol.max_s:
            say(f"stopped after {index} rounds: the time is over")
            break
        for name in round_order(list(engines), index):
            samples, unstable = _time(trtexec, name, engines[name], protocol.round_s, scratch)
            timed.rounds_ms[name].append(samples)
            timed.unstable[name] += unstable
        longest = max(longest, time.monotonic() - began)
    for name, rounds in timed.rounds_ms.items():
        say(f"{name}: median {statistics.median([t for one in rounds for t in one]):.3f} ms")
    return timed


def _time(trtexec: Trtexec, name: str, engine: str, seconds: float, scratch: str) -> Tuple[List[float], List[float]]:
    times = os.path.join(scratch, "times.json")
    if os.path.exists(times):
        os.unlink(times)
    log = trtexec.run(time_arguments(engine, times, seconds), f"timing {name}", scratch)
    unstable = read_log(log).unstable
    return read_times(times), [] if unstable is None else [unstable]
