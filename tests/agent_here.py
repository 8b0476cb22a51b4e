"""The agent's commands in this process: a Python that starts for each of them is most of a test's time."""

from __future__ import annotations

import contextlib
import io
import signal
from collections.abc import Sequence
from pathlib import Path

from taco.device.agent import main
from taco.transport import Completed, FakeTransport


def agent_here(arguments: Sequence[str]) -> Completed:
    """Run one command as a process of its own would."""
    out, err, before = io.StringIO(), io.StringIO(), signal.getsignal(signal.SIGTERM)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(list(arguments))
    finally:
        signal.signal(signal.SIGTERM, before)
    return Completed(code, out.getvalue(), err.getvalue())


class Here(FakeTransport):
    """A device whose agent runs in this process, with a folder of its own."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def put(self, source: Path, destination: str) -> None:
        """Copy a file."""
        (self.folder / destination).write_bytes(source.read_bytes())

    def run(self, argv: Sequence[str], timeout_s: float) -> Completed:
        """Run `PYTHON -I AGENT COMMAND ...`."""
        del timeout_s
        with contextlib.chdir(self.folder):
            return agent_here(argv[3:])
