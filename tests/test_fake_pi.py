"""The whole way to an emulated aarch64 Raspberry Pi 5 behind a real sshd: everything works but its clock."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from conftest import draw_task
from edge_lab.fake_pi import cache_folder, fake_pi, shell
from sshd import Server, serving
from tiny_bundle import BLUE, GREEN, RED, make_bundle, paint

from taco.address import parse_address
from taco.attached.agent_pack import agent_bytes
from taco.attached.ondevice import Device, attached
from taco.bundle import Bundle
from taco.device import wire
from taco.device.images import read_rgb, resize_crop, to_tensor
from taco.device.journal import read_journal
from taco.device.session import OrtSession
from taco.metrics.abstain import softmax

pytestmark = pytest.mark.slow
URL = "ssh://trap"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root, folder = fake_pi(cache_folder()), tmp_path_factory.mktemp("pi")
    with serving(folder / "sshd", f"ForceCommand {shell(root, folder)}") as made:
        yield made


@pytest.fixture(autouse=True)
def our_ssh(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{server.root}/bin:/usr/bin:/bin")


def taco(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "taco.cli", *words], capture_output=True, text=True, timeout=1200, check=False
    )


def test_doctor_recognises_the_board_and_the_emulation() -> None:
    done = taco("devices", "doctor", "--device", URL, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["machine"] == "aarch64"
    assert found["board"] == "Raspberry Pi 5 Model B Rev 1.0"
    assert "qemu" in found["emulated"]
    assert "asimddp" in found["isa"]
    assert found["cores_physical"] == 2 or found["cores_physical"] <= 4
    assert found["telemetry"]["governor"] == "ondemand"
    assert found["telemetry"]["temperatures_c"] == {"cpu-thermal": 48.9}
    assert found["telemetry"]["throttled"] == {"raspberry_pi_flags": "0x0"}
    assert "onnxruntime" in found["runtimes"]
    assert found["missing"] == []


def test_an_export_to_the_emulated_pi_gives_the_same_answers_and_no_time(tmp_path: Path, real_pictures: Path) -> None:
    site, out = draw_task(tmp_path / "site", count=12), tmp_path / "out"
    done = taco(
        *("export", str(site), "--target", "raspberry-pi-5", "--device", URL, "--out", str(out), "--macs", "0.7"),
        *("--allocation", "uniform"),
        *("--model", "test_efficientnet", "--random-weights", "--shots", "5", "--recover-minutes", "0", "--json"),
        "--force",
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    device = report["device"]
    assert device["board"] == "Raspberry Pi 5 Model B Rev 1.0"
    assert device["same_answers"] == device["images"] == 21
    assert "qemu" in device["emulated"]
    assert report["latency_ms"] is None
    assert report["latency_source"] == "none"
    assert report["measured_on"] is None
    assert device["cold_ms"] == {}
    assert device["idle_ms"] == []
    assert any("no result of a raspberry-pi-5" in warning for warning in report["warnings"])
    page = (out / "report.html").read_text()
    assert "EMULATED" in page
    bench = taco("bench", str(out), "--device", URL, "--json")
    assert bench.returncode == 0, bench.stderr
    found = json.loads(bench.stdout)
    assert "qemu" in found["emulated"]
    assert "p50" not in bench.stdout
    assert set(found["ran"]) == {"compressed", "dense", "baseline_fp32"}
    there, bundle = device["deployed_to"], Bundle(out)
    profile = subprocess.run(
        ["ssh", "trap", f"python3 -I {there}/agent.pyz profile --threads 1 {there}/model.onnx"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    nodes = wire.parse(profile.stdout)["nodes"]
    assert any("Conv" in node["op"] for node in nodes)
    assert all(node["ms"] >= 0 for node in nodes)
    hashed = subprocess.run(
        ["ssh", "trap", f"sha256sum {there}/model.onnx"], capture_output=True, text=True, check=True
    )
    assert bundle.manifest.files["model.onnx"].sha256 in hashed.stdout
    same_names_of_real_pictures(bundle, there, real_pictures)


def same_names_of_real_pictures(bundle: Bundle, there: str, real_pictures: Path) -> None:
    """The deployed bundle, by itself, gives the host's answers on real pictures.

    The host runs the file in floats, as what it means: its own INT8 instructions are others than those of ARM.
    """
    pictures = [sorted(folder.glob("*.jpg"))[0] for folder in sorted((real_pictures / "animals").iterdir())[:20]]
    with attached(parse_address(URL)) as device:
        sent = send_pictures(device, pictures)
        words = [device.agent.python, "-I", f"{there}/agent.pyz", "predict", there, sent]
        named = device.transport.run(words, 600)
        device.transport.run(["rm", "-r", sent, f"{sent}.zip"], 60)
    assert named.returncode == 0, named.stderr
    theirs = [line.split("\t")[:2] for line in named.stdout.splitlines()]
    session, clear = OrtSession(str(bundle.model_path), 1, optimise=False), 0
    for picture, (label, share) in zip(pictures, theirs, strict=True):
        pixels = resize_crop(read_rgb(picture), bundle.preprocessing)
        shares = softmax(session.run(to_tensor(pixels, bundle.preprocessing))[0])
        second, first = np.sort(shares)[-2:]
        assert float(share) == pytest.approx(first, abs=0.05)
        if first - second > 0.05:
            assert label == bundle.manifest.classes[int(shares.argmax())]
            clear += 1
    assert clear >= 10


def send_pictures(device: Device, pictures: list[Path]) -> str:
    """Send pictures in one piece; returns their folder on the device, in which they have numbers."""
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "pictures.zip"
        with zipfile.ZipFile(archive, "w") as opened:
            for number, picture in enumerate(pictures):
                opened.write(picture, f"{number:04}{picture.suffix}")
        return str(device.agent.ask(["unpack", device.agent.send([archive], ".zip")[archive]])["folder"])


def in_time(condition: Callable[[], bool]) -> bool:
    """Wait without taking the processor from the emulator."""
    deadline = time.monotonic() + 400
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.7)
    return True


def place_all(pictures: list[Path], card: Path) -> None:
    """Put pictures on the card as a camera does: under another name until they are whole."""
    card.mkdir(exist_ok=True)
    for picture in pictures:
        shutil.copyfile(picture, card / f"{picture.name}.part")
        (card / f"{picture.name}.part").rename(card / picture.name)


def rows_of(part: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(part.read_text())))


@dataclass
class Watching:
    """A watcher on the emulated device, whose files this machine sees."""

    folder: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        words = f"python3 -I bundles/current/agent.pyz watch bundles/current card ../{self.folder.name}/results"
        words += " --settle 0.1 --poll 0.1 --threads 1 --part 300"
        self.process = subprocess.Popen(
            ["ssh", "trap", f"cd {self.folder.name} && exec {words}"],
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
        )

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def rows(self) -> list[dict[str, str]]:
        return [row for part in sorted(self.results.glob("part-*.csv")) for row in rows_of(part)]

    def images(self) -> list[str]:
        """Of the JSON, which is written behind the CSV."""
        parts = [json.loads(part.read_text()) for part in sorted(self.results.glob("part-*.json"))]
        return [image["file"] for part in parts for image in part["images"]]

    def noted(self) -> int:
        """Frames in the journal and in finished parts."""
        journals = sorted(self.results.glob("part-*.journal"))[-1:]
        done = [p for p in self.results.glob("part-*.csv") if not journals or p.stem < journals[0].stem]
        open_part = sum("frame" in record for journal in journals for record in read_journal(str(journal)))
        return sum(len(rows_of(part)) for part in done) + open_part

    def pull_the_plug(self) -> None:
        """Kill all of the watcher at once: whatever has its folder in its command line."""
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if f"../{self.folder.name}/results".encode() in (entry / "cmdline").read_bytes():
                    os.kill(int(entry.name), signal.SIGKILL)
        assert self.process is not None
        self.process.wait(60)


def test_a_thousand_frames_are_named_once_each_though_the_plug_is_pulled(server: Server, tmp_path: Path) -> None:
    work = fake_pi(cache_folder()) / "home/pi" / f"field-{tmp_path.parent.name}"
    watching = Watching(work)
    truth = [paint(tmp_path / f"card/{n:04}.png", (RED, GREEN, BLUE)[n % 3], (33, 32)) for n in range(1000)]
    bundles = [make_bundle(tmp_path / f"{sure}", agent=agent_bytes(), sure_from=sure) for sure in (0.5, 0.6)]
    try:
        with attached(parse_address(f"{URL}/~/{work.name}")) as device:
            first = device.deploy(bundles[0])
            place_all(truth[:400], work / "card")
            watching.start()
            assert in_time(lambda: watching.noted() >= 100)
            watching.pull_the_plug()
            watching.start()
            assert in_time(lambda: watching.noted() == 400)
            second = device.deploy(bundles[1])
            place_all(truth[400:700], work / "card")
            assert in_time(lambda: watching.noted() >= 500)
            watching.pull_the_plug()
            assert device.roll_back() == first.folder
            place_all(truth[700:], work / "card")
            watching.start()
            assert in_time(lambda: len(watching.images()) >= 1000)
            watching.pull_the_plug()
        rows = watching.rows()
        assert sorted(row["file"] for row in rows) == sorted(path.name for path in truth)
        assert all(row["label"] == ("fox", "hare", "blank")[int(row["file"][:4]) % 3] for row in rows)
        named_by = {row["file"]: row["bundle"] for row in rows}
        assert {named_by[path.name] for path in truth[:400]} == {Path(first.folder).name}
        assert {named_by[path.name] for path in truth[400:500]} == {Path(second.folder).name}
        assert {named_by[path.name] for path in truth[700:]} == {Path(first.folder).name}
        assert sorted(watching.images()) == sorted(row["file"] for row in rows)
    finally:
        shutil.rmtree(work, ignore_errors=True)
