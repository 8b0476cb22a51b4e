"""INT8 through the whole job: used where it pays, given up with the reason where it does not, gated either way."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import pytest
import tiny_run

from taco import allocate, api
from taco.bundle import Bundle
from taco.errors import GateError, InputError
from taco.metrics.gates import Gate
from taco.predict import predict
from taco.report.read import read_report
from taco.search.bench import Bench
from taco.steps import checks
from taco.steps.baking import BAKED_NAME
from taco.steps.converting import spread
from taco.timing.timings import BenchResult, ModelTiming

INT8_NODES = "DequantizeLinear"


def options(task: Path, out: Path, **changes: Any) -> api.ExportOptions:
    return tiny_run.options(task, out, **{"target": "host-cpu-int8", "threads": 1, **changes})


def is_int8(file: Path) -> bool:
    return any(node.op_type == INT8_NODES for node in onnx.load(file).graph.node)


class Clock:
    """Stands in for the device: fp32 takes 2 ms, INT8 what it is told; a narrower model takes 0.8 of that."""

    def __init__(self, int8_ms: float, narrow_int8_ms: float | None = None) -> None:
        self.int8_ms, self.narrow_int8_ms = int8_ms, narrow_int8_ms or int8_ms
        self.calls: list[list[str]] = []

    def __call__(self, bench: Bench, models: Mapping[str, Path], rounds: int | None = None) -> BenchResult:
        self.calls.append(list(models))
        narrow = {"compressed", "compressed_fp32"} if "baseline_fp32" in models else set()
        timings = {}
        for name, path in models.items():
            ms = (self.narrow_int8_ms if name in narrow else self.int8_ms) if is_int8(path) else 2.0
            ms *= 0.8 if name in narrow else 1.0
            timings[name] = ModelTiming(((ms,) * 3,) * 8, bench.target.provider, "fake", "0", 1.0, {})
        return BenchResult(timings, threads=1, rounds=8, stopped_early=False, measured_on={"machine": "fake"})


class Weighted(Clock):
    """Takes 1 ms for 10,000 numbers in the file, half of it in INT8; the small model in INT8 is slow at the end."""

    def __call__(self, bench: Bench, models: Mapping[str, Path], rounds: int | None = None) -> BenchResult:
        last = "baseline_fp32" in models
        self.calls.append([f"{name} {'int8' if is_int8(path) else 'fp32'}" for name, path in models.items()])
        timings = {}
        for name, path in models.items():
            ms = sum(math.prod(tensor.dims) for tensor in onnx.load(path).graph.initializer) / 1e4
            ms *= (3.0 if last and name == "compressed" else 0.5) if is_int8(path) else 1.0
            timings[name] = ModelTiming(((ms,) * 3,) * 8, bench.target.provider, "fake", "0", 1.0, {})
        return BenchResult(timings, threads=1, rounds=8, stopped_early=False, measured_on={"machine": "fake"})


def install(clock: Clock, patch: pytest.MonkeyPatch) -> Clock:
    patch.setattr(Bench, "time", lambda self, models, rounds=None: clock(self, models, rounds))
    return clock


@pytest.fixture(scope="module")
def int8_run(pi_site: Path, tmp_path_factory: pytest.TempPathFactory) -> api.ExportResult:
    """A finished run in which INT8 takes half the time; tests that go on from it copy it."""
    with pytest.MonkeyPatch.context() as patch:
        install(Clock(1.0), patch)
        return api.export(options(pi_site, tmp_path_factory.mktemp("run") / "out"))


def copy_of(run: api.ExportResult, folder: Path) -> Path:
    """Copy a run without what was measured and without its end: only that is done again."""
    out = Path(shutil.copytree(run.folder, folder / "out"))
    shutil.rmtree(out / ".taco" / "measured")
    (out / ".taco" / "finished.json").unlink()
    return out


def test_int8_is_shipped_where_it_is_faster(pi_site: Path, int8_run: api.ExportResult) -> None:
    report = int8_run.report
    bundle = Bundle(int8_run.folder)
    assert is_int8(bundle.model_path)
    assert report.runtime.precision == bundle.manifest.precision == "int8"
    assert report.precision is not None
    assert (report.precision.asked, report.precision.used, report.precision.given_up) == ("int8", "int8", None)
    assert report.precision.faster_than_fp32 == pytest.approx((2.0, 2.0, 2.0))
    assert report.precision.quantised + len(report.precision.put_back) == report.precision.layers
    assert report.speedup == pytest.approx(1.25), "dense and compressed are both INT8"
    assert report.baseline_fp32_ms is not None
    assert report.baseline_fp32_ms.p50 == 2.0
    names = [gate.name for gate in report.gates]
    assert {"structure", "fp32 file against torch", "INT8 logits against torch", "conversion"} <= set(names)
    assert all(gate.passed is not False for gate in report.gates)
    assert report.shipped == "yes"
    answers = list(predict(bundle, sorted(pi_site.rglob("*.png"))[:3], 1))
    assert all(answer.label for answer in answers)
    page = (int8_run.folder / "report.html").read_text()
    assert "Checks before shipping" in page
    assert "U8S8" in page


def test_int8_that_is_slower_is_given_up_before_the_search(
    pi_site: Path, int8_run: api.ExportResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(Clock(2.5), monkeypatch)
    out = copy_of(int8_run, tmp_path)
    report = api.export(options(pi_site, out)).report
    assert not is_int8(out / "model.onnx")
    assert report.runtime.precision == Bundle(out).manifest.precision == "fp32"
    assert report.precision is not None
    assert report.precision.given_up is not None
    assert "slower than fp32 here: of the dense model fp32 takes 0.80" in report.precision.given_up
    assert any("INT8 was given up" in warning for warning in report.warnings)
    assert "given up" in (out / "report.md").read_text()
    assert report.speedup == pytest.approx(1.25)


def test_int8_that_is_slower_for_the_small_model_alone_is_given_up_at_the_end(
    pi_site: Path, int8_run: api.ExportResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = install(Clock(1.0, 3.0), monkeypatch)
    out = copy_of(int8_run, tmp_path)
    report = api.export(options(pi_site, out)).report
    assert not is_int8(out / "model.onnx")
    assert report.precision is not None
    assert "of the compressed model" in (report.precision.given_up or "")
    assert report.latency_ms is not None
    assert report.latency_ms.dense.p50 == 2.0, "the dense model is compared in the same precision"
    assert clock.calls[-1] == ["dense", "compressed", "baseline_fp32"]


@pytest.mark.slow
def test_widths_that_were_found_for_int8_are_found_again_when_it_is_given_up(
    pi_site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = install(Weighted(1.0), monkeypatch)
    monkeypatch.setattr(allocate, "_GRID", 4)  # few widths: every trial is quantised
    report = api.export(options(pi_site, tmp_path / "out", speedup=1.3)).report
    assert report.precision is not None
    assert "of the compressed model" in (report.precision.given_up or "")
    assert report.speedup is not None
    assert report.speedup >= 1.3
    trials = [call for call in clock.calls if len(call) == 2 and call[1].startswith("compressed")]
    assert ["dense int8", "compressed int8"] in trials
    assert trials[-1] == ["dense fp32", "compressed fp32"], "the last search is at what is shipped"


@pytest.mark.slow
def test_int8_for_an_absent_device_brings_fp32_along_to_be_compared_there(pi_site: Path, tmp_path: Path) -> None:
    report = api.export(options(pi_site, tmp_path / "out", target="raspberry-pi-5")).report
    assert report.precision is not None
    assert report.precision.scheme == "S8S8, 8-bit weights"
    assert report.precision.faster_than_fp32 is None
    request = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert set(request["models"]) == {"dense", "compressed", "baseline_fp32", "compressed_fp32"}
    assert all((tmp_path / "out" / file).is_file() for file in request["models"].values())
    assert is_int8(tmp_path / "out" / "model.onnx")
    assert not is_int8(tmp_path / "out" / request["models"]["compressed_fp32"])


@pytest.mark.slow
def test_openvino_is_exported_measured_and_reported_as_itself(pi_site: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    report = api.export(options(pi_site, tmp_path / "out", target="host-cpu-openvino")).report
    assert report.runtime.name == "OpenVINO"
    assert report.runtime.provider == "CPU"
    assert report.runtime.version is not None
    assert report.latency_source == "measured"
    bundle = Bundle(tmp_path / "out")
    assert (bundle.manifest.runtime, bundle.provider) == ("ov", "CPU")
    assert all(answer.label for answer in predict(bundle, sorted(pi_site.rglob("*.png"))[:3], 1))


FAILING = Gate("conversion", False, "9.00 points lost on 9 pictures, surely more than 4.00", "1 point")


def test_a_failed_gate_leaves_evidence_and_no_artifact(
    pi_site: Path, pi_run: api.ExportResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = copy_of(pi_run, tmp_path)
    monkeypatch.setattr(checks, "conversion_gate", lambda *_, **__: FAILING)
    with pytest.raises(GateError, match=r"nothing was shipped, because a gate failed: conversion: 9\.00") as caught:
        api.export(tiny_run.options(pi_site, out))
    assert caught.value.exit_code == 4
    assert "--force" in caught.value.todo
    left = {path.name for path in out.iterdir()}
    assert {"report.json", "report.html", "report.md"} <= left
    assert not {"manifest.json", "model.onnx"} & left, "not even the earlier run's"
    assert read_report(out).shipped == "no"
    assert "NOTHING WAS SHIPPED" in (out / "report.html").read_text()
    report = api.export(tiny_run.options(pi_site, out, force=True)).report
    assert report.shipped == "forced"
    assert Bundle(out).manifest.forced == ["conversion"]
    assert "SHIPPED BY FORCE" in (out / "report.md").read_text()


def test_asked_gates_are_among_the_checks(pi_site: Path, pi_run: api.ExportResult, tmp_path: Path) -> None:
    asked = {"gate_drop": 100.0, "gate_class_drop": 100.0}
    gates = api.export(tiny_run.options(pi_site, copy_of(pi_run, tmp_path), **asked)).report.gates
    names = [gate.name for gate in gates]
    assert "accuracy lost (--gate-drop)" in names
    assert sum("--gate-class-drop" in name for name in names) == 3


def test_a_device_elsewhere_gets_the_model_with_pixels_in(pi_run: api.ExportResult) -> None:
    bundle = Bundle(pi_run.folder)
    assert BAKED_NAME in bundle.manifest.files
    gate = next(gate for gate in pi_run.report.gates if gate.name == "preprocessing baked in")
    assert gate.passed
    assert "0 of 9 answers differ" in gate.measured


def test_a_runtime_device_is_for_openvino(pi_site: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--runtime-device is for OpenVINO, and host-cpu has another"):
        api.make_plan(options(pi_site, tmp_path / "out", target="host-cpu", runtime_device="CPU"))
    plan = api.make_plan(options(pi_site, tmp_path / "out", target="host-cpu-openvino", runtime_device="NPU"))
    assert plan.target.provider == "NPU"


def test_few_pictures_are_all_taken_and_many_evenly() -> None:
    pictures: Any = list(range(10))
    assert spread(pictures, 10) == pictures
    assert spread(pictures, 4) == [0, 3, 6, 9]
