"""Tests of `taco.device.bench`: the protocol on made-up workers, then real models in real processes."""

import itertools
import os
import time
from pathlib import Path

import pytest
from device_models import children_of, write_conv
from hypothesis import given
from hypothesis import strategies as st

from taco.device import bench as bench_module
from taco.device.bench import bench, iterations_for, round_order
from taco.device.child import WorkerProcess, worker_argv
from taco.device.processors import chosen_for
from taco.device.wire import DeviceError, RequestError


class FakeWorkers:
    """Stands in for `WorkerProcess`: answers at once, records what was asked of whom."""

    def __init__(self, run_ms, broken=None):
        self.run_ms, self.broken = run_ms, broken
        self.log, self.killed = [], []
        self.running, self.ran_beside = set(), set()
        self.disturbed = {}  # model -> in how many turns, every other takes twice as long

    def __call__(self, name, argv):
        self.running.add(name)  # a process runs from its start
        return FakeWorker(self, name)

    def timed(self):
        """(model, command) of every timing after the pilot."""
        return [(name, command) for name, command in self.log if command["cmd"] == "time"][len(self.run_ms) :]


class FakeWorker:
    def __init__(self, all_workers, name):
        self.all, self.name = all_workers, name

    def pause(self):
        self.all.running.discard(self.name)

    def resume(self):
        self.all.running.add(self.name)

    def ask(self, command):
        self.all.log.append((self.name, command))
        self.all.ran_beside |= self.all.running - {self.name}
        if command["cmd"] == "open":
            return {"provider": command["provider"], "cold_ms": 9.0}
        if self.name == self.all.broken:
            raise DeviceError(f"the worker of model {self.name!r} died")
        time.sleep(0.001)
        left = self.all.disturbed[self.name] = self.all.disturbed.get(self.name, 0) - 1
        factor = 1 + (left > 0 and left % 2)
        return {"samples_ns": [int(factor * self.all.run_ms[self.name] * 1e6)] * command["iterations"]}

    def kill(self):
        self.all.killed.append(self.name)


@pytest.fixture
def workers(monkeypatch):
    def install(broken=None, **run_ms):
        fake = FakeWorkers(run_ms, broken)
        monkeypatch.setattr(bench_module, "WorkerProcess", fake)
        return fake

    return install


def request(*names, **options):
    return {"models": {name: f"/{name}.onnx" for name in names}, **options}


def test_models_alternate_and_the_order_rotates(workers):
    fake = workers(a=10, b=10, c=10)
    bench(request("a", "b", "c", rounds=4))
    assert "".join(name for name, _ in fake.timed()) == "abc" + "bca" + "cab" + "abc"


def test_only_the_model_whose_turn_it_is_runs(workers):
    fake = workers(a=10, b=10, c=10)
    bench(request("a", "b", "c", rounds=3))
    assert fake.ran_beside == set(), "idle runtimes spin and slow the model that is timed"


def test_every_round_warms_up_twice_and_lasts_about_as_long_as_asked(workers):
    fake = workers(fast=2, slow=50)
    bench(request("fast", "slow", rounds=2, round_ms=40))
    assert {command["warmup"] for _, command in fake.timed()} == {2}
    assert {name: command["iterations"] for name, command in fake.timed()} == {"fast": 20, "slow": 3}


def test_all_models_are_open_before_the_first_is_timed(workers):
    fake = workers(a=1, b=1)
    bench(request("a", "b", rounds=1))
    assert [(name, command["cmd"]) for name, command in fake.log[:2]] == [("a", "open"), ("b", "open")]
    assert all(command["cmd"] == "time" for _, command in fake.log[2:])


def test_the_request_reaches_the_workers(workers):
    fake = workers(a=1)
    bench(request("a", rounds=1, threads=3, provider="XExecutionProvider", seed=7))
    assert fake.log[0][1] == {
        "cmd": "open",
        "model": "/a.onnx",
        "threads": 3,
        "provider": "XExecutionProvider",
        "seed": 7,
        "cpus": chosen_for(3),
    }


def test_models_with_fewer_threads_than_there_are_cores_stay_on_the_same_ones(workers, monkeypatch):
    monkeypatch.setattr(bench_module, "chosen_for", lambda threads: [5] if threads == 1 else None)
    fake = workers(a=1, b=1)
    bench(request("a", "b", rounds=1, threads=1, sweep=[2]))
    assert [command["cpus"] for _, command in fake.log if command["cmd"] == "open"] == [[5], [5], None, None]


def test_the_machine_is_looked_at_right_after_the_rounds(workers, monkeypatch):
    fake = workers(a=10)
    monkeypatch.setattr(bench_module, "probe", lambda: {"commands": len(fake.log)})
    result = bench(request("a", rounds=2, idle_s=0.02, sustained_s=0.05, sweep=[2]))
    opened, pilot, rounds = 1, 1, 2
    assert result["probe_before"] == {"commands": 0}
    assert result["probe_after"] == {"commands": opened + pilot + rounds}
    assert (len(result["idle_ms"]), len(result["sustained"]), len(result["sweep"])) == (3, 1, 1)


@pytest.mark.parametrize(("idle_s", "told"), [(0.02, {"VDD_IN": 2.5}), (0.0, {})])
def test_power_at_rest_is_that_of_the_pauses(workers, monkeypatch, idle_s, told):
    workers(a=10)
    readings = itertools.chain([{"VDD_IN": 5.0}], itertools.repeat({"VDD_IN": 2.5}))
    monkeypatch.setattr(bench_module.board, "_ina3221", lambda _root: next(readings))
    result = bench(request("a", rounds=1, idle_s=idle_s))
    assert result["probe_before"]["telemetry"]["power_w"] == {"VDD_IN": 5.0}
    assert result["rest_w"] == told


def test_samples_are_milliseconds_by_round(workers):
    workers(a=10.5)
    result = bench(request("a", rounds=3, round_ms=40))
    assert result["models"]["a"]["rounds_ms"] == [[10.5] * 4] * 3
    assert result["models"]["a"]["cold_ms"] == 9.0
    assert (result["rounds"], result["stopped_early"]) == (3, False)


def test_too_little_time_stops_after_whole_rounds_and_says_so(workers):
    workers(a=1, b=1)
    result = bench(request("a", "b", rounds=100_000, max_seconds=0.05))
    assert 1 <= result["rounds"] < 1000
    assert result["stopped_early"]
    assert {len(model["rounds_ms"]) for model in result["models"].values()} == {result["rounds"]}


def test_one_round_is_always_done(workers):
    workers(a=1)
    assert bench(request("a", rounds=5, max_seconds=1e-6))["rounds"] == 1


@pytest.mark.parametrize(("disturbed", "rounds"), [(0, 6), (5, 12), (100, 18)])
def test_rounds_go_on_until_every_time_is_known_well_enough(workers, disturbed, rounds):
    workers(a=1, b=2).disturbed["b"] = disturbed
    found = bench(request("a", "b", rounds=6, steady=0.05, most_rounds=18))
    assert (found["rounds"], found["stopped_early"]) == (rounds, False)


def test_rounds_do_not_go_on_beyond_their_own_time(workers):
    workers(a=1, b=2).disturbed["b"] = 100
    found = bench(request("a", "b", rounds=6, steady=0.05, most_rounds=60, steady_s=1e-6))
    assert (found["rounds"], found["stopped_early"]) == (6, False), "the rounds that are asked for are always made"
    workers(a=1, b=2).disturbed["b"] = 1000
    some = bench(request("a", "b", rounds=6, steady=0.05, most_rounds=6000, steady_s=1.0))
    assert 6 < some["rounds"] < 6000
    assert some["rounds"] % 6 == 0


def test_a_short_round_may_hold_a_single_run(workers):
    fake = workers(fast=2, slow=50)
    bench(request("fast", "slow", rounds=2, round_ms=10, least_iterations=1))
    made = {name: (command["iterations"], command["warmup"]) for name, command in fake.timed()}
    assert made == {"fast": (5, 2), "slow": (1, 1)}, "a run that is longer than the round warms up once"


def test_nothing_goes_on_unless_it_is_asked_or_beyond_the_time(workers):
    workers(a=1)
    assert bench(request("a", rounds=3, most_rounds=30))["rounds"] == 3
    workers(a=1)
    assert bench(request("a", rounds=3, steady=0.1, most_rounds=30))["rounds"] == 3, "nothing to compare with"


def test_without_threads_every_physical_core_is_used(workers, monkeypatch):
    fake = workers(a=1)
    monkeypatch.setattr(bench_module, "physical_cores", lambda: 6)
    assert bench(request("a", rounds=1))["threads"] == 6
    assert fake.log[0][1]["threads"] == 6


def test_workers_are_killed_at_the_end(workers):
    fake = workers(a=1, b=1)
    bench(request("a", "b", rounds=1))
    assert sorted(fake.killed) == ["a", "b"]


def test_workers_are_killed_when_one_fails(workers):
    fake = workers(broken="b", a=1, b=1)
    with pytest.raises(DeviceError, match="'b' died"):
        bench(request("a", "b"))
    assert sorted(fake.killed) == ["a", "b"]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
def test_workers_are_killed_when_the_parent_is_interrupted(workers, monkeypatch, interruption):
    fake = workers(a=1, b=1)

    def interrupt(*_):
        raise interruption

    monkeypatch.setattr(bench_module, "round_order", interrupt)
    with pytest.raises(interruption):
        bench(request("a", "b"))
    assert sorted(fake.killed) == ["a", "b"]


def test_a_wrong_request_starts_nothing(workers):
    fake = workers(a=1)
    with pytest.raises(RequestError):
        bench(request("a", rounds=0))
    assert fake.log == []


@given(st.lists(st.text(), min_size=1, max_size=5, unique=True), st.integers(0, 50))
def test_a_round_has_every_model_once_and_each_is_first_in_turn(names, index):
    assert sorted(round_order(names, index)) == sorted(names)
    assert {round_order(names, index + shift)[0] for shift in range(len(names))} == set(names)


@given(st.floats(0.001, 1e5), st.floats(1e-4, 1e5))
def test_iterations_stay_in_bounds_and_fill_the_round(round_ms, run_ms):
    count = iterations_for(round_ms, run_ms)
    assert 3 <= count <= 2000
    if 3 < count < 2000:
        assert abs(count * run_ms - round_ms) <= run_ms


@pytest.mark.parametrize("name", ["a b.onnx", 'it\'s "quoted".onnx', "new\nline.onnx", "-rf.onnx", "$(touch x);é.onnx"])
def test_real_models_with_hostile_names_are_timed(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write_conv(tmp_path / name, width=4)
    result = bench({"models": {name: name}, "rounds": 2, "round_ms": 1, "threads": 1})
    model = result["models"][name]
    assert model["provider"] == "CPUExecutionProvider"
    assert [len(samples) >= 3 for samples in model["rounds_ms"]] == [True, True]
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]


def test_a_real_run_ranks_a_heavy_model_behind_a_light_one_and_leaves_no_child(tmp_path):
    models = {
        "heavy": str(write_conv(tmp_path / "h.onnx", width=512)),
        "light": str(write_conv(tmp_path / "l.onnx", width=2)),
    }
    before = children_of(os.getpid())
    result = bench({"models": models, "rounds": 3, "round_ms": 5, "threads": 1})
    assert children_of(os.getpid()) == before
    smallest = {name: min(map(min, model["rounds_ms"])) for name, model in result["models"].items()}
    assert smallest["heavy"] > 2 * smallest["light"]
    assert result["probe_before"]["machine"] == result["probe_after"]["machine"]


def test_a_real_broken_model_is_named_and_leaves_no_child(tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"rubbish")
    before = children_of(os.getpid())
    with pytest.raises(DeviceError, match=r"model 'compressed': .* cannot open"):
        bench({"models": {"dense": str(write_conv(tmp_path / "d.onnx")), "compressed": str(broken)}, "threads": 1})
    assert children_of(os.getpid()) == before


def libraries(pid):
    """Names of the shared libraries that a process has loaded."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return " ".join({line.split()[-1] for line in lines if ".so" in line})


@pytest.mark.parametrize(
    ("provider", "own", "other"),
    [("CPUExecutionProvider", "onnxruntime", "openvino"), ("CPU", "openvino", "onnxruntime")],
)
def test_each_runtime_is_alone_in_its_process(provider, own, other, tmp_path):
    """Spinning threads of a second runtime would slow the first: `benchmarks/two_runtimes.py` measures how much."""
    pytest.importorskip("openvino")
    worker = WorkerProcess("m", worker_argv())
    try:
        command = {"cmd": "open", "model": str(write_conv(tmp_path / "m.onnx")), "threads": 1, "provider": provider}
        assert worker.ask({**command, "seed": 0, "cpus": None})["runtime"]["name"] == own
        loaded = libraries(worker.pid)
        assert own in loaded
        assert other not in loaded
    finally:
        worker.kill()


def test_models_of_two_runtimes_are_timed_against_each_other(tmp_path):
    pytest.importorskip("openvino")
    path = str(write_conv(tmp_path / "m.onnx"))
    request = {"models": {"a": path, "b": path}, "threads": 1, "rounds": 2, "round_ms": 1, "providers": {"b": "CPU"}}
    models = bench(request)["models"]
    assert [models[name]["runtime"]["name"] for name in ("a", "b")] == ["onnxruntime", "openvino"]
    assert models["b"]["session"]["inference_precision_hint"] == "f32"
    assert models["b"]["session"]["realised"] == {"Convolution f32": 1}
