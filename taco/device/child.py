"""The parent's end of a worker: start it, ask it, say clearly why it failed, and never leave it behind."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any, Dict, List

from taco.device.wire import DeviceError

ANSWER_TIMEOUT_S = 300.0
LOG_TAIL_BYTES = 800
# `-c` puts the current folder first on the path: a stray `onnxruntime.py` there must not be imported.
BOOTSTRAP = (
    "import sys; root = sys.argv.pop(1); sys.path[:] = [root] + [p for p in sys.path if p];"
    "from taco.device.worker import main; sys.exit(main())"
)
DEATH_HINTS: Dict[int, str] = {
    signal.SIGILL: "The runtime uses an instruction that this processor lacks: install a build made for it.",
    signal.SIGKILL: "The device probably ran out of memory: free some, or add swap.",
}


def worker_argv() -> List[str]:
    """Command line of a worker: this interpreter, with this very package (a folder or the zipapp) in front."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    flags = ["-I"] if sys.flags.isolated else []
    return [sys.executable, *flags, "-c", BOOTSTRAP, root]


class WorkerProcess:
    """One worker in its own process.

    Args:
        name: The model's name, for messages.
        argv: Its command line.
        timeout_s: How long an answer may take.
    """

    def __init__(self, name: str, argv: List[str], timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        self.name = name
        self._timeout_s = timeout_s
        self._unread = b""
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by kill()
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, bufsize=0
        )

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def ask(self, command: Dict[str, Any]) -> Dict[str, Any]:
        """Send a command and wait for its answer.

        Args:
            command: Plain JSON values.

        Returns:
            The answer.

        Raises:
            DeviceError: The worker died, fell silent, answered rubbish or reported an error; names the model.
        """
        with contextlib.suppress(BrokenPipeError):  # then reading finds the reason
            self._stdin_write(json.dumps(command).encode("ascii") + b"\n")
        line = self._read_line()
        try:
            answer = json.loads(line.decode("utf-8"))
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise DeviceError(f"the worker of model {self.name!r} answered rubbish: {line[:200]!r}")
        if "error" in answer:
            raise DeviceError(f"model {self.name!r}: {answer['error']['what']}", answer["error"]["todo"])
        return answer

    def pause(self) -> None:
        """Stop the process: the threads of an idle runtime spin for milliseconds and would slow the next model."""
        self._signal("SIGSTOP")

    def resume(self) -> None:
        """Let a paused process go on."""
        self._signal("SIGCONT")

    def _signal(self, name: str) -> None:
        number = getattr(signal, name, None)  # not every system has them
        if number is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """End the process whatever it does; calling it again does nothing."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                stream.close()

    def _stdin_write(self, data: bytes) -> None:
        stdin = self._process.stdin
        while stdin is not None and data:
            data = data[stdin.write(data) or 0 :]

    def _read_line(self) -> bytes:
        deadline = time.monotonic() + self._timeout_s
        while b"\n" not in self._unread:
            self._unread += self._read_some(deadline)
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _read_some(self, deadline: float) -> bytes:
        stdout = self._process.stdout
        if stdout is None or not select.select([stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise DeviceError(f"the worker of model {self.name!r} did not answer within {self._timeout_s:g} s")
        chunk = os.read(stdout.fileno(), 1 << 16)
        if not chunk:
            raise self._death()
        return chunk

    def _death(self) -> DeviceError:
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return DeviceError(f"the worker of model {self.name!r} closed its output")
        how, hint = f"ended with exit code {code}", ""
        if code < 0:
            how, hint = f"was killed by {_signal_name(-code)}", DEATH_HINTS.get(-code, "")
        return DeviceError(f"the worker of model {self.name!r} {how}{self._log_tail()}", hint)

    def _log_tail(self) -> str:
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - LOG_TAIL_BYTES))
        tail = self._log.read().decode("utf-8", "replace").strip()
        return f"; its last words: {tail}" if tail else ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
