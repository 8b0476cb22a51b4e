"""How files and commands reach a device: one small protocol, this machine's own version, and a scripted one for tests.

Paths on the device are strings relative to the device's work folder, in which every command starts.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from taco.attached.processes import Command, Ended, run_program
from taco.errors import InputError, MeasurementError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Completed:
    """A command that ended by itself.

    Attributes:
        returncode: Exit code; negative is the signal that ended it.
        stdout: What it printed; of very much only the end.
        stderr: What it complained about; of much only the end.
    """

    returncode: int
    stdout: str
    stderr: str

    @classmethod
    def of(cls, ended: Ended) -> Completed:
        """Make text of what a program printed; bytes that are none are replaced."""
        return cls(ended.returncode, ended.stdout.decode("utf-8", "replace"), ended.stderr.decode("utf-8", "replace"))


class Transport(Protocol):
    """A way to one device."""

    def put(self, source: Path, destination: str) -> None:
        """Copy a file of this machine to the device, replacing it as a whole."""

    def get(self, source: str, destination: Path) -> None:
        """Copy a file of the device to this machine, replacing it as a whole."""

    def run(self, argv: Sequence[str], timeout_s: float) -> Completed:
        """Run a command in the device's work folder.

        Raises:
            MeasurementError: It cannot be started or does not end in time.
        """


class LocalTransport:
    """This machine as the device.

    Args:
        root: Work folder; made when it is missing.
    """

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self._root = root.resolve()

    @property
    def root(self) -> Path:
        """The work folder, resolved."""
        return self._root

    def put(self, source: Path, destination: str) -> None:
        """Copy a file into the work folder.

        Args:
            source: A file.
            destination: Relative to the work folder.

        Raises:
            InputError: The destination leaves the work folder, or the copy fails.
        """
        _copy(source, self._inside(destination))

    def get(self, source: str, destination: Path) -> None:
        """Copy a file out of the work folder.

        Args:
            source: Relative to the work folder.
            destination: A file to write.

        Raises:
            InputError: The source leaves the work folder, or the copy fails.
        """
        _copy(self._inside(source), destination)

    def run(self, argv: Sequence[str], timeout_s: float) -> Completed:
        """Run a command in the work folder with this process's environment.

        The command gets a process group of its own, which is killed as a whole when the time is up or when this
        process is interrupted, so that nothing it started is left running.

        Args:
            argv: Program and arguments; no shell is involved.
            timeout_s: Seconds it may take.

        Returns:
            Exit code and what it printed; undecodable bytes are replaced.

        Raises:
            MeasurementError: It cannot be started or does not end in time.
        """
        logger.debug("local: %s", list(argv))
        ended = run_program(Command(argv, timeout_s, self._root))
        return Completed.of(ended)

    def _inside(self, path: str) -> Path:
        full = (self._root / path).resolve()
        if full == self._root or not full.is_relative_to(self._root):
            raise InputError(f"{path!r} is not a file below the work folder {self._root}", "Give a path inside it.")
        return full


@dataclass(slots=True)
class FakeTransport:
    """A device that answers as it was told, for tests.

    Attributes:
        answers: What `run` gives, in order: an answer, an error to raise, or a function of the command line.
        files: The device's files by path; `put` adds to it, `get` reads it.
        calls: The command lines run so far.
        timeouts_s: The time that each of them was given, seconds.
    """

    answers: list[Completed | Exception | Callable[[Sequence[str]], Completed]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    calls: list[tuple[str, ...]] = field(default_factory=list)
    timeouts_s: list[float] = field(default_factory=list)

    def put(self, source: Path, destination: str) -> None:
        """Remember the file's content."""
        self.files[destination] = source.read_bytes()

    def get(self, source: str, destination: Path) -> None:
        """Write a remembered content."""
        if source not in self.files:
            raise MeasurementError(f"the device has no file {source!r}")
        destination.write_bytes(self.files[source])

    def run(self, argv: Sequence[str], timeout_s: float) -> Completed:
        """Give the next scripted answer."""
        self.calls.append(tuple(argv))
        self.timeouts_s.append(timeout_s)
        if not self.answers:
            raise MeasurementError(f"no answer was scripted for call {len(self.calls)}: {list(argv)}")
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, Completed) else answer(argv)


def _copy(source: Path, destination: Path) -> None:
    """Copy so that the destination is at every moment the old file or the whole new one."""
    temporary: Path | None = None
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=destination.parent, prefix=".taco-", delete=False) as stream:
            temporary = Path(stream.name)
            with source.open("rb") as original:
                shutil.copyfileobj(original, stream)
            stream.flush()
            os.fsync(stream.fileno())
        shutil.copymode(source, temporary)
        temporary.replace(destination)
    except OSError as error:
        raise InputError(f"{source} cannot be copied to {destination}: {error.strerror}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
