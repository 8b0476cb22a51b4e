"""Run a program with a time limit and a bounded memory of what it prints, and leave nothing of it behind.

A program that prints without end must neither fill the memory nor block: its pipes are always read, and only the end
of what came is kept. The end is where answers and reasons stand.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from taco.errors import InputError, MeasurementError

KEPT_STDOUT = 32 * 2**20
KEPT_STDERR = 64 * 2**10
_CHUNK = 1 << 16
#: A process that was left behind may hold a pipe open for ever; what came until then is enough.
_LAST_WORDS_S = 2.0
_LOOK_EVERY_S = 0.1
#: Set in a thread whose programs another thread may end: the event that ends the one that is running.
STOP: ContextVar[threading.Event | None] = ContextVar("STOP", default=None)


@dataclass(frozen=True, slots=True)
class Feed:
    """What a program reads on its standard input.

    Attributes:
        head: Bytes that come first.
        file: A file whose bytes follow.
        offset: Where in the file to begin.
        keep_open: Leave the input open until the program ends: its end means "stop" to the far side.
    """

    head: bytes = b""
    file: Path | None = None
    offset: int = 0
    keep_open: bool = False

    def chunks(self) -> Iterator[bytes]:
        """Give the bytes piece by piece."""
        if self.head:
            yield self.head
        if self.file is not None:
            with self.file.open("rb") as stream:
                stream.seek(self.offset)
                yield from iter(lambda: stream.read(_CHUNK), b"")


@dataclass(frozen=True, slots=True)
class Command:
    """A program to run.

    Attributes:
        argv: Program and arguments; no shell is involved.
        timeout_s: Seconds it may take.
        folder: Where it starts; None is the current folder.
        feed: Its input; None is an empty one.
        marker: What its own output begins behind; what comes before is noise. None: there is no noise.
    """

    argv: Sequence[str]
    timeout_s: float
    folder: Path | None = None
    feed: Feed | None = None
    marker: bytes | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """A program that ended by itself.

    Attributes:
        returncode: Exit code; negative is the signal that ended it.
        stdout: The end of what it printed behind the marker; of all that it printed where the marker never came.
        stderr: The end of what it complained about.
        begun: Whether the marker came; true where none was asked for.
    """

    returncode: int
    stdout: bytes
    stderr: bytes
    begun: bool


@dataclass(slots=True)
class Tail:
    """The end of a stream behind a marker.

    Attributes:
        limit: Bytes to keep.
        marker: What the stream begins behind; None is its very beginning.
        content: What is kept.
        begun: Whether the marker came.
    """

    limit: int
    marker: bytes | None = None
    content: bytearray = field(default_factory=bytearray)
    begun: bool = field(init=False)

    def __post_init__(self) -> None:
        self.begun = self.marker is None

    def add(self, chunk: bytes) -> None:
        """Take the next piece."""
        searched = len(self.content)
        self.content += chunk
        if not self.begun and self.marker is not None:
            place = self.content.find(self.marker, max(0, searched - len(self.marker)))
            if place >= 0:
                del self.content[: place + len(self.marker)]
                self.begun = True
        if len(self.content) > 2 * self.limit:
            del self.content[: -self.limit]

    def end(self) -> bytes:
        """Return what is kept."""
        return bytes(self.content[-self.limit :])


def run_program(command: Command) -> Ended:
    """Run a program; it and all that it started in its process group are gone when this returns or raises.

    Args:
        command: What to run.

    Returns:
        How it ended.

    Raises:
        InputError: There is no program to run.
        MeasurementError: It cannot be started, does not end in time, or another thread has ended it (`STOP`).
    """
    process = _start(command)
    out, err = Tail(KEPT_STDOUT, command.marker), Tail(KEPT_STDERR)
    threads = [
        threading.Thread(target=_drain, args=(process.stdout, out), daemon=True),
        threading.Thread(target=_drain, args=(process.stderr, err), daemon=True),
    ]
    done = threading.Event()
    if command.feed is not None:
        threads.append(threading.Thread(target=_feed, args=(process.stdin, command.feed, done), daemon=True))
    for thread in threads:
        thread.start()
    try:
        _wait(process, command.timeout_s)
    except subprocess.TimeoutExpired as error:
        raise MeasurementError(
            f"{command.argv[0]} did not end within {command.timeout_s:g} s and was stopped",
            "Ask for fewer rounds or a longer time.",
        ) from error
    finally:
        done.set()
        if process.poll() is None:
            _kill_group(process)
        for thread in threads:
            thread.join(_LAST_WORDS_S)
        _close(process, threads)
    return Ended(process.returncode, out.end(), err.end(), out.begun)


def _wait(process: subprocess.Popen[bytes], timeout_s: float) -> None:
    """Wait for the end; where another thread may end it, look whether it has."""
    stop = STOP.get()
    if stop is None:
        process.wait(timeout_s)
        return
    deadline = time.monotonic() + timeout_s
    while True:
        left = deadline - time.monotonic()
        try:
            process.wait(max(0.0, min(_LOOK_EVERY_S, left)))
        except subprocess.TimeoutExpired:
            if stop.is_set():
                STOP.set(None)  # what tidies up afterwards may run its own programs
                raise MeasurementError("it was stopped") from None
            if left <= 0:
                raise
        else:
            return


def _start(command: Command) -> subprocess.Popen[bytes]:
    if not command.argv:
        raise InputError("there is no command to run")
    try:
        return subprocess.Popen(
            list(command.argv),
            cwd=command.folder,
            stdin=subprocess.DEVNULL if command.feed is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
    except OSError as error:
        raise MeasurementError(
            f"{command.argv[0]!r} cannot be started: {error.strerror}", "Check that it is installed."
        ) from error


def _drain(stream: IO[bytes], tail: Tail) -> None:
    with contextlib.suppress(OSError, ValueError):  # closed by `_close`
        for chunk in iter(lambda: stream.read(_CHUNK), b""):
            tail.add(chunk)


def _feed(stream: IO[bytes], feed: Feed, done: threading.Event) -> None:
    with contextlib.suppress(OSError, ValueError):  # it ended before it had read everything
        for chunk in feed.chunks():
            rest = memoryview(chunk)
            while rest:
                rest = rest[stream.write(rest) or 0 :]
        if feed.keep_open:
            done.wait()
        stream.close()


def _close(process: subprocess.Popen[bytes], threads: Sequence[threading.Thread]) -> None:
    """Close the pipes that no thread is busy with; one that is waits for a process that was left behind."""
    if any(thread.is_alive() for thread in threads):
        return
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
