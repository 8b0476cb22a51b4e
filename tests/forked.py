"""`taco` commands as processes that start warm: forked from a server that has imported everything and exported once.

A command of its own needs some ten seconds of processor time to import torch and to make torch.onnx ready. A test that
starts it forty times pays that once: the standard library's fork server (`multiprocessing`) preloads this package, and
each child then is a process like any other, with a pid, an exit code, and its own memory, that can be killed.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

import pytest

from taco import cli

_WARM = "forked_warm"


@cache
def _context() -> ForkServerContext:
    """Start the server, whose search path is that of PYTHONPATH alone."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([_WARM])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        forkserver.ensure_running()
    return context


def _run(arguments: Sequence[str], out: str, err: str, before: Callable[[], None] | None) -> None:
    """In the child: become `taco ARGUMENTS`, its streams in files."""
    if _WARM not in sys.modules:
        raise RuntimeError(f"the fork server could not import {_WARM}")
    for path, stream in ((out, 1), (err, 2)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, stream)
        os.close(file)
    sys.argv = ["taco", *arguments]
    if before is not None:
        before()
    cli.main()


class Forked:
    """A running `taco` command.

    Args:
        arguments: Of the command.
        folder: For the files that its streams go to.
        before: Called in the child before it starts; a function of a module.
    """

    def __init__(self, arguments: Sequence[str], folder: Path, before: Callable[[], None] | None = None) -> None:
        self._arguments = list(arguments)
        self._streams = [folder / "stdout", folder / "stderr"]
        streams = map(str, self._streams)
        self._process: ForkServerProcess = _context().Process(target=_run, args=(self._arguments, *streams, before))
        self._process.start()

    def poll(self) -> int | None:
        """Return the exit code, minus the signal's number for a killed process, or None while it runs."""
        return self._process.exitcode

    def wait(self, seconds: float) -> int:
        """Wait for its end and return the exit code.

        Raises:
            subprocess.TimeoutExpired: It still runs after `seconds`.
        """
        self._process.join(seconds)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self._arguments, seconds)
        return self._process.exitcode

    def kill(self) -> None:
        """Send SIGKILL."""
        self._process.kill()

    def completed(self, seconds: float) -> subprocess.CompletedProcess[str]:
        """Wait for its end and return what it said; it is killed where it takes longer than `seconds`."""
        try:
            code = self.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        return subprocess.CompletedProcess(self._arguments, code, *(path.read_text() for path in self._streams))
