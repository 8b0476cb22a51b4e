"""A reader who types what a page of the documentation says, in one folder, with devices on loopback.

What is on the page is typed as it stands but for `INSTEAD`, `THERE` and `ADDED`, the one place where anything is
changed: a tiny model with random weights, moments in place of minutes, and an account that this machine has. While a
run looks for widths, time is made of the number of weights (`FakeBench`): a model of a third of a millisecond has no
stable speed-up. What `taco bench` and the agent time is real. Programs of ours run in this process, because importing
torch for each would take longer than all they do; those that `make` starts are noted by a stand-in and then run so. A
run finds the steps of the reader's last one, as if it had been stopped: those of other pictures or flags are not its.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import draw_task, logging_as_it_was
from sshd import Server, serving
from test_makefile import with_noting_programs
from test_pipeline import FakeBench, installed

from taco import cli
from taco.field import benching
from taco.search import budget
from taco.steps import delivery
from taco.targets.loading import BenchmarkProtocol, Target, load_target

#: What is typed in place of what a page says: pattern -> replacement, on every word.
INSTEAD = {
    r"\b(pi|ada|user)@": "",  # the server on loopback knows one account, which is this one's
    r"^(30|5)m$": "0.2s",
    r"^0\.6$": "0.8",  # the tiny model's widths end above
    r"^tf_efficientnet_lite0$": "test_efficientnet",
    r"^1,2,4$": "1",
}
#: And on the device, whose card this is.
THERE = {r"^(PICTURES|/media/card/DCIM)$": "~/card"}
#: What is typed more than the page says: beginning of the words -> more words.
ADDED = {
    ("taco-export",): (
        *("--model", "test_efficientnet", "--random-weights", "--shots", "5", "--recover-minutes", "0", "--force"),
        *("--threads", "1"),
    ),
    ("taco", "database", "build"): ("--model", "test_efficientnet", "--random-weights", "--shots", "5"),
    ("taco", "bench"): ("--threads", "1", "--idle", "0.1"),
    ("python3", "-m", "venv"): ("--without-pip",),  # which comes from the network's packages
    ("taco", "profile", "--target"): ("--threads", "1"),
    ("ssh-keygen",): ("-q", "-N", "", "-f", "id_ed25519"),  # where it would ask
}
AGENT = ("~/taco-export/venv/bin/python", "~/taco-export/bundles/current/agent.pyz")
ADDED[*AGENT, "watch"] = ("--once", "--settle", "0.1")  # ends when everything there has been named
HOSTS = ("trap1", "trap2", "nuc1", "jetson")
#: Every command starts in the device's home, which is not that of the account here.
LOGIN = '#!/bin/sh\ncd "$HOME"\nPATH="$HOME/bin:$PATH"\nexec /bin/sh -c "$SSH_ORIGINAL_COMMAND"\n'


@dataclasses.dataclass(frozen=True)
class Said:
    """How a line ended and what it said."""

    code: int
    text: str


def quick(name: str) -> Target:
    """A target whose protocol takes a moment, and whose budget a tiny model can reach."""
    protocol = BenchmarkProtocol(6, 2.0, 20.0)
    return dataclasses.replace(load_target(name), benchmark=protocol, threads=1, default_macs=0.8)


def instead(words: tuple[str, ...]) -> list[str]:
    """What is typed for the words of a page."""
    typed = list(words)
    for pattern, other in INSTEAD.items():
        typed = [re.sub(pattern, other, word) for word in typed]
    for beginning, more in ADDED.items():
        if tuple(words[: len(beginning)]) == beginning and words[1:2] != ("-h",):
            typed += more
    return typed


class Reader:
    """Types lines in a folder that holds pictures.

    Args:
        folder: Where the reader is.
        patch: Undone when the reader leaves.
    """

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self._patch = folder, patch
        self._last: Path | None = None
        draw_task(folder / "photos")
        patch.chdir(folder)
        patch.setenv("TACO_CACHE", str(folder / "cache"))
        home = Path.home()
        for name, usual in (("XDG_CACHE_HOME", ".cache"), ("XDG_CONFIG_HOME", ".config")):
            patch.setenv(name, os.environ.get(name, str(home / usual)))  # where matplotlib has its list of fonts
        patch.setenv("HOME", str(folder))  # the local device's work folder and its lease
        patch.setattr(delivery, "IDLE_S", 0.05)
        installed(FakeBench(), patch)
        for module in (budget, benching):
            patch.setattr(module, "load_target", quick)

    @contextlib.contextmanager
    def devices(self) -> Iterator[list[Path]]:
        """Attach devices of the names in HOSTS; gives their homes. `trap2` is another machine than the rest."""
        login = self.folder / "login"
        login.write_text(LOGIN)
        login.chmod(0o755)
        extra = f"Subsystem sftp /usr/lib/openssh/sftp-server\nForceCommand {login}"
        with serving(self.folder / "sshd", extra) as server, serving(self.folder / "sshd2", extra) as second:
            self._reach(server, second)
            yield [server.home, second.home]

    def _reach(self, server: Server, second: Server) -> None:
        """Let ssh and scp reach both under the names of the pages."""
        shutil.copy(server.root / "authorized_keys", second.root / "authorized_keys")
        keys = [(one.root / "host_key.pub").read_text().split()[:2] for one in (server, second)]
        names = {name: int(name == "trap2") for name in HOSTS}
        known = "".join(f"{name} {' '.join(keys[index])}\n" for name, index in names.items())
        (server.root / "known_hosts").write_text(known)
        for name, index in names.items():
            server.aim(name, (server, second)[index].port)
        copy = server.root / "bin" / "scp"
        copy.write_text(f'#!/bin/sh\nexec /usr/bin/scp -F "{server.root}/ssh_config" "$@"\n')
        copy.chmod(0o755)
        self._patch.setenv("PATH", f"{server.root}/bin:/usr/bin:/bin")

    def type(self, line: str) -> Said:
        """Type one line of a page.

        Raises:
            AssertionError: It begins with a program that no reader here can run.
        """
        words = tuple(shlex.split(line, comments=True))
        program = words[0]
        if program in ("taco", "taco-export"):
            return self._ours(instead(words))
        if program == "make":
            return self._make(instead(words))
        assert program in ("ssh", "scp", "ssh-keygen"), f"{line}: nothing is known of {program}"
        return self.other(*instead(words))

    def type_there(self, line: str, place: str) -> Said:
        """Type one line on the device `trap1`, in a folder of it."""
        words = instead(tuple(line.split()))
        typed = " ".join(re.sub(pattern, other, word) for word in words for pattern, other in THERE.items())
        return self.other("ssh", "trap1", f"cd {place} && {typed}")

    def other(self, *words: str) -> Said:
        done = subprocess.run(words, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=120)
        return Said(done.returncode, done.stdout + done.stderr)

    def _ours(self, words: list[str]) -> Said:
        if words[0] == "taco-export" and "--out" in words and "--dry-run" not in words:
            self._hand_on(Path(words[words.index("--out") + 1]))
        out, err = io.StringIO(), io.StringIO()
        entry = cli.main_export if words[0] == "taco-export" else cli.main
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), logging_as_it_was():
            self._patch.setattr(sys, "argv", words)
            with pytest.raises(SystemExit) as ended:
                entry()
        return Said(int(ended.value.code or 0), out.getvalue() + err.getvalue())

    def _hand_on(self, run: Path) -> None:
        """Give a new run the finished steps of the last one."""
        if self._last is not None and not run.exists():
            shutil.copytree(self._last / ".taco" / "steps", run / ".taco" / "steps")
        self._last = run

    def _make(self, words: list[str]) -> Said:
        if not (self.folder / "Makefile").exists():
            with_noting_programs(self.folder)
        log = self.folder / "log"
        log.write_text("")
        done = subprocess.run(words, capture_output=True, text=True, check=False, env={**os.environ, "RUNS": "runs"})
        text = done.stdout + done.stderr
        if done.returncode:
            return Said(done.returncode, text)
        for line in log.read_text().splitlines():
            said = self._ours(instead(tuple(json.loads(line))))
            text += said.text
            if said.code:
                return Said(said.code, text)
        return Said(0, text)
