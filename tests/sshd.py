"""A throw-away OpenSSH server on loopback: own port, keys and configuration, nothing outside its folder is touched."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {root}/host_key
PidFile {root}/sshd.pid
AuthorizedKeysFile {root}/authorized_keys
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UseDNS no
KexAlgorithms curve25519-sha256
PrintMotd no
PrintLastLog no
MaxStartups 100
MaxSessions 50
SetEnv "HOME={root}/home" "PATH=/usr/local/bin:/usr/bin:/bin"
{extra}
"""
CLIENT = """\
Host {name}
  HostName 127.0.0.1
  Port {port}
  User {user}
  IdentityFile {root}/user_key
  IdentitiesOnly yes
  IdentityAgent none
  UserKnownHostsFile {root}/known_hosts
  GlobalKnownHostsFile /dev/null
  HostKeyAlias {name}
  StrictHostKeyChecking yes
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def find_sshd() -> str:
    """The server's absolute path; skips where it is not installed."""
    found = shutil.which("sshd", path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    if found is None:
        pytest.skip("no sshd here: apt-get install openssh-server")
    return found


@dataclass(slots=True)
class Server:
    """A server that can be stopped and started again; `ssh` of `program` reaches it as `trap`."""

    root: Path
    extra: str = ""
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        (self.root / "home").mkdir(parents=True, exist_ok=True)
        (self.root / "bin").mkdir(exist_ok=True)
        for name in ("host_key", "user_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.root / name)], check=True)
        shutil.copy(self.root / "user_key.pub", self.root / "authorized_keys")
        self.trust(self.root / "host_key.pub")
        self.aim("trap", self.port)

    @property
    def home(self) -> Path:
        """The device's home folder."""
        return self.root / "home"

    @property
    def program(self) -> str:
        """The ssh client with our configuration; its folder may be put first on PATH for the command line."""
        return str(self.root / "bin" / "ssh")

    def aim(self, name: str, port: int) -> None:
        """Let `name` lead to a port."""
        text = CLIENT.format(name=name, port=port, user=getpass.getuser(), root=self.root)
        with (self.root / "ssh_config").open("a") as stream:
            stream.write(text)
        wrapper = Path(self.program)
        wrapper.write_text(f'#!/bin/sh\nexec /usr/bin/ssh -F "{self.root}/ssh_config" "$@"\n')
        wrapper.chmod(0o755)

    def trust(self, key: Path) -> None:
        kind, text = key.read_text().split()[:2]
        (self.root / "known_hosts").write_text(f"trap,cut,dead,full {kind} {text}\n")

    def start(self) -> None:
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # compiled into Debian's
        (self.root / "sshd_config").write_text(CONFIG.format(port=self.port, root=self.root, extra=self.extra))
        log = self.root / "sshd.log"
        with log.open("wb") as stream:
            self.process = subprocess.Popen(
                [find_sshd(), "-D", "-e", "-f", str(self.root / "sshd_config")],
                stdin=subprocess.DEVNULL, stdout=stream, stderr=stream,
            )  # fmt: skip
        deadline = time.monotonic() + 20
        while b"Server listening" not in log.read_bytes():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"sshd did not start: {log.read_text()}")
            time.sleep(0.02)

    def stop(self) -> None:
        """End the listener and every session, as a device that is switched off."""
        if self.process is None:
            return
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), 9)
        self.process.kill()
        self.process.wait()
        self.process = None


@contextlib.contextmanager
def serving(root: Path, extra: str = "") -> Iterator[Server]:
    find_sshd()
    server = Server(root, extra)
    server.start()
    try:
        yield server
    finally:
        server.stop()
