"""Processes that start warm: forked from a server that has imported everything and exported a model once.

A command of its own needs some ten seconds of processor time to import torch and to make torch.onnx ready. A test that
starts it forty times pays that once: the standard library's fork server (`multiprocessing`) preloads forked_warm.py.
Each child is a process like any other, with a pid, an exit code and its own memory, and can be killed.
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


def taco(arguments: Sequence[str]) -> None:
    """Be the command `taco ARGUMENTS`."""
    sys.argv = ["taco", *arguments]
    cli.main()


def _run(work: Callable[[], object], before: Callable[[], None] | None, out: str, err: str) -> None:
    """In the child: work, with its streams in files."""
    if _WARM not in sys.modules:
        raise RuntimeError(f"the fork server could not import {_WARM}")
    for path, stream in ((out, 1), (err, 2)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, stream)
        os.close(file)
    if before is not None:
        before()
    work()


class Forked:
    """A running process.

    Args:
        work: What it does; a function of a module, or a `functools.partial` of one.
        folder: For the files that its streams go to; created.
        before: Called in the child before `work`, likewise.
    """

    def __init__(self, work: Callable[[], object], folder: Path, before: Callable[[], None] | None = None) -> None:
        folder.mkdir(parents=True)
        self._work, self._streams = work, [folder / "stdout", folder / "stderr"]
        given = (work, before, *map(str, self._streams))
        self._process: ForkServerProcess = _context().Process(target=_run, args=given)
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
            raise subprocess.TimeoutExpired(repr(self._work), seconds)
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
        return subprocess.CompletedProcess(repr(self._work), code, *(path.read_text() for path in self._streams))
