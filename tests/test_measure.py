"""Tests of `taco.timing.measure`: the real agent through the local transport, and scripted devices that misbehave."""

import copy
import hashlib
import io
import json
import sys

import pytest
from device_models import write_conv

from taco.device import wire
from taco.errors import InputError, MeasurementError
from taco.timing.measure import MeasureOptions, measure
from taco.transport import Completed, FakeTransport, LocalTransport

QUICK = MeasureOptions(threads=1, rounds=6, round_ms=2)
PROBE = {
    "machine": "aarch64",
    "board": "Raspberry Pi 5",
    "processor": "Cortex-A76",
    "cores_physical": 4,
    "os": "Debian",
    "memory_total_mib": 8062,
    "isa": ["asimd", "asimddp"],
    "telemetry": {
        "governor": "ondemand",
        "clocks_mhz": [1500.0, 2400.0],
        "temperatures_c": {"cpu": 48.9},
        "load_average": [0.1, 0.2, 0.3],
        "throttled": {"raspberry_pi_flags": "0"},
    },
}
MODEL = {
    "rounds_ms": [[2.0, 3.0], [2.0]],
    "provider": "CPUExecutionProvider",
    "runtime": {"name": "onnxruntime", "version": "1.20"},
    "session": {"intra_op_num_threads": 4},
    "cold_ms": 30.0,
    "open_ms": 100.0,
}
ANSWER = {
    "models": {"dense": MODEL},
    "threads": 4,
    "rounds": 2,
    "stopped_early": False,
    "probe_before": PROBE,
    "probe_after": {},
}


def said(payload, code=0, noise=""):
    stream = io.StringIO()
    wire.emit(payload, stream)
    return Completed(code, noise + stream.getvalue(), "")


NOTHING_THERE = said({"files": {}})


@pytest.fixture
def dense(tmp_path):
    return write_conv(tmp_path / "dense.onnx", width=256)


def test_real_models_are_measured_through_the_packed_agent(tmp_path, dense):
    light = write_conv(tmp_path / '-it\'s\na "light" one.onnx', width=2)
    local = LocalTransport(tmp_path / "work")
    result = measure(local, {"dense": dense, "compressed": light}, QUICK)
    assert (result.rounds, result.threads, result.stopped_early) == (6, 1, False)
    assert result.models["dense"].provider == "CPUExecutionProvider"
    assert result.models["dense"].session["intra_op_num_threads"] == 1
    ratio = result.speedup("dense", "compressed")
    assert len(ratio.rounds) == 6
    assert ratio.value > 1
    assert ratio.low <= ratio.value <= ratio.high
    assert result.measured_on["machine"]


def test_models_are_named_by_content_and_not_sent_twice(tmp_path, dense):
    class Counting(LocalTransport):
        sent: list = []  # noqa: RUF012 - one test, one class

        def put(self, source, destination):
            self.sent.append(destination)
            super().put(source, destination)

    local = Counting(tmp_path / "work")
    name = hashlib.sha256(dense.read_bytes()).hexdigest() + ".onnx"
    measure(local, {"dense": dense, "again": dense}, MeasureOptions(threads=1, rounds=1, round_ms=1))
    measure(local, {"dense": dense}, MeasureOptions(threads=1, rounds=1, round_ms=1))
    assert local.sent.count(name) <= 2
    sent = len([item for item in local.sent if item == name])
    (local.root / name).write_bytes(b"damaged on the way")
    measure(local, {"dense": dense}, MeasureOptions(threads=1, rounds=1, round_ms=1))
    assert local.sent.count(name) == sent + 1


def test_a_provider_that_is_not_there_is_a_measurement_error(tmp_path, dense):
    options = MeasureOptions(threads=1, provider="CUDAExecutionProvider")
    with pytest.raises(
        MeasurementError, match=r"model 'dense': this ONNX Runtime .* has no CUDAExecutionProvider"
    ) as caught:
        measure(LocalTransport(tmp_path / "work"), {"dense": dense}, options)
    assert "install a build" in caught.value.todo


def test_a_model_that_cannot_be_opened_is_a_measurement_error(tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"rubbish")
    with pytest.raises(MeasurementError, match=r"model 'dense': .* cannot open"):
        measure(LocalTransport(tmp_path / "work"), {"dense": broken}, QUICK)


def test_a_model_that_is_not_there_is_an_input_error_and_asks_the_device_nothing(tmp_path):
    fake = FakeTransport()
    with pytest.raises(InputError, match=r"gone\.onnx cannot be read: No such file"):
        measure(fake, {"dense": tmp_path / "gone.onnx"}, QUICK)
    assert fake.calls == []


def test_the_request_says_what_was_asked(dense):
    fake = FakeTransport([NOTHING_THERE, said(ANSWER)])
    options = MeasureOptions(None, 2, 5.0, 7.0, "XExecutionProvider", 3, "/usr/bin/python3", {"dense": "CPU"})
    measure(fake, {"dense": dense}, options)
    hashing, timing = fake.calls
    assert hashing[:2] == timing[:2] == ("/usr/bin/python3", "-I")
    assert hashing[3] == "hash"
    assert timing[3] == "bench"
    assert json.loads(fake.files[timing[4]]) == {
        "models": {"dense": hashing[4]},
        "threads": None,
        "rounds": 2,
        "round_ms": 5.0,
        "max_seconds": 7.0,
        "provider": "XExecutionProvider",
        "providers": {"dense": "CPU"},
        "seed": 3,
    }
    assert fake.files[hashing[4]] == dense.read_bytes()
    assert fake.timeouts_s[1] > 7.0


def test_rounds_that_go_on_are_asked_for_together(dense):
    fake = FakeTransport([NOTHING_THERE, said(ANSWER)])
    measure(fake, {"dense": dense}, MeasureOptions(rounds=2, steady=0.05, most_rounds=6))
    asked = json.loads(fake.files[fake.calls[1][4]])
    assert (asked["rounds"], asked["steady"], asked["most_rounds"]) == (2, 0.05, 6)
    assert not {"steady_s", "least_iterations"} & set(asked)


def test_a_limit_of_what_goes_on_and_runs_in_a_round_are_asked_for(dense):
    fake = FakeTransport([NOTHING_THERE, said(ANSWER)])
    measure(fake, {"dense": dense}, MeasureOptions(steady=0.05, most_rounds=6, steady_s=0.0, least_iterations=1))
    asked = json.loads(fake.files[fake.calls[1][4]])
    assert (asked["steady_s"], asked["least_iterations"]) == (0.0, 1)


def test_a_model_that_the_device_holds_is_not_sent(dense):
    name = hashlib.sha256(dense.read_bytes()).hexdigest() + ".onnx"
    fake = FakeTransport([said({"files": {name: name.removesuffix(".onnx")}}), said(ANSWER)])
    measure(fake, {"dense": dense}, QUICK)
    assert name not in fake.files


def test_this_interpreter_is_the_default():
    assert MeasureOptions().python == sys.executable


def test_the_answer_becomes_times_and_words(dense):
    fake = FakeTransport([NOTHING_THERE, said(ANSWER, noise="Welcome to Debian\nwarning: ")])
    result = measure(fake, {"dense": dense}, QUICK)
    timing = result.models["dense"]
    assert timing.rounds_ms == ((2.0, 3.0), (2.0,))
    assert (timing.runtime_name, timing.runtime_version, timing.cold_ms) == ("onnxruntime", "1.20", 30.0)
    words = result.measured_on
    assert words["board"] == "Raspberry Pi 5"
    assert words["cores"] == "4"
    assert words["memory"] == "8062 MiB"
    assert words["instructions"] == "asimd asimddp"
    assert words["clocks before"] == "1500-2400 MHz"
    assert words["temperatures before"] == "cpu 48.9 °C"
    assert words["governor before"] == "ondemand"
    assert words["throttling before"] == "raspberry_pi_flags 0"
    assert words["kernel"] == words["governor after"] == words["temperatures after"] == words["load after"] == "unknown"
    assert all(isinstance(value, str) for value in words.values())


def test_power_at_rest_is_that_of_the_pauses_and_not_of_the_start(dense):
    starting = {**PROBE, "telemetry": {**PROBE["telemetry"], "power_w": {"pmic rails": 5.0}}}
    for rest, told in (({"rest_w": {"pmic rails": 2.5}}, 2.5), ({}, None)):
        answer = said(altered(probe_before=starting, **rest))
        result = measure(FakeTransport([NOTHING_THERE, answer]), {"dense": dense}, QUICK)
        assert result.rest_w.get("pmic rails") == told
        assert result.measured_on["power before"] == "pmic rails 5.0 W"


def altered(**changes):
    return {**copy.deepcopy(ANSWER), **changes}


def with_model(**changes):
    return altered(models={"dense": {**MODEL, **changes}})


BAD = {
    "no-models": (altered(models={}), "instead of"),
    "other-model": (altered(models={"other": MODEL}), "instead of"),
    "no-rounds": (with_model(rounds_ms=[]), "models.dense.rounds_ms"),
    "empty-round": (with_model(rounds_ms=[[1.0], []]), "models.dense.rounds_ms.1"),
    "zero": (with_model(rounds_ms=[[0.0], [1.0]]), "models.dense.rounds_ms.0.0"),
    "negative": (with_model(rounds_ms=[[-1.0], [1.0]]), "models.dense.rounds_ms.0.0"),
    "text": (with_model(rounds_ms=[["fast"], [1.0]]), "models.dense.rounds_ms.0.0"),
    "fewer-rounds": (with_model(rounds_ms=[[1.0]]), "unequal numbers of rounds"),
    "no-runtime": (with_model(runtime={}), "models.dense.runtime.name"),
    "no-threads": ({key: value for key, value in ANSWER.items() if key != "threads"}, "threads"),
}


@pytest.mark.parametrize(("answer", "words"), BAD.values(), ids=BAD.keys())
def test_an_answer_that_is_not_understood_is_never_taken_for_a_time(dense, answer, words):
    with pytest.raises(MeasurementError) as caught:
        measure(FakeTransport([NOTHING_THERE, said(answer)]), {"dense": dense}, QUICK)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("completed", "words"),
    [
        (Completed(127, "", "python3: not found"), "exit code 127 .* python3: not found"),
        (Completed(-9, "", ""), "exit code -9 .* nothing"),
        (Completed(0, "hello", ""), "it said: hello"),
        (said({"files": {}}, code=1), "exit code 1"),
        (said({"error": {"what": "it is on fire", "todo": "Run."}}, code=5), r"^it is on fire\. Run\.$"),
        (said({"error": "broken"}, code=5), "broken"),
    ],
    ids=["not-found", "killed", "noise", "answer-but-failed", "error", "odd-error"],
)
def test_a_device_that_fails_says_why(dense, completed, words):
    with pytest.raises(MeasurementError, match=words):
        measure(FakeTransport([completed]), {"dense": dense}, QUICK)


def test_a_timeout_of_the_transport_is_passed_on(dense):
    late = MeasurementError("python3 did not end within 3 s and was stopped")
    with pytest.raises(MeasurementError, match="did not end"):
        measure(FakeTransport([NOTHING_THERE, late]), {"dense": dense}, QUICK)
