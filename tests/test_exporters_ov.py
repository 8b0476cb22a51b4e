"""OpenVINO: the precision and the device that are really used, read back and never taken on trust."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from int8_models import LAYERS, calibration, pictures, run, small_net

pytest.importorskip("openvino")

from taco.device import openvino_session
from taco.device.opening import open_session
from taco.device.openvino_session import OvSession
from taco.device.wire import DeviceError
from taco.errors import MeasurementError, TargetError
from taco.exporters import ov
from taco.exporters.layers import Graph
from taco.exporters.mixed import quantise
from taco.exporters.ov import EXPORTER, _Backend
from taco.exporters.protocol import Compressed, RunOptions
from taco.exporters.scheme import Scheme
from taco.targets.loading import load_target

HOST = dataclasses.replace(load_target("host-cpu"), runtime="ov", provider="CPU")
ON_CPU = RunOptions(1, "CPU")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    onnx.save(small_net(), tmp_path / "small.onnx")
    return tmp_path / "small.onnx"


def test_it_computes_what_onnx_runtime_computes(small: Path) -> None:
    session = EXPORTER.open(small, ON_CPU)
    assert session.provider == "CPU"
    assert session.runtime_version[0].isdigit()
    for picture in pictures(3):
        np.testing.assert_allclose(session.run(picture), run(small_net(), picture)[0], rtol=1e-4, atol=1e-5)


def test_each_answer_is_an_array_of_its_own(small: Path) -> None:
    session = EXPORTER.open(small, ON_CPU)
    one, other = (session.run(picture) for picture in pictures(2))
    assert not np.array_equal(one, other)


def test_the_precision_is_pinned_and_read_back(small: Path) -> None:
    told = OvSession(str(small), 1).describe()
    assert told["inference_precision_hint"] == "f32"
    assert told["inference_num_threads"] == 1
    assert told["providers"] == ["CPU"]
    assert set(told["realised"]) <= {"Convolution f32", "FullyConnected f32", "MatMul f32"}
    assert told["realised"]["Convolution f32"] == 3
    seen = _Backend(ON_CPU).profile(small, Graph(small_net()))
    assert set(seen) == set(LAYERS)
    assert not any(layer.int8 for layer in seen.values())


def test_int8_is_realised_layer_by_layer(small: Path) -> None:
    proto = small_net()
    made, facts = quantise(proto, Scheme(False, 7, False), calibration(proto), _Backend(ON_CPU))
    small.write_bytes(made.SerializeToString())
    realised = OvSession(str(small), 1).describe()["realised"]
    in_int8 = sum(n for kind, n in realised.items() if kind.endswith((" u8", " i8")))
    assert in_int8 == facts.quantised >= 3, "no layer is called INT8 that is none; with AVX-512 two go back"
    assert facts.saved_in == "ms"
    profile = _Backend(ON_CPU).profile(small, Graph(proto))
    assert {name for name, layer in profile.items() if layer.int8} == set(LAYERS) - {p.layer for p in facts.put_back}


def test_the_callers_arithmetic_is_left_alone(small: Path) -> None:
    session = EXPORTER.open(small, ON_CPU)
    session.run(next(pictures(1)))
    assert np.float64(5e-324) / 1 > 0, "denormal numbers are not flushed in this thread"
    assert (np.array([1e-310]) * 0.5)[0] > 0


def test_a_device_that_is_not_there_is_said(small: Path) -> None:
    with pytest.raises(MeasurementError, match=r"has no GPU; it has CPU") as caught:
        EXPORTER.open(small, RunOptions(1, "GPU"))
    assert caught.value.exit_code == 5


def test_another_device_than_asked_is_no_answer(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_session, "_require_device", lambda *_: None)
    with pytest.raises(DeviceError, match="AUTO was asked for but OpenVINO would use CPU"):
        OvSession(str(small), 1, "AUTO")


def test_half_precision_that_nobody_asked_for_is_refused(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = {"name": "conv", "kind": "Convolution", "precision": "bf16", "nodes": []}
    monkeypatch.setattr(openvino_session, "_layers", lambda _: [layer])
    with pytest.raises(DeviceError, match="would run 1 layers on CPU in half precision, 'conv' first"):
        OvSession(str(small), 1)


def test_a_missing_and_a_damaged_file(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(b"not onnx")
    for path in (tmp_path / "none.onnx", damaged):
        with pytest.raises(MeasurementError, match=path.name):
            EXPORTER.open(path, ON_CPU)


def test_an_input_of_another_shape_is_a_measurement_error(small: Path) -> None:
    with pytest.raises(MeasurementError, match="cannot run the model"):
        EXPORTER.open(small, ON_CPU).run(np.zeros((1, 3, 4, 4), np.float32))


def test_a_missing_runtime_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ov, "find_spec", lambda name: None)
    assert EXPORTER.check(HOST) == ["openvino is not installed"]
    assert len(EXPORTER.check(dataclasses.replace(HOST, local=False))) == 2


def test_int8_without_pictures_is_refused(tmp_path: Path) -> None:
    from torch import nn

    module = nn.Sequential(nn.Conv2d(3, 2, 8), nn.Flatten())
    with pytest.raises(TargetError, match="no pictures to find its ranges on"):
        EXPORTER.export(Compressed(module, (3, 8, 8)), dataclasses.replace(HOST, precision="int8"), tmp_path / "m.onnx")


def test_q_and_dq_are_not_simulated_by_openvino(small: Path) -> None:
    with pytest.raises(MeasurementError, match="does not run Q/DQ in floats"):
        EXPORTER.open(small, RunOptions(1, "CPU", simulate=True))


def test_the_provider_names_the_runtime(small: Path) -> None:
    assert open_session(str(small), 1, "CPU").runtime_name == "openvino"
    assert open_session(str(small), 1, "CPUExecutionProvider").runtime_name == "onnxruntime"
    with pytest.raises(DeviceError, match="there is no provider 'AUTO'"):
        open_session(str(small), 1, "AUTO")
