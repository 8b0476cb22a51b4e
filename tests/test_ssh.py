"""Tests of `taco.attached.ssh` against a real OpenSSH server on loopback."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from device_models import is_running, wait_until
from sshd import Server, free_port, serving

from taco.address import Address, parse_address
from taco.attached.ssh import SshOptions, SshTransport
from taco.errors import InputError, LinkError, MeasurementError

HOSTILE = [
    "a b.onnx",
    'it\'s "q".onnx',
    "new\nline.onnx",
    "-rf",
    "sub/dir/m.onnx",
    "$(touch x)",
    "`id`;&|<>*?[a]!~#\\",
    "é\u202e.onnx",
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("sshd")) as made:
        yield made


@pytest.fixture
def device(server: Server, request: pytest.FixtureRequest) -> Iterator[SshTransport]:
    """A link with a work folder of its own."""
    with link(server, folder=f"work {abs(hash(request.node.name))}") as made:
        yield made


def link(server: Server, host: str = "trap", folder: str = "w", patience_s: float = 20.0) -> SshTransport:
    return SshTransport(Address(f"ssh://{host}", host, folder=folder), SshOptions(server.program, patience_s))


def folder_of(server: Server, device: SshTransport) -> Path:
    return server.home / device.address.folder


def python(code: str) -> list[str]:
    return [sys.executable, "-I", "-c", code]


def test_a_command_runs_in_the_work_folder(server: Server, device: SshTransport) -> None:
    done = device.run(python("import os, sys; print(os.getcwd()); print('no', file=sys.stderr); sys.exit(3)"), 30)
    assert (done.returncode, done.stderr) == (3, "no\n")
    assert done.stdout == f"{folder_of(server, device)}\n"


def test_arguments_arrive_untouched_through_two_shells(server: Server, device: SshTransport) -> None:
    words = [*HOSTILE, "", "'", '"', "\\", "\\'", "$HOME", "\n", "a\n\nb\n", "\t"]
    done = device.run([*python("import sys; print(ascii(sys.argv[1:]))"), *words], 30)
    assert done.stdout == ascii(words) + "\n"
    assert [path.name for path in folder_of(server, device).iterdir()] == []


@pytest.mark.parametrize("name", HOSTILE)
def test_files_travel_there_and_back_whatever_their_name(
    server: Server, device: SshTransport, tmp_path: Path, name: str
) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(range(256)) * 3)
    source.chmod(0o750)
    device.put(source, name)
    assert (folder_of(server, device) / name).read_bytes() == source.read_bytes()
    assert (folder_of(server, device) / name).stat().st_mode & 0o777 == 0o750
    device.get(name, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == source.read_bytes()
    assert not list(folder_of(server, device).rglob("*.part"))


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/x", ".", "", "a/..", "a\0b", "a/"])
def test_paths_that_leave_the_work_folder_are_refused(server: Server, tmp_path: Path, path: str) -> None:
    (tmp_path / "source").touch()
    with link(server) as device:
        with pytest.raises(InputError, match="not a file below the work folder"):
            device.put(tmp_path / "source", path)
        with pytest.raises(InputError, match="not a file below the work folder"):
            device.get(path, tmp_path / "back")


def test_missing_files_are_named(device: SshTransport, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gone cannot be copied to trap: No such file"):
        device.put(tmp_path / "gone", "x")
    with pytest.raises(MeasurementError, match="trap has no file 'gone'"):
        device.get("gone", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_a_file_that_is_there_is_not_sent_again(server: Server, device: SshTransport, tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(b"content")
    device.put(tmp_path / "m", "m")
    before = (folder_of(server, device) / "m").stat().st_ino
    device.put(tmp_path / "m", "m")
    assert (folder_of(server, device) / "m").stat().st_ino == before
    (tmp_path / "m").write_bytes(b"changed")
    device.put(tmp_path / "m", "m")
    assert (folder_of(server, device) / "m").read_bytes() == b"changed"


def test_an_upload_goes_on_where_it_stopped_and_distrusts_what_it_finds(
    server: Server, device: SshTransport, tmp_path: Path
) -> None:
    import hashlib

    content = os.urandom(200_000)
    (tmp_path / "m").write_bytes(content)
    part = folder_of(server, device) / f".taco-{hashlib.sha256(content).hexdigest()[:32]}.part"
    for begun in (content[:150_000], b"rubbish", content + b"more"):
        (folder_of(server, device) / "m").unlink(missing_ok=True)
        part.parent.mkdir(exist_ok=True)
        part.write_bytes(begun)
        device.put(tmp_path / "m", "m")
        assert (folder_of(server, device) / "m").read_bytes() == content
        assert not part.exists()


def test_one_connection_serves_every_command_and_is_ended(server: Server) -> None:
    before = (server.root / "sshd.log").read_text().count("Accepted publickey")
    with link(server) as device:
        for _ in range(3):
            device.run(["true"], 30)
        assert len(str(device._sockets)) + 1 + 40 + 17 < 100
        assert len(list(device._sockets.iterdir())) == 1
    assert (server.root / "sshd.log").read_text().count("Accepted publickey") == before + 1
    assert not device._sockets.exists()
    device.close()


def test_exit_codes_of_programs_and_of_ssh_are_told_apart(device: SshTransport) -> None:
    assert device.run(python("import sys; sys.exit(255)"), 30).returncode == 254
    assert device.run(python("import os; os.kill(os.getpid(), 9)"), 30).returncode == 137
    assert device.run(["no-such-program-x"], 30).returncode == 127


def test_stdin_is_empty_so_that_nothing_waits_for_a_person(device: SshTransport) -> None:
    assert device.run(python("import sys; print(repr(sys.stdin.read()))"), 30).stdout == "''\n"


CHILD = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
PARENT = (
    "import pathlib, subprocess, sys, time;"
    f"child = subprocess.Popen([sys.executable, '-I', '-c', {CHILD!r}]);"
    "pathlib.Path('new').write_text(str(child.pid)); pathlib.Path('new').rename('pid'); time.sleep(60)"
)


def test_a_timeout_ends_the_command_on_the_device_and_everything_it_started(
    server: Server, device: SshTransport
) -> None:
    with pytest.raises(MeasurementError, match="did not end within 4 s"):
        device.run(python(PARENT), 4)
    pid = int((folder_of(server, device) / "pid").read_text())
    assert wait_until(lambda: not is_running(pid))
    assert device.run(["echo", "still"], 30).stdout == "still\n"


def test_a_killed_host_ends_the_command_on_the_device(server: Server) -> None:
    code = (
        "import sys; from taco.address import parse_address; from taco.attached.ssh import *;"
        f"SshTransport(parse_address('ssh://trap/~/killed'), SshOptions({server.program!r}))"
        f".run([sys.executable, '-I', '-c', {PARENT!r}], 60)"
    )
    host = subprocess.Popen([sys.executable, "-c", code])
    place = server.home / "killed" / "pid"
    assert wait_until(place.exists, 30)
    pid = int(place.read_text())
    host.kill()
    host.wait()
    assert wait_until(lambda: not is_running(pid))


def test_100_mb_of_output_neither_fill_memory_nor_hide_the_answer(device: SshTransport) -> None:
    code = "import sys; [sys.stdout.write('x' * 1000000) for _ in range(100)]; print('\\nthe answer')"
    done = device.run(python(code), 120)
    assert done.stdout.endswith("\nthe answer\n")
    assert len(done.stdout) <= 32 * 2**20


def test_a_noisy_login_shell_is_tolerated(tmp_path: Path) -> None:
    noise = tmp_path / "noisy"
    noise.write_text(
        '#!/bin/sh\necho "Welcome to Debian"; printf "no newline"\necho oops >&2\nexec sh -c "$SSH_ORIGINAL_COMMAND"\n'
    )
    noise.chmod(0o755)
    with serving(tmp_path / "sshd", f"ForceCommand {noise}") as server, link(server) as device:
        assert device.run(["echo", "hello"], 30).stdout == "hello\n"
        (tmp_path / "m").write_bytes(b"\0\1\2" * 1000)
        device.put(tmp_path / "m", "m")
        device.get("m", tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == (tmp_path / "m").read_bytes()


def test_an_account_without_a_shell_says_so(tmp_path: Path) -> None:
    closed = "ForceCommand /bin/echo This account is not available"
    told = pytest.raises(MeasurementError, match=r"did not run .* not available")
    with serving(tmp_path / "sshd", closed) as server, link(server) as device, told:
        device.run(["true"], 30)


def test_a_port_where_nobody_listens_is_unreachable_at_once(server: Server) -> None:
    server.aim("dead", free_port())
    began = time.monotonic()
    with (
        link(server, "dead", patience_s=60) as device,
        pytest.raises(LinkError, match=r"dead cannot be reached") as caught,
    ):
        device.run(["true"], 30)
    assert caught.value.exit_code == 5
    assert time.monotonic() - began < 15


def test_a_changed_host_key_is_refused(server: Server) -> None:
    known = server.root / "known_hosts"
    good = known.read_text()
    server.trust(server.root / "user_key.pub")
    try:
        with link(server) as device, pytest.raises(MeasurementError, match="not the one that you know") as caught:
            device.run(["true"], 30)
        assert "ssh-keygen -R trap" in caught.value.todo
        known.write_text("")
        with link(server) as device, pytest.raises(MeasurementError, match="is not known on this machine"):
            device.run(["true"], 30)
    finally:
        known.write_text(good)


def test_a_refused_key_says_what_to_do(server: Server) -> None:
    allowed = server.root / "authorized_keys"
    good = allowed.read_text()
    allowed.write_text("")
    try:
        with link(server) as device, pytest.raises(MeasurementError, match="refuses the login") as caught:
            device.run(["true"], 30)
        assert "ssh-copy-id" in caught.value.todo
    finally:
        allowed.write_text(good)


def test_a_full_disk_says_so_and_nothing_half_written_stays(server: Server, small_disk, tmp_path: Path) -> None:
    disk = small_disk("size=1m")
    (tmp_path / "big").write_bytes(os.urandom(3_000_000))
    with link(server, folder=str(disk / "w")) as device:
        with pytest.raises(MeasurementError, match=r"disk of trap is full: big \(3\.0 MB\) does not fit"):
            device.put(tmp_path / "big", "big")
        assert list((disk / "w").iterdir()) == []


class CuttingProxy:
    """Passes bytes on to a port; the next `cuts` connections are cut after `limit` bytes."""

    def __init__(self, port: int) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port, self.target = self.listener.getsockname()[1], port
        self.limit, self.cuts = 0, 0
        self.ends: list[socket.socket] = []
        self.threads = [threading.Thread(target=self.accept, daemon=True)]
        self.threads[0].start()

    def accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near = self.listener.accept()[0]
                self.ends.append(near)
                far = socket.create_connection(("127.0.0.1", self.target))
                self.ends.append(far)
                budget = [self.limit if self.cuts > 0 else 10**12]
                self.cuts -= 1
                for pair in ((near, far), (far, near)):
                    self.threads.append(threading.Thread(target=self.pump, args=(*pair, budget), daemon=True))
                    self.threads[-1].start()

    def pump(self, source: socket.socket, sink: socket.socket, budget: list[int]) -> None:
        with contextlib.suppress(OSError):
            while budget[0] > 0 and (data := source.recv(16384)):
                sink.sendall(data[: budget[0]])
                budget[0] -= len(data)
        self.shut(source, sink)

    def shut(self, *ends: socket.socket) -> None:
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.shut(self.listener, *self.ends)
        for thread in self.threads:
            thread.join()
        for end in (self.listener, *self.ends):
            end.close()


@pytest.fixture(scope="module")
def proxy(server: Server) -> Iterator[CuttingProxy]:
    made = CuttingProxy(server.port)
    server.aim("cut", made.port)
    yield made
    made.close()


CUTS = [round(4000 * 1.32**i) for i in range(20)]


@pytest.mark.parametrize(
    "after", [n if i % 5 == 0 else pytest.param(n, marks=pytest.mark.slow) for i, n in enumerate(CUTS)]
)
def test_a_link_that_drops_anywhere_is_made_again_and_the_file_arrives_whole(
    server: Server, proxy: CuttingProxy, tmp_path: Path, after: int
) -> None:
    content = os.urandom(700_000)
    (tmp_path / "m").write_bytes(content)
    with link(server, "cut", folder=f"cut-{after}") as device:
        proxy.cuts = 0
        device.run(["true"], 30)
        device.close()
    proxy.limit, proxy.cuts = after, 1
    with link(server, "cut", folder=f"cut-{after}") as device:
        device._reached = True
        device.put(tmp_path / "m", "m")
    assert (server.home / f"cut-{after}" / "m").read_bytes() == content
    assert [path.name for path in (server.home / f"cut-{after}").iterdir()] == ["m"]


def test_a_command_whose_link_drops_is_ended_and_not_repeated(
    server: Server, proxy: CuttingProxy, tmp_path: Path
) -> None:
    proxy.limit, proxy.cuts = 30_000, 1
    code = (
        "import os, sys, time; open('runs', 'a').write('x'); open('pid', 'w').write(str(os.getpid()));"
        "[(sys.stdout.write('y' * 1000), sys.stdout.flush(), time.sleep(0.02)) for _ in range(3000)]"
    )
    with link(server, "cut", folder="dropped") as device, pytest.raises(LinkError, match="the link to it broke"):
        device.run(python(code), 60)
    assert (server.home / "dropped" / "runs").read_text() == "x"
    pid = int((server.home / "dropped" / "pid").read_text())
    assert wait_until(lambda: not is_running(pid))


def test_a_device_that_starts_anew_is_waited_for(tmp_path: Path) -> None:
    with serving(tmp_path / "sshd") as server, link(server) as device:
        (tmp_path / "m").write_bytes(b"content")
        device.run(["true"], 30)
        server.stop()
        threading.Timer(1.0, server.start).start()
        device.put(tmp_path / "m", "m")
        assert (server.home / "w" / "m").read_bytes() == b"content"


def test_a_device_that_stays_away_is_given_up(tmp_path: Path) -> None:
    with serving(tmp_path / "sshd") as server, link(server, patience_s=0.5) as device:
        device.run(["true"], 30)
        server.stop()
        with pytest.raises(LinkError, match="cannot be reached"):
            device.run(["true"], 30)


def test_a_missing_client_is_named() -> None:
    with pytest.raises(MeasurementError, match="no program 'no-such-ssh' here"):
        SshTransport(parse_address("ssh://trap"), SshOptions("no-such-ssh"))
