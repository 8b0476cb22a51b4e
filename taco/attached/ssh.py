"""A device reached through the person's own OpenSSH: their configuration, keys, agents, jump hosts and known hosts.

One connection serves all commands (ControlMaster). A command that is given up, or whose link breaks, ends on the device
with everything that it started. Copies go on where a broken link stopped them, and are compared by hash. Every command
says when it has begun: one that has not may be sent again, one that has is never repeated here.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from taco.address import Address
from taco.attached import shell
from taco.attached.processes import Command, Ended, Feed, run_program
from taco.attached.ssh_errors import connection_error
from taco.errors import InputError, LinkError, MeasurementError
from taco.files import sha256_of
from taco.transport import Completed

logger = logging.getLogger(__name__)

CONNECT_S = 15
#: A silent device is given up after so many questions, so many seconds apart.
ALIVE_EVERY_S, ALIVE_COUNT = 5, 4
PERSIST_S = 60
SHORT_S = 60.0
#: The slowest link that is not given up: 64 KiB/s.
SLOWEST_BYTES_S = 64 * 1024
#: A device that was there before may be starting anew.
PATIENCE_S = 120.0
_LONGEST_PAUSE_S = 8.0
_TRIES = 30
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class SshOptions:
    """How the link is made.

    Attributes:
        program: The ssh client.
        patience_s: How long a device that was reached before is waited for, seconds.
    """

    program: str = "ssh"
    patience_s: float = PATIENCE_S


class SshTransport:
    """A device behind ssh. Use it as a context manager: it ends its connection.

    Args:
        address: With a host.
        options: How the link is made.

    Raises:
        InputError: The address has no host.
        MeasurementError: There is no ssh client.
    """

    def __init__(self, address: Address, options: SshOptions | None = None) -> None:
        if address.host is None:
            raise InputError(f"{address.text} has no host")
        self._options = options or SshOptions()
        if shutil.which(self._options.program) is None:
            raise MeasurementError(
                f"there is no program {self._options.program!r} here", "Install OpenSSH: apt install openssh-client"
            )
        self.address = address
        self._host = address.host
        # `%C` makes 40 characters of it; a socket's path may have about 100 in all.
        self._sockets = Path(tempfile.mkdtemp(prefix="taco-", dir="/tmp"))
        self._reached = False

    def __enter__(self) -> SshTransport:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def name(self) -> str:
        """What a person types behind `ssh` to come there by hand."""
        user = f"{self.address.user}@" if self.address.user else ""
        port = f" -p {self.address.port}" if self.address.port else ""
        return f"{user}{self._host}{port}"

    def close(self) -> None:
        """End the connection; calling it again does nothing."""
        if not self._sockets.is_dir():
            return
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run([*self._ssh(), "-O", "exit", self._host], capture_output=True, timeout=SHORT_S, check=False)
        shutil.rmtree(self._sockets, ignore_errors=True)

    def run(self, argv: Sequence[str], timeout_s: float) -> Completed:
        """Run a command in the device's work folder; no shell reads its words.

        Args:
            argv: Program and arguments.
            timeout_s: Seconds it may take.

        Returns:
            Exit code (128 + the signal for a killed program; 254 for 255, which is ssh's own) and what it printed
            behind whatever the login shell says.

        Raises:
            InputError: There is no program, or a word holds a NUL.
            LinkError: The device cannot be reached, or the link broke while the command ran; it was ended then.
            MeasurementError: It does not end in time, or the login is refused.
        """
        logger.debug("%s: %s", self.name, list(argv))
        marker = secrets.token_hex(16)
        script = shell.run_script(self.address.folder, argv, marker)
        return Completed.of(self._patiently(lambda: self._begun(script, marker, timeout_s)))

    def put(self, source: Path, destination: str) -> None:
        """Copy a file to the device; it is there as a whole or not at all.

        Args:
            source: A file.
            destination: Relative to the work folder.

        Raises:
            InputError: The source cannot be read, or the destination leaves the work folder.
            LinkError: The device cannot be reached.
            MeasurementError: The device's disk is full or cannot be written to.
        """
        _check_inside(destination)
        try:
            upload = _Upload(source, destination, sha256_of(source), source.stat().st_size, source.stat().st_mode)
        except OSError as error:
            raise InputError(f"{source} cannot be copied to {self.name}: {error.strerror}") from error
        self._patiently(lambda: self._upload(upload))

    def get(self, source: str, destination: Path) -> None:
        """Copy a file from the device.

        Args:
            source: Relative to the work folder.
            destination: A file to write.

        Raises:
            InputError: The source leaves the work folder, or the destination cannot be written.
            LinkError: The device cannot be reached.
            MeasurementError: There is no such file on the device, or it arrived damaged.
        """
        _check_inside(source)
        content = self._patiently(lambda: self._download(source))
        temporary = destination.with_name(f".{destination.name}.{os.getpid()}.tmp")
        try:
            temporary.write_bytes(content)
            temporary.replace(destination)
        except OSError as error:
            raise InputError(f"{destination} cannot be written: {error.strerror}") from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()

    def _ssh(self) -> list[str]:
        options = {
            "BatchMode": "yes",
            "ControlMaster": "auto",
            "ControlPath": f"{self._sockets}/%C",
            "ControlPersist": str(PERSIST_S),
            "ConnectTimeout": str(CONNECT_S),
            "ServerAliveInterval": str(ALIVE_EVERY_S),
            "ServerAliveCountMax": str(ALIVE_COUNT),
            "ClearAllForwardings": "yes",
            "RemoteCommand": "none",
        }
        words = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        user = ["-l", self.address.user] if self.address.user else []
        port = ["-p", str(self.address.port)] if self.address.port else []
        return [self._options.program, "-T", *words, *user, *port]

    def _execute(self, script: str, timeout_s: float, marker: str = "", feed: Feed | None = None) -> Ended:
        """Run a script once; ssh's own failure is raised, any other exit code returned."""
        head = script.encode("utf-8", "surrogateescape") + b"\n"
        fed = Feed(head, keep_open=True) if feed is None else Feed(head, feed.file, feed.offset)
        argv = [*self._ssh(), "--", self._host, shell.BOOTSTRAP]
        shown = f"\n{marker}\n".encode() if marker else None
        ended = run_program(Command(argv, timeout_s, feed=fed, marker=shown))
        if ended.returncode == shell.EXIT_SSH or ended.returncode < 0:
            error = connection_error(self.name, self._host, ended.stderr.decode("utf-8", "replace"))
            raise _Broken(error, ended.begun and bool(marker))
        self._reached = True
        if ended.returncode == shell.EXIT_FOLDER:
            raise self._refused(f"the folder {self.address.folder} cannot be made there", ended)
        return ended

    def _begun(self, script: str, marker: str, timeout_s: float) -> Ended:
        ended = self._execute(script, timeout_s, marker)
        if not ended.begun:
            raise self._refused("its login shell did not run our command", ended)
        return ended

    def _refused(self, why: str, ended: Ended) -> MeasurementError:
        said = (ended.stderr or ended.stdout).decode("utf-8", "replace").strip()[-300:] or "nothing"
        return MeasurementError(f"{self.name}: {why}; it said: {said}", f"Try it by hand: ssh {self.name}")

    def _patiently(self, attempt: Callable[[], _T]) -> _T:
        """Try again what has not begun, or may be repeated, while a device that was there before is away."""
        deadline, pause = time.monotonic() + self._options.patience_s, 0.25
        for _ in range(_TRIES):
            try:
                return attempt()
            except _Broken as broken:
                late = time.monotonic() + pause > deadline
                if broken.begun or late or not self._reached or not isinstance(broken.error, LinkError):
                    raise broken.error from None
                logger.info("%s does not answer: trying again", self.name)
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)
        raise LinkError(f"the link to {self.name} breaks again and again", "Move the device, or use a cable")

    def _upload(self, upload: _Upload) -> None:
        marker = secrets.token_hex(16)
        folder, name = self.address.folder, upload.destination
        look = shell.look_script(folder, upload.part, name, upload.sha256, marker)
        with _repeatable():
            looked = self._begun(look, marker, SHORT_S + upload.size / SLOWEST_BYTES_S)
        found = looked.stdout.decode("ascii", "replace")
        if found.strip() == "done":
            return
        offset = int(found) if found.strip().isdigit() else 0
        if offset > upload.size:
            self._execute(shell.drop_script(folder, upload.part), SHORT_S)
            offset = 0
        if offset:
            logger.info("%s: %d of %d bytes are there already", name, offset, upload.size)
        script = shell.put_script(folder, upload.part, name, upload.sha256, upload.mode & 0o777)
        limit_s = SHORT_S + (upload.size - offset) / SLOWEST_BYTES_S
        self._judge(self._execute(script, limit_s, feed=Feed(file=upload.source, offset=offset)), upload, offset)

    def _judge(self, ended: Ended, upload: _Upload, offset: int) -> None:
        if ended.returncode == 0:
            return
        if ended.returncode == shell.EXIT_DAMAGED:
            self._execute(shell.drop_script(self.address.folder, upload.part), SHORT_S)
            if offset:
                raise _Broken(LinkError(f"what had been sent of {upload.source} to {self.name} was damaged"), False)
            raise MeasurementError(
                f"{upload.source} arrived damaged on {self.name}", "It may have changed while it was sent; try again"
            )
        said = ended.stderr.decode("utf-8", "replace").strip()[-300:]
        if "No space left" in said or "Disk quota" in said:
            raise MeasurementError(
                f"the disk of {self.name} is full: {upload.source.name} ({upload.size / 1e6:.1f} MB) does not fit",
                f"Free some space there, or name another folder: ssh://{self._host}/FOLDER",
            )
        raise self._refused(f"{upload.destination} cannot be written there", ended)

    def _download(self, source: str) -> bytes:
        marker = secrets.token_hex(16)
        with _repeatable():
            ended = self._execute(shell.get_script(self.address.folder, source, marker), 10 * SHORT_S, marker)
        if ended.returncode == shell.EXIT_NO_FILE:
            raise MeasurementError(f"{self.name} has no file {source!r}")
        if ended.returncode or not ended.begun:
            raise self._refused(f"{source!r} cannot be read there", ended)
        line, _, content = ended.stdout.partition(b"\n")
        size, _, digest = line.decode("ascii", "replace").partition(" ")
        if str(len(content)) != size or hashlib.sha256(content).hexdigest() != digest:
            raise MeasurementError(f"{source!r} arrived damaged from {self.name}: {len(content)} of {size} bytes")
        return content


@dataclass(frozen=True, slots=True)
class _Upload:
    source: Path
    destination: str
    sha256: str
    size: int
    mode: int

    @property
    def part(self) -> str:
        """Where it grows: named by what it will be, so that its beginning is never taken for another file's."""
        return f".taco-{self.sha256[:32]}.part"


class _Broken(Exception):  # noqa: N818 - never leaves this module
    """ssh itself failed."""

    def __init__(self, error: MeasurementError, begun: bool) -> None:
        super().__init__(error)
        self.error, self.begun = error, begun


@contextlib.contextmanager
def _repeatable() -> Iterator[None]:
    """Let what only looks or reads be done again even if it had begun when the link broke."""
    try:
        yield
    except _Broken as broken:
        raise _Broken(broken.error, begun=False) from None


def _check_inside(path: str) -> None:
    parts = path.split("/")
    if not path or path.startswith("/") or path.endswith("/") or ".." in parts or "." in parts or "\0" in path:
        raise InputError(f"{path!r} is not a file below the work folder", "Give a path inside it.")
