"""The main job under kill -9, full disks, read-only folders and vanishing pictures, as processes of their own."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from conftest import draw_task
from dying import die_at_rename
from forked import Forked, taco

from taco import api
from taco.bundle import Bundle
from taco.errors import BundleError, UnreadableImageError
from taco.progress import PlainProgress

pytestmark = pytest.mark.slow
KILLS = 4


def command(task: Path, out: Path, *more: str) -> list[str]:
    return [
        *("export", str(task), "--target", "raspberry-pi-4", "--macs", "0.6", "--out", str(out)),
        *("--model", "test_efficientnet", "--random-weights", "--shots", "5", "--threads", "1"),
        *("--recover-minutes", "0.02", "--allocation", "uniform", *more),
    ]


def start(task: Path, out: Path, *more: str, before: Callable[[], None] | None = None) -> Forked:
    return Forked(partial(taco, command(task, out, *more)), task.parent / "streams" / uuid.uuid4().hex, before)


def job(task: Path, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return start(task, out, *more).completed(300)


def hashes(out: Path) -> dict[str, str]:
    return {name: entry.sha256 for name, entry in Bundle(out).manifest.files.items()}


def prepared(out: Path, finished: Path) -> Path:
    """A folder that holds nothing but the measurements of another run."""
    (out / ".taco").mkdir(parents=True)
    shutil.copytree(finished / ".taco" / "measured", out / ".taco" / "measured")
    return out


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_task(tmp_path_factory.mktemp("survives") / "site", count=12)


@pytest.fixture(scope="module")
def finished(task: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "out"
    cold = [sys.executable, "-m", "taco.cli", *command(task, out)]
    done = subprocess.run(cold, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return out


def test_same_seed_and_measurements_give_the_same_bundle_and_another_seed_does_not(
    task: Path, finished: Path, tmp_path: Path
) -> None:
    assert job(task, prepared(tmp_path / "same", finished)).returncode == 0
    assert hashes(tmp_path / "same") == hashes(finished)
    assert job(task, prepared(tmp_path / "other", finished), "--seed", "1").returncode == 0
    assert hashes(tmp_path / "other")["model.onnx"] != hashes(finished)["model.onnx"]


def test_killed_at_random_moments_it_ends_with_the_same_bundle(task: Path, finished: Path, tmp_path: Path) -> None:
    begin = time.monotonic()
    assert job(task, prepared(tmp_path / "timed", finished)).returncode == 0
    whole = time.monotonic() - begin
    moments = random.Random(7)
    killed = 0
    for number in range(KILLS):
        out = prepared(tmp_path / str(number), finished)
        process = start(task, out)
        try:
            process.wait(moments.uniform(0.02, 1.0) * whole)
        except subprocess.TimeoutExpired:
            process.kill()
            killed += process.wait(60) == -signal.SIGKILL
        again = job(task, out)
        assert again.returncode == 0, again.stderr
        assert hashes(out) == hashes(finished)
        assert not [p.name for p in out.rglob(".*.tmp")], "what the killed process was writing is swept up"
        shutil.rmtree(out)
    assert killed >= KILLS // 2


def test_killed_around_every_step_it_still_arrives(task: Path, finished: Path, tmp_path: Path) -> None:
    """Each second start gets one step further, so finished steps are never done twice."""
    out = prepared(tmp_path / "out", finished)
    count = len(list((finished / ".taco" / "steps").glob("*.json")))
    assert count >= 8
    for done in range(count):
        for when, expected in (("before", done), ("after", done + 1)):
            process = start(task, out, before=partial(die_at_rename, 1, "steps/*.json", when))
            assert process.wait(300) == -signal.SIGKILL
            assert len(list((out / ".taco" / "steps").glob("[!.]*.json"))) == expected
    assert not (out / "manifest.json").exists()
    for number in range(1, 100):
        process = start(task, out, before=partial(die_at_rename, number, "*", "before"))
        if process.wait(300) == 0:
            break
        assert process.poll() == -signal.SIGKILL
        if (out / "manifest.json").exists():
            assert hashes(out) == hashes(finished), "the manifest comes last"
    assert number > 5, "the bundle's files are renamed, too"
    assert hashes(out) == hashes(finished)
    assert not [p.name for p in out.rglob(".*.tmp")], "what the killed processes were writing is swept up"


@pytest.mark.parametrize("kilobytes", [16, 2000, 3200, 3600, 4400, 5200, 6000, 7000])
def test_a_full_disk_is_said_and_a_larger_one_goes_on(
    task: Path, finished: Path, small_disk: Callable[[str], Path], kilobytes: int
) -> None:
    out = small_disk(f"size={kilobytes}k") / "out"
    if kilobytes >= 2000:  # there is room for what was measured
        prepared(out, finished)
    full = job(task, out)
    assert full.returncode not in (0, 130), "the run must not fit, or this size tests nothing"
    assert "Traceback" not in full.stderr
    assert "fault of taco-export" not in full.stderr
    assert "No space left" in full.stderr
    with pytest.raises(BundleError):
        Bundle(out)
    assert not list(out.glob("model.onnx")), "nothing half written lies beside a missing manifest"
    small_disk("size=100m")
    (out / ".taco" / "measured").mkdir(parents=True, exist_ok=True)
    for measurement in (finished / ".taco" / "measured").iterdir():
        shutil.copy(measurement, out / ".taco" / "measured")
    again = job(task, out)
    assert again.returncode == 0, again.stderr
    assert hashes(out) == hashes(finished)


def test_a_read_only_disk_is_said(task: Path, small_disk: Callable[[str], Path]) -> None:
    small_disk("size=1m")
    out = small_disk("ro") / "out"
    refused = job(task, out)
    assert refused.returncode == 2
    assert "Read-only file system" in refused.stderr
    assert "Choose another --out" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_the_second_of_two_processes_is_refused(task: Path, finished: Path, tmp_path: Path) -> None:
    out = prepared(tmp_path / "out", finished)
    first = start(task, out)
    try:
        while not (out / ".taco" / "run.json").exists():
            assert first.poll() is None
            time.sleep(0.05)
        second = job(task, out)
        assert second.returncode == 2
        assert "another taco-export is working" in second.stderr
    finally:
        assert first.wait(120) == 0
    assert hashes(out) == hashes(finished)


class Deleting(PlainProgress):
    """Deletes pictures when a step begins."""

    def __init__(self, step: str, *pictures: Path) -> None:
        super().__init__()
        self._step, self._pictures = step, pictures

    def step(self, name: str, total: int | None = None):  # type: ignore[no-untyped-def]
        if name == self._step:
            for picture in self._pictures:
                picture.unlink()
        return super().step(name, total)


@pytest.mark.parametrize("step", ["read the pictures", "ask the teacher about augmented views"])
def test_a_picture_deleted_meanwhile(step: str, tmp_path: Path) -> None:
    task = draw_task(tmp_path / "site")
    asked = {
        "task": task, "target": "raspberry-pi-4", "model": "test_efficientnet", "random_weights": True, "shots": 8,
        "macs": 0.6, "recover_minutes": 0.05, "out": tmp_path / "out",
    }  # fmt: skip
    options = api.make_options(asked)
    if step == "read the pictures":
        report = api.export(options, Deleting(step, task / "ash" / "03.png")).report
        assert report.task.skipped == [f"{task / 'ash' / '03.png'}: there is no such file"]
        return
    with pytest.raises(UnreadableImageError, match="no longer is: there is no such file") as caught:
        api.export(options, Deleting(step, *sorted((task / "ash").iterdir())))
    assert "run the same command again" in caught.value.todo
    assert not (tmp_path / "out" / "manifest.json").exists()
