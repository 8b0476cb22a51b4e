"""A folder for a Jetson, from build to report, with a stand-in for trtexec; the packed agent runs by itself."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from agent_here import agent_here
from fake_trtexec import Mode, make_trtexec
from jetson_folder import make_jetson_folder

from taco import api
from taco.device import wire
from taco.report.read import read_report
from taco.report.schema import Report


def agent(folder: Path, trtexec: Path) -> subprocess.CompletedProcess[str]:
    """Run the one command that the report names, where the host's package cannot be found."""
    command = [sys.executable, "-I", "agent.pyz", "jetson", "--trtexec", str(trtexec)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A folder that the agent went through with TensorRT 10.3's options."""
    root = tmp_path_factory.mktemp("orin")
    folder = make_jetson_folder(root / "folder", pictures=2)
    return folder, agent(folder, make_trtexec(root / "bin"))


@pytest.fixture(scope="module")
def report(finished: tuple[Path, subprocess.CompletedProcess[str]]) -> Report:
    folder, done = finished
    assert done.returncode == 0, done.stderr
    return read_report(folder)


def test_the_agent_s_report_is_one_that_the_host_reads(report: Report) -> None:
    assert report.latency_source == "measured"
    assert report.latency_ms is not None
    assert report.baseline_fp32_ms is not None
    assert report.latency_ms.dense.n == 40
    assert report.speedup is not None
    assert report.speedup_rounds is not None
    assert len(report.speedup_rounds) == 2
    assert report.speedup == pytest.approx(report.latency_ms.dense.p50 / report.latency_ms.compressed.p50, rel=0.01)
    assert report.runtime.version == "10.3.0"
    assert report.next_step is None


def test_the_engines_are_judged_on_the_pictures_that_went_along(report: Report) -> None:
    assert report.engines_run is not None
    assert set(report.engines_run.accuracy) == {"dense", "compressed"}
    assert report.engines_run.accuracy["compressed"].n == 2
    assert report.engines_run.accuracy["compressed"].percent == 100
    assert [gate.passed for gate in report.engines_run.gates] == [True]


def test_layers_are_mapped_to_modules_and_the_rest_is_shown(report: Report) -> None:
    assert report.engines_run is not None
    found = report.engines_run.layers["compressed"]
    units = {row.module: row.units for row in found.modules}
    assert {"stem", "dw", "pw", "fc1", "head"} <= set(units)
    assert (units["stem"], units["pw"], units["head"]) == (["pw"], ["pw"], [])
    # the reformatting layer names no node, and the last layer is the cast of the logits alone
    assert found.unattributed_percent == pytest.approx(200 / found.engine_layers)
    total = sum(row.percent for row in found.modules) + found.unattributed_percent
    assert total == pytest.approx(100)


def test_what_a_stand_in_answered_is_labelled_wherever_it_is_shown(
    finished: tuple[Path, subprocess.CompletedProcess[str]], report: Report, tmp_path: Path
) -> None:
    folder, _ = finished
    assert report.engines_run is not None
    assert report.engines_run.hardware is None
    assert "not run on hardware" in (folder / "report.md").read_text()
    (tmp_path / "report.json").write_bytes((folder / "report.json").read_bytes())
    pages = api.redraw_report(tmp_path)
    for page in (pages.html, pages.markdown):
        assert "not run on hardware" in page.read_text().replace("\N{NO-BREAK SPACE}", " ")
    assert "On the device" in pages.markdown.read_text()


def test_engines_lie_under_a_key_of_everything_that_decides_them(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, _ = finished
    assert len(list((folder / "engines").glob("*.engine"))) == 3
    facts = [json.loads(path.read_text()) for path in (folder / "engines").glob("*.json")]
    assert all({"onnx_sha256", "tensorrt", "flags", "jetson_linux", "board"} <= set(f) for f in facts)
    assert sorted("--fp16" in f["flags"] for f in facts) == [False, True, True]


FAILURES: tuple[tuple[Mode, str], ...] = (
    ("killed", "memory ran out (exit code 137)"),
    ("gpu memory", "the GPU ran out of memory"),
    ("unsupported", "cannot read the operator GridSample"),
    ("crash", "crashed (SIGSEGV)"),
    ("no kernel", "found no kernel for {ForeignNode[/a...]}"),
)


@pytest.mark.parametrize(("mode", "words"), FAILURES)
def test_each_failure_has_its_own_message(mode: Mode, words: str, tmp_path: Path) -> None:
    folder = make_jetson_folder(tmp_path / "folder", pictures=1)
    before = (folder / "report.json").read_bytes()
    done = agent_here(["jetson", str(folder), "--trtexec", str(make_trtexec(tmp_path / "bin", mode=mode))])
    assert done.returncode == 5
    error = wire.parse(done.stdout)["error"]
    assert words in error["what"]
    assert error["todo"]
    assert (folder / "report.json").read_bytes() == before
    assert not list((folder / "engines").glob("*.engine"))


def test_tensorrt_8_5_is_refused(tmp_path: Path) -> None:
    folder = make_jetson_folder(tmp_path / "folder", pictures=1)
    done = agent_here(["jetson", str(folder), "--trtexec", str(make_trtexec(tmp_path / "bin", version="8.5"))])
    assert done.returncode == 5
    assert "TensorRT 8.5.2 is too old" in done.stderr
    assert "add-on for JetPack 5.1" in done.stderr


@pytest.mark.parametrize("mode", ["wrong", "nan"])
@pytest.mark.slow
def test_an_engine_that_answers_wrongly_is_not_to_be_used(mode: Mode, tmp_path: Path) -> None:
    folder = make_jetson_folder(tmp_path / "folder", pictures=12)
    done = agent(folder, make_trtexec(tmp_path / "bin", mode=mode))
    if mode == "nan":
        assert done.returncode == 5
        assert "no finite number" in done.stderr
        return
    assert done.returncode == 4
    assert "do not use these engines" in done.stderr
    report = read_report(folder)
    assert report.engines_run is not None
    assert [gate.passed for gate in report.engines_run.gates] == [False]
    assert "THE ENGINE FAILED ITS CHECK" in api.redraw_report(folder).markdown.read_text()


@pytest.mark.parametrize(("version", "mode"), [("8.6", "older"), ("10.16", "unstable"), ("11", "skipped")])
@pytest.mark.slow
def test_every_tensorrt_of_the_field_is_driven_to_the_end(version: str, mode: Mode, tmp_path: Path) -> None:
    folder = make_jetson_folder(tmp_path / "folder", pictures=2, sparse=True)
    done = agent(folder, make_trtexec(tmp_path / "bin", version=version, mode=mode))
    assert done.returncode == 0, done.stderr
    report = read_report(folder)
    doubts = {"older": "does not tell what the layers", "unstable": "was unsteady", "skipped": "were not tried"}
    assert [key for key, words in doubts.items() if any(words in text for text in report.warnings)] == [mode]
    device = report.engines_run
    assert device is not None
    assert device.strongly_typed is (version in ("10.16", "11"))
    engine, layers = device.engines["compressed"], device.layers["compressed"]
    assert (engine.eligible, engine.chosen) == (3, 1)
    assert engine.skipped == (3 if mode == "skipped" else 0)
    assert engine.unstable_percent == ([4.2, 4.2] if mode == "unstable" else [])
    assert (layers.unattributed_percent == pytest.approx(100)) is (mode == "older")


@pytest.mark.slow
def test_an_engine_of_another_tensorrt_is_built_again(tmp_path: Path) -> None:
    folder = make_jetson_folder(tmp_path / "folder", pictures=1)
    assert agent(folder, make_trtexec(tmp_path / "bin", version="10.3")).returncode == 0
    engine = next((folder / "engines").glob("compressed-*.engine"))
    facts = json.loads(Path(f"{engine}.json").read_text())
    foreign = engine.read_text().replace('"version": "10.3"', '"version": "10.16"')
    engine.write_text(foreign)
    facts["engine_sha256"] = hashlib.sha256(foreign.encode()).hexdigest()
    Path(f"{engine}.json").write_text(json.dumps(facts))
    done = agent(folder, make_trtexec(tmp_path / "bin", version="10.3"))
    assert done.returncode == 0, done.stderr
    assert "cannot be used (" in done.stderr
    assert "building it again" in done.stderr
    assert "engine of dense: taken from an earlier run" in done.stderr


def test_a_damaged_copy_is_told_before_anything_is_built(tmp_path: Path) -> None:
    folder = make_jetson_folder(tmp_path / "folder", pictures=1)
    content = bytearray((folder / "model.onnx").read_bytes())
    content[-1] ^= 1
    (folder / "model.onnx").write_bytes(content)
    done = agent_here(["jetson", str(folder), "--trtexec", str(make_trtexec(tmp_path / "bin"))])
    assert done.returncode == 2
    assert "model.onnx is not the file that was exported" in done.stderr
    assert not (folder / "engines").exists()
