"""The whole way to an emulated aarch64 Raspberry Pi 5 behind a real sshd: everything works but its clock."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import draw_task
from edge_lab.fake_pi import cache_folder, fake_pi, shell
from sshd import Server, serving

from taco.address import parse_address
from taco.bundle import Bundle
from taco.device import wire
from taco.ondevice import attached
from taco.predict import predict

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
    """The deployed bundle, by itself, gives the host's answers wherever these do not hang by a hair (INT8 on ARM)."""
    pictures = [sorted(folder.glob("*.jpg"))[0] for folder in sorted((real_pictures / "animals").iterdir())[:24]]
    with attached(parse_address(URL)) as device:
        for number, picture in enumerate(pictures):
            device.transport.put(picture, f"real/{number:02}.jpg")
        words = [device.agent.python, "-I", f"{there}/agent.pyz", "predict", there, "real"]
        named = device.transport.run(words, 600)
        device.transport.run(["rm", "-r", "real"], 60)
    assert named.returncode == 0, named.stderr
    theirs = [line.split("\t")[:2] for line in named.stdout.splitlines()]
    ours = list(predict(bundle, pictures, threads=1))
    clear = 0
    for answer, (label, share) in zip(ours, theirs, strict=True):
        assert answer.probabilities is not None
        first, second, *_ = sorted(answer.probabilities.values(), reverse=True)
        assert float(share) == pytest.approx(first, abs=0.05)
        if first - second > 0.05:
            assert label == answer.label
            clear += 1
    assert clear >= 12
