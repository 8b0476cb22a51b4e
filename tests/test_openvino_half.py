"""Floats of 16 bits under OpenVINO: named by the file itself, read back, kept only where they are faster."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny_run
from int8_models import pictures, run, small_net
from torch import nn

pytest.importorskip("openvino")

from taco import api
from taco.bundle import Bundle
from taco.device import openvino_session
from taco.device.openvino_session import PRECISION_KEY, OvSession
from taco.device.probe import probe
from taco.device.wire import DeviceError
from taco.errors import TargetError
from taco.exporters.ov import EXPORTER
from taco.exporters.protocol import Artifact, Compressed, RunOptions
from taco.predict import predict
from taco.search.bench import Bench
from taco.targets.loading import FOLDER, load_target, read_target
from taco.timing.timings import BenchResult, ModelTiming
from taco.verify import verify

TARGET = load_target("host-cpu-openvino-bf16")
HAS_BF16 = bool({"avx512_bf16", "amx_bf16"} & set(probe()["isa"]))
with_bf16 = pytest.mark.skipif(not HAS_BF16, reason="this processor has no bf16")


@pytest.fixture
def marked(tmp_path: Path) -> Artifact:
    onnx.save(small_net(), tmp_path / "fp32.onnx")
    model = Compressed(nn.Identity(), (3, 32, 32), fp32=tmp_path / "fp32.onnx")
    return EXPORTER.export(model, TARGET, tmp_path / "bf16.onnx")


def as_if_realised(patch: pytest.MonkeyPatch, precision: str) -> None:
    layer = {"name": "conv", "kind": "Convolution", "precision": precision, "nodes": []}
    patch.setattr(openvino_session, "_layers", lambda _: [layer])


def test_the_file_names_its_floats_and_holds_those_of_fp32(marked: Artifact) -> None:
    assert marked.precision == "bf16"
    proto = onnx.load(marked.path)
    assert {p.key: p.value for p in proto.metadata_props}[PRECISION_KEY] == "bf16"
    picture = next(iter(pictures(1)))
    np.testing.assert_array_equal(run(proto, picture)[0], run(small_net(), picture)[0])


@with_bf16
def test_whoever_opens_it_computes_in_bf16(marked: Artifact) -> None:
    told = OvSession(str(marked.path), 1).describe()
    assert told["inference_precision_hint"] == "bf16"
    assert told["realised"]["Convolution bf16"] >= 1
    picture = next(iter(pictures(1)))
    expected, got = run(small_net(), picture)[0], EXPORTER.open(marked.path, RunOptions(1, "CPU")).run(picture)
    difference = np.abs(got - expected).max()
    assert 0 < difference < 0.05 * np.abs(expected).max()


def test_a_processor_without_it_is_refused(marked: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    as_if_realised(monkeypatch, "f32")
    with pytest.raises(DeviceError, match="asks for bf16, which this CPU does not compute in: OpenVINO would take f32"):
        OvSession(str(marked.path), 1)


def test_another_half_than_the_files_is_refused(marked: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    as_if_realised(monkeypatch, "f16")
    with pytest.raises(DeviceError, match="would run 1 layers on CPU in half precision"):
        OvSession(str(marked.path), 1)


def test_a_mark_that_is_not_known_means_f32(marked: Artifact) -> None:
    proto = onnx.load(marked.path)
    proto.metadata_props[0].value = "f4"
    onnx.save(proto, marked.path)
    assert OvSession(str(marked.path), 1).describe()["inference_precision_hint"] == "f32"


def is_half(file: Path) -> bool:
    return any(entry.key == PRECISION_KEY for entry in onnx.load(file).metadata_props)


REALISED = {"realised": {"Convolution bf16": 4}}


class Clock:
    """Stands in for the device: fp32 takes 2 ms, bf16 what it is told."""

    def __init__(self, half_ms: float) -> None:
        self.half_ms, self.calls = half_ms, list[list[str]]()

    def __call__(self, bench: Bench, models: Mapping[str, Path], rounds: int | None = None) -> BenchResult:
        self.calls.append(list(models))
        timings = {
            name: ModelTiming(
                ((self.half_ms if is_half(path) else 2.0,) * 3,) * 8, "CPU", "fake", "0", 1.0, REALISED
            )
            for name, path in models.items()
        }  # fmt: skip
        return BenchResult(timings, threads=1, rounds=8, stopped_early=False, measured_on={"machine": "fake"})


def export(task: Path, out: Path, clock: Clock, patch: pytest.MonkeyPatch, **more: Any) -> api.ExportResult:
    patch.setattr(Bench, "time", lambda self, models, rounds=None: clock(self, models, rounds))
    return api.export(tiny_run.options(task, out, target=TARGET.name, threads=1, **more))


@with_bf16
def test_it_is_shipped_where_it_is_faster(pi_site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(1.0)
    result = export(pi_site, tmp_path / "out", clock, monkeypatch)
    report, bundle = result.report, Bundle(result.folder)
    assert is_half(bundle.model_path)
    assert report.runtime.precision == bundle.manifest.precision == "bf16"
    assert report.precision is None, "no INT8 was asked for"
    assert report.half is not None
    assert (report.half.asked, report.half.used, report.half.given_up) == ("bf16", "bf16", None)
    assert report.half.faster_than_fp32 == pytest.approx((2.0, 2.0, 2.0))
    assert report.half.realised == {"Convolution bf16": 4}
    assert clock.calls[-1] == ["dense", "compressed", "baseline_fp32", "compressed_fp32"]
    assert report.baseline_fp32_ms is not None
    assert report.baseline_fp32_ms.p50 == 2.0
    gates = {gate.name: gate.passed for gate in report.gates}
    assert gates["fp32 file against torch"]
    assert gates["BF16 logits against torch"]
    assert all(answer.label for answer in predict(bundle, sorted(pi_site.rglob("*.png"))[:3], 1))
    assert all(gate.passed is not False for gate in verify(result.folder))
    assert "Floats of 16 bits (bf16)" in (result.folder / "report.html").read_text()


def test_it_is_given_up_where_it_is_slower(pi_site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = export(pi_site, tmp_path / "out", Clock(2.5), monkeypatch)
    report = result.report
    assert not is_half(Bundle(result.folder).model_path)
    assert report.runtime.precision == "fp32"
    assert report.half is not None
    assert report.half.used == "fp32"
    why = "bf16 is slower than fp32 here: of the dense model fp32 takes 0.80 of the bf16 time (0.80 to 0.80)"
    assert report.half.given_up == why
    assert f"bf16 was given up: {why}" in report.warnings
    assert "asked for and given up" in (result.folder / "report.md").read_text()


def source() -> str:
    return (FOLDER / f"{TARGET.name}.toml").read_text().replace(TARGET.name, "mine")


@pytest.mark.parametrize(("runtime", "provider"), [("ort", "CPUExecutionProvider"), ("trt", "TensorRT")])
def test_bf16_is_openvinos(runtime: str, provider: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(source().replace('"ov"', f'"{runtime}"').replace('"CPU"', f'"{provider}"'))
    with pytest.raises(TargetError, match="precision: "):
        read_target(file)


def test_what_is_elsewhere_cannot_be_judged_in_it(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(source().replace("local = true", "local = false"))
    with pytest.raises(TargetError, match="for OpenVINO on this very machine"):
        read_target(file)
