"""Tests of `taco.attached.shell`: the same words under every shell that is here, as a login shell or not."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from taco.attached import shell
from taco.errors import InputError

WORDS = [
    *(
        "a b",
        'it\'s "q"',
        "new\nline\n",
        "-rf",
        "$(touch x)",
        "`id`;&|<>*?[a]!~#\\",
        "\u00e9",
        "\\'",
        "\\\\",
        "!!",
        "%s",
    ),
    *("", "$n", "\t", "{a,b}", "a=b", "\x01"),
]
ECHO = [sys.executable, "-I", "-c", "import sys; print(ascii(sys.argv[1:]))"]
LOGIN = (["dash"], ["bash"], ["zsh"], ["tcsh"], ["fish"], ["busybox", "sh"])
POSIX = (["dash"], ["bash"], ["busybox", "sh"])


def here(program: list[str]) -> list[str]:
    if shutil.which(program[0]) is None:
        pytest.skip(f"no {program[0]} here")
    return program


def say(argv: list[str], script: str) -> tuple[int, bytes]:
    """Start as sshd does, with the script's line on an input that stays open."""
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(script.encode() + b"\n")
        process.stdin.flush()
        return process.wait(30), process.stdout.read()


@pytest.mark.parametrize("login", LOGIN, ids="-".join)
def test_words_pass_every_login_shell(login: list[str], tmp_path: Path) -> None:
    script = shell.run_script(str(tmp_path / "it's a $folder"), [*ECHO, *WORDS], "MARK")
    code, said = say([*here(login), "-c", shell.BOOTSTRAP], script)
    assert (code, said) == (0, f"\nMARK\n{WORDS!a}\n".encode())
    assert os.listdir(tmp_path) == ["it's a $folder"]  # noqa: PTH208 - the bytes of the name


@pytest.mark.parametrize("posix", POSIX, ids="-".join)
def test_scripts_run_under_every_posix_shell(posix: list[str], tmp_path: Path) -> None:
    argv = [*here(posix), "-c", 'IFS= read -r taco && eval "$taco"']
    code, said = say(argv, shell.run_script(str(tmp_path), [*ECHO, *WORDS], "MARK"))
    assert (code, said) == (0, f"\nMARK\n{WORDS!a}\n".encode())
    content = os.urandom(70_000)
    put = shell.put_script(str(tmp_path), ".part", "a/b", hashlib.sha256(content).hexdigest(), 0o640)
    subprocess.run(argv, input=put.encode() + b"\n" + content, check=True)
    assert (tmp_path / "a/b").read_bytes() == content
    got = subprocess.run(
        argv, input=shell.get_script(str(tmp_path), "a/b", "MARK").encode() + b"\n", capture_output=True
    )
    assert got.stdout == f"\nMARK\n70000 {hashlib.sha256(content).hexdigest()}\n".encode() + content
    short = subprocess.run(argv, input=put.encode() + b"\n" + content[:100], check=False)
    assert short.returncode == shell.EXIT_DAMAGED
    assert (tmp_path / ".part").read_bytes() == content[:100]


def test_a_nul_and_no_program_are_refused() -> None:
    with pytest.raises(InputError, match="NUL"):
        shell.quote("a\0b")
    with pytest.raises(InputError, match="no command"):
        shell.run_script("x", [], "MARK")
