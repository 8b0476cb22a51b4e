"""`make TARGET` and `make bench-TARGET`: what reaches the programs, word for word, whatever the names hold."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
STUB = """#!{python}
import json, sys
with open({log!r}, "a") as stream:
    stream.write(json.dumps([sys.argv[0].rpartition("/")[2], *sys.argv[1:]]) + "\\n")
"""
HOSTILE = 'it\'s $(touch x); `touch y` "q" $HOME *.jpg'


def with_noting_programs(folder: Path) -> Path:
    """Put our Makefile into a folder, and programs that only note what they are given."""
    shutil.copy(ROOT / "Makefile", folder)
    for name in ("pyproject.toml", "constraints.txt"):
        (folder / name).touch()
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("taco", "taco-export", "python"):
        (programs / name).write_text(STUB.format(python=sys.executable, log=str(folder / "log")))
        (programs / name).chmod(0o755)
    (folder / ".venv" / ".taco-installed").touch()
    return folder


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return with_noting_programs(tmp_path)


def make(place: Path, *words: str) -> tuple[int, str, list[list[str]]]:
    done = subprocess.run(["make", *words], cwd=place, capture_output=True, text=True, check=False)
    log = place / "log"
    return (
        done.returncode,
        done.stderr,
        [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else [],
    )


def test_one_command_makes_measures_and_benches(place: Path) -> None:
    code, _, ran = make(place, "raspberry-pi-5", "TASK=photos/", "DEVICE=ssh://pi@a ssh://pi@b", "MINUTES=30")
    devices = ["--device", "ssh://pi@a", "--device", "ssh://pi@b"]
    out = "runs/raspberry-pi-5"
    assert code == 0
    assert ran == [
        ["taco-export", "photos/", "--target", "raspberry-pi-5", "--out", out, *devices],
        ["taco", "bench", out, *devices, "--sustained", "30m", "--report"],
    ]


def test_without_a_device_nothing_is_benched(place: Path) -> None:
    assert make(place, "jetson-orin", "TASK=p", "ARGS=--shots 8")[2] == [
        ["taco-export", "p", "--target", "jetson-orin", "--out", "runs/jetson-orin", "--shots", "8"]
    ]


def test_names_reach_the_program_as_they_are(place: Path) -> None:
    code, said, ran = make(place, "host-cpu", f"TASK={HOSTILE}", f"RUNS={HOSTILE}", "DEVICE=ssh://a;touch${IFS}z")
    assert code == 0, said
    assert ran[0] == [
        *("taco-export", HOSTILE, "--target", "host-cpu", "--out", f"{HOSTILE}/host-cpu"),
        *("--device", "ssh://a;touch${IFS}z"),
    ]
    assert not [name for name in "xyz" if (place / name).exists()]


def test_a_finished_run_is_benched_by_itself(place: Path) -> None:
    run = place / "runs" / "intel-nuc"
    code, said, ran = make(place, "bench-intel-nuc", "DEVICE=ssh://nuc")
    assert (code, ran) == (2, [])
    assert "make intel-nuc TASK=photos/ first" in said
    run.mkdir(parents=True)
    (run / "manifest.json").touch()
    told = ["--device", "ssh://nuc", "--sustained", "5m", "--report"]
    assert make(place, "bench-intel-nuc", "DEVICE=ssh://nuc")[2] == [["taco", "bench", "runs/intel-nuc", *told]]
    shutil.move(run, place / HOSTILE)
    assert make(place, "bench-intel-nuc", "DEVICE=ssh://nuc", f"RUN={HOSTILE}")[2][1:] == [
        ["taco", "bench", HOSTILE, *told]
    ]


@pytest.mark.parametrize(
    ("goal", "said"), [("raspberry-pi-4", "TASK=photos/"), ("bench-raspberry-pi-4", "DEVICE=ssh:")]
)
def test_what_is_missing_is_said(place: Path, goal: str, said: str) -> None:
    code, told, ran = make(place, goal)
    assert (code, ran) == (2, [])
    assert said in told
