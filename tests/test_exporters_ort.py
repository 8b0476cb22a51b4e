"""ONNX Runtime's exporter: what it asks of the machine, and errors that are this side's."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from device_models import write_conv, write_sum
from int8_models import pictures, small_net
from torch import nn

from taco.errors import MeasurementError, TargetError
from taco.exporters import ort
from taco.exporters.layers import Graph
from taco.exporters.loading import load_exporter
from taco.exporters.ort import EXPORTER, _Backend
from taco.exporters.protocol import Artifact, Calibration, Compressed, Reference, RunOptions
from taco.targets.loading import Target, load_target

HOST, PI = load_target("host-cpu"), load_target("raspberry-pi-5")


def test_the_host_can_run_its_own_models() -> None:
    assert EXPORTER.check(HOST) == []


def test_another_device_is_missing_and_named() -> None:
    assert EXPORTER.check(PI) == ["this machine is not a raspberry-pi-5"]


def test_a_missing_runtime_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "find_spec", lambda name: None)
    assert EXPORTER.check(HOST) == ["onnxruntime is not installed"]
    assert len(EXPORTER.check(PI)) == 2


def test_it_writes_a_file_that_it_opens_and_runs(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 2, 8), nn.Flatten())
    artifact = EXPORTER.export(Compressed(module, (3, 8, 8)), HOST, tmp_path / "m.onnx")
    session = EXPORTER.open(artifact.path, RunOptions(threads=1))
    assert session.provider == "CPUExecutionProvider"
    assert session.runtime_version == onnxruntime.__version__
    logits = session.run(np.zeros((1, 3, 8, 8), np.float32))
    np.testing.assert_allclose(logits, module[0].bias.detach().numpy()[None], rtol=1e-6)


def test_a_precision_that_is_not_built_is_refused_with_the_cure(tmp_path: Path) -> None:
    target = dataclasses.replace(HOST, precision="fp16")
    with pytest.raises(TargetError, match=r'host-cpu asks ONNX Runtime for fp16.*precision = "fp32"'):
        EXPORTER.export(Compressed(nn.Identity(), (3, 8, 8)), target, tmp_path / "m.onnx")


def torch_net() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(16, 4)).eval()


def to_int8(target: Target, out: Path) -> Artifact:
    module = torch_net()
    shown = [p[:, :, :12, :12] for p in pictures(8)]
    with torch.no_grad():
        logits = torch.cat([module(torch.from_numpy(p)) for p in shown]).numpy()
    reference = Reference(lambda: shown, logits.argmax(1), logits)
    model = Compressed(module, (3, 12, 12), Calibration(lambda: shown, reference))
    return load_exporter(target.runtime).export(model, target, out)


def test_int8_runs_on_integers_here(tmp_path: Path) -> None:
    artifact = to_int8(dataclasses.replace(HOST, precision="int8"), tmp_path / "m.onnx")
    assert artifact.precision == "int8"
    assert artifact.quantisation is not None
    assert artifact.quantisation.quantised == artifact.quantisation.layers == 3
    assert artifact.quantisation.saved_in == "ms"
    graph = Graph(onnx.load(small_file(tmp_path)))
    seen = _Backend(RunOptions(1)).profile(small_file(tmp_path), graph)
    assert set(seen) == {layer.name for layer in graph.layers}
    assert not any(layer.int8 for layer in seen.values())
    assert all(layer.ms > 0 for layer in seen.values())


def small_file(folder: Path) -> Path:
    onnx.save(small_net(), folder / "small.onnx")
    return folder / "small.onnx"


def test_int8_for_another_device_is_chosen_without_its_kernels(tmp_path: Path) -> None:
    target = dataclasses.replace(PI, precision="int8", isa="arm")
    artifact = to_int8(target, tmp_path / "m.onnx")
    assert artifact.quantisation is not None
    assert artifact.quantisation.scheme == "S8S8, 8-bit weights"
    assert artifact.quantisation.saved_in == "multiply-accumulates"
    simulated = EXPORTER.open(artifact.path, RunOptions(1, simulate=True))
    picture = next(pictures(1))[:, :, :12, :12]
    expected = torch_net()(torch.from_numpy(picture)).detach().numpy()
    assert np.abs(simulated.run(picture) - expected).max() < 0.05 * np.abs(expected).max()


def test_int8_without_pictures_is_refused(tmp_path: Path) -> None:
    target = dataclasses.replace(HOST, precision="int8")
    with pytest.raises(TargetError, match="no pictures to find its ranges"):
        EXPORTER.export(Compressed(torch_net(), (3, 12, 12)), target, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_provider_that_is_not_there_is_a_measurement_error(tmp_path: Path) -> None:
    path = write_conv(tmp_path / "m.onnx")
    with pytest.raises(MeasurementError, match="has no TensorrtExecutionProvider") as caught:
        EXPORTER.open(path, RunOptions(1, "TensorrtExecutionProvider"))
    assert "Ask for one of those" in caught.value.todo
    assert caught.value.exit_code == 5


def test_a_silent_fall_back_is_a_measurement_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_conv(tmp_path / "m.onnx")
    monkeypatch.setattr(onnxruntime.InferenceSession, "get_providers", lambda self: ["AzureExecutionProvider"])
    with pytest.raises(MeasurementError, match=r"CPUExecutionProvider was asked for but .* would use Azure"):
        EXPORTER.open(path, RunOptions(1))


def test_a_missing_a_damaged_and_a_foreign_file_are_measurement_errors(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(b"not onnx")
    for path in (tmp_path / "none.onnx", damaged, write_sum(tmp_path / "sum.onnx")):
        with pytest.raises(MeasurementError, match=path.name):
            EXPORTER.open(path, RunOptions(1))


def test_an_input_of_another_shape_is_a_measurement_error(tmp_path: Path) -> None:
    session = EXPORTER.open(write_conv(tmp_path / "m.onnx"), RunOptions(1))
    with pytest.raises(MeasurementError, match="cannot run the model"):
        session.run(np.zeros((1, 3, 4, 4), np.float32))
