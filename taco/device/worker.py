"""The child process that times one model: JSON commands on stdin, one JSON answer a line on stdout.

`{"cmd": "open", "model", "threads", "provider", "seed", "cpus"}` comes first and answers what the session really uses;
`{"cmd": "time", "iterations", "warmup"}` answers samples in nanoseconds; `{"cmd": "quit"}` or the end of stdin ends it,
so that it cannot outlive its parent.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import time
from typing import Any, Callable, Dict, Iterable, List

from taco.device.opening import open_session
from taco.device.processors import stay_on
from taco.device.session import fixed_input
from taco.device.wire import DeviceError, RequestError
from taco.device.with_parent import die_with_parent

Reply = Callable[[Dict[str, Any]], None]


class TimedModel:
    """A session with its fixed input.

    Args:
        command: The "open" command.
    """

    def __init__(self, command: Dict[str, Any]) -> None:
        self._cpus = stay_on(command["cpus"])
        start_ns = time.perf_counter_ns()
        self._session = open_session(command["model"], command["threads"], command["provider"], flush_caller=True)
        self.open_ms = (time.perf_counter_ns() - start_ns) / 1e6
        self._input = fixed_input(self._session, command["seed"])
        self.cold_ms = self.time_ns(iterations=1, warmup=0)[0] / 1e6

    def describe(self) -> Dict[str, Any]:
        """What the session really uses, and the times of opening it and of its first run."""
        return {
            "provider": self._session.provider,
            "runtime": {"name": self._session.runtime_name, "version": self._session.runtime_version},
            "session": {**self._session.describe(), **({} if self._cpus is None else {"cpus": self._cpus})},
            "open_ms": self.open_ms,
            "cold_ms": self.cold_ms,
        }

    def time_ns(self, iterations: int, warmup: int) -> List[int]:
        """Time runs one by one.

        Args:
            iterations: Timed runs.
            warmup: Untimed runs before them.

        Returns:
            Nanoseconds of each timed run, in order.
        """
        for _ in range(warmup):
            self._session.run(self._input)
        samples = []
        for _ in range(iterations):
            start_ns = time.perf_counter_ns()
            self._session.run(self._input)
            samples.append(time.perf_counter_ns() - start_ns)
        return samples


def serve(lines: Iterable[str], reply: Reply) -> None:
    """Answer commands until "quit" or the end of the lines.

    Args:
        lines: One JSON command each; the first must be "open".
        reply: Takes each answer.

    Raises:
        DeviceError: The model cannot be opened or run.
        RequestError: A command is not understood.
    """
    commands = map(_command, lines)
    first = next(commands, None)
    if first is None or first["cmd"] == "quit":
        return
    if first["cmd"] != "open":
        raise RequestError("a worker's first command must be 'open'")
    model = TimedModel(first)
    reply(model.describe())
    for command in commands:
        if command["cmd"] == "quit":
            return
        if command["cmd"] != "time":
            raise RequestError(f"a worker does not know the command {command['cmd']!r}")
        reply({"samples_ns": model.time_ns(command["iterations"], command["warmup"])})


def _command(line: str) -> Dict[str, Any]:
    try:
        command = json.loads(line)
    except ValueError as error:
        raise RequestError(f"a worker was given a line that is not JSON: {line[:100]!r}") from error
    if not isinstance(command, dict) or "cmd" not in command:
        raise RequestError(f"a worker was given no command: {line[:100]!r}")
    return command


def main() -> int:
    """Serve this process's stdin and stdout.

    Returns:
        Exit code.
    """
    die_with_parent()  # a paused process would not notice the end of its input
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides; a traceback of ours would only be noise
    gc.disable()
    # Runtimes print to file descriptor 1: keep it for answers alone and send whatever else comes to stderr.
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)

    def reply(payload: Dict[str, Any]) -> None:
        answers.write(json.dumps(payload) + "\n")
        answers.flush()

    try:
        serve(sys.stdin, reply)
    except DeviceError as error:
        reply(error.payload())
        return error.exit_code
    return 0
