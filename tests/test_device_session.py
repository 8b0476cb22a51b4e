"""Tests of `taco.device.session`, on real ONNX Runtime sessions and on a made-up runtime that falls back silently."""

import subprocess
import sys
import types

import numpy as np
import pytest
from device_models import write_conv, write_sum
from onnx import TensorProto

from taco.device.session import DENORMAL_KEY, OrtSession, fixed_input, import_runtime, runtime_errors
from taco.device.wire import DeviceError


@pytest.fixture
def model(tmp_path):
    return str(write_conv(tmp_path / "m.onnx", width=4))


def test_a_session_says_what_it_holds(model):
    session = OrtSession(model, threads=1)
    assert (session.input_name, session.input_shape, session.input_dtype) == ("x", (1, 3, 16, 16), "float32")
    assert session.output_name == "y"
    assert session.provider == "CPUExecutionProvider"
    assert session.runtime_version == import_runtime().__version__


@pytest.mark.parametrize("threads", [1, 2])
def test_the_options_are_the_ones_asked_for_as_the_runtime_reports_them(model, threads):
    described = OrtSession(model, threads=threads).describe()
    assert described["intra_op_num_threads"] == threads
    assert described["inter_op_num_threads"] == 1
    assert described[DENORMAL_KEY] == "1"
    assert described["execution_mode"] == "ORT_SEQUENTIAL"
    assert described["graph_optimization_level"] == "ORT_ENABLE_ALL"
    assert described["providers"] == ["CPUExecutionProvider"]


def test_running_gives_the_convolution(tmp_path):
    session = OrtSession(str(write_conv(tmp_path / "m.onnx", width=4)), threads=1)
    zeros = np.zeros((1, 3, 16, 16), np.float32)
    assert session.run(zeros).shape == (1, 4, 16, 16)
    assert not session.run(zeros).any()
    assert session.run(zeros + 1)[0, 0, 5, 5] > 0


def test_an_array_of_another_shape_is_a_device_error(model):
    with pytest.raises(DeviceError, match="cannot run the model"):
        OrtSession(model, threads=1).run(np.zeros((1, 3, 8, 8), np.float32))


def test_the_fixed_input_depends_on_the_seed_only(model):
    session = OrtSession(model, threads=1)
    first = fixed_input(session, seed=3)
    assert first.dtype == np.float32
    assert first.shape == (1, 3, 16, 16)
    np.testing.assert_array_equal(first, fixed_input(session, seed=3))
    assert not np.array_equal(first, fixed_input(session, seed=4))


def test_a_free_batch_becomes_one(tmp_path):
    session = OrtSession(str(write_conv(tmp_path / "m.onnx", shape=("batch", 3, 16, 16))), threads=1)
    assert session.input_shape == (None, 3, 16, 16)
    assert fixed_input(session, seed=0).shape == (1, 3, 16, 16)


def test_a_free_picture_size_is_refused(tmp_path):
    session = OrtSession(str(write_conv(tmp_path / "m.onnx", shape=(1, 3, "h", "w"))), threads=1)
    with pytest.raises(DeviceError, match=r"'x' has free dimensions") as caught:
        fixed_input(session, seed=0)
    assert "fixed picture size" in caught.value.todo


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DeviceError, match=r"no model file .*gone\.onnx"):
        OrtSession(str(tmp_path / "gone.onnx"), threads=1)


def test_a_file_that_is_no_model_is_named(tmp_path):
    path = tmp_path / "noise.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(DeviceError, match=r"cannot open .*noise\.onnx"):
        OrtSession(str(path), threads=1)


def test_two_inputs_are_refused(tmp_path):
    with pytest.raises(
        DeviceError, match=r"one float32 input, or one of uint8 pixels; it has 'a' tensor\(float\), 'b'"
    ):
        OrtSession(str(write_sum(tmp_path / "sum.onnx")), threads=1)


def test_another_input_type_is_refused(tmp_path):
    path = write_conv(tmp_path / "half.onnx", dtype=TensorProto.FLOAT16)
    with pytest.raises(DeviceError, match=r"tensor\(float16\)"):
        OrtSession(str(path), threads=1)


def test_a_provider_that_the_build_lacks_is_refused(model):
    with pytest.raises(DeviceError, match=r"has no CUDAExecutionProvider; it has .*CPUExecutionProvider"):
        OrtSession(model, threads=1, provider="CUDAExecutionProvider")


def fake_runtime(providers):
    """A build that lists CUDA, whose sessions nevertheless use `providers`."""
    inputs = [types.SimpleNamespace(name="x", type="tensor(float)", shape=[1, 3])]
    session = types.SimpleNamespace(
        get_providers=lambda: providers,
        get_inputs=lambda: inputs,
        get_outputs=lambda: [types.SimpleNamespace(name="y")],
        disable_fallback=lambda: None,
    )
    return types.SimpleNamespace(
        __version__="1.16.3",
        capi=types.SimpleNamespace(onnxruntime_pybind11_state=types.SimpleNamespace()),
        get_available_providers=lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
        SessionOptions=lambda: types.SimpleNamespace(add_session_config_entry=lambda key, value: None),
        ExecutionMode=types.SimpleNamespace(ORT_SEQUENTIAL=0),
        GraphOptimizationLevel=types.SimpleNamespace(ORT_ENABLE_ALL=99),
        InferenceSession=lambda path, sess_options, providers: session,
    )


def test_a_silent_fall_back_to_the_cpu_is_an_error(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", fake_runtime(["CPUExecutionProvider"]))
    with pytest.raises(DeviceError, match=r"CUDAExecutionProvider was asked for but .* would use CPUExecutionProvider"):
        OrtSession(model, threads=1, provider="CUDAExecutionProvider")


def test_the_cpu_behind_the_asked_provider_is_no_fall_back(model, monkeypatch):
    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setitem(sys.modules, "onnxruntime", fake_runtime(both))
    session = OrtSession(model, threads=1, provider="CUDAExecutionProvider")
    assert session.provider == "CUDAExecutionProvider"
    assert session.providers == both


def test_a_missing_runtime_says_how_to_install_it(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(DeviceError, match="cannot be imported") as caught:
        OrtSession(model, threads=1)
    assert caught.value.todo.endswith("-m pip install onnxruntime")


def test_the_runtime_s_own_errors_are_found():
    names = {kind.__name__ for kind in runtime_errors(import_runtime())}
    assert {"RuntimeError", "ValueError", "InvalidArgument", "InvalidGraph", "NoSuchFile"} <= names


DENORMAL_SURVIVES = (
    "import sys, numpy as np; from taco.device.session import OrtSession;"
    "session = OrtSession(sys.argv[1], 1, flush_caller=sys.argv[2] == 'True');"
    "print(bool((np.array([1e-39], np.float32) * np.float32(0.5))[0]))"
)


@pytest.mark.parametrize("flush", [True, False])
def test_the_caller_s_own_arithmetic_is_changed_only_when_it_says_so(model, flush):
    argv = [sys.executable, "-W", "ignore", "-c", DENORMAL_SURVIVES, model, str(flush)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(not flush)
