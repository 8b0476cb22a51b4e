"""TensorRT on an attached device, with a stand-in for trtexec: engines, profile, table, loop and report, end to end."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import onnx
import pytest
import tiny_run
from agent_here import Here
from device_models import write_conv
from fake_trtexec import Mode, make_trtexec
from int8_models import CLASSES, SIZE, calibration, small_net
from test_device_trt import FAILURES
from typer.testing import CliRunner

from taco import api, cli
from taco.address import parse_address
from taco.attached.agent_calls import AgentCaller
from taco.attached.ondevice import Device, attach, attached, leased
from taco.attached.trt_device import TensorRt
from taco.device.trt_engines import engine_warnings
from taco.device.trt_judge import judge
from taco.device.trt_kit import read_kit
from taco.device.trt_machine import Surroundings
from taco.device.trt_sweep import sweep
from taco.errors import GateError, MeasurementError
from taco.exporters.editions import edition_for, precision_of
from taco.exporters.half import to_half
from taco.exporters.mixed import quantise
from taco.exporters.opened import Simulated
from taco.exporters.opsets import NATIVE, lowered
from taco.exporters.protocol import Artifact
from taco.exporters.scheme import TENSORRT
from taco.exporters.zeroed import has_two_to_four, zeroed
from taco.field.engine_judge import EngineJudge
from taco.latency.table import read_table
from taco.progress import SilentProgress
from taco.report.markdown import render_markdown
from taco.report.schema import Report
from taco.rundir import RunDir
from taco.search import budget, uniform
from taco.steps import delivery
from taco.steps.converting import Pair
from taco.steps.stored import Store
from taco.summaries.device_summary import device_warnings
from taco.targets.loading import BenchmarkProtocol, Target, load_target
from taco.timing.measure import MeasureOptions
from taco.timing.timings import BenchResult, ModelTiming

STAND_IN = "not run on hardware"
QUICK = MeasureOptions(rounds=2, round_ms=100, max_seconds=60, provider="TensorRT")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The work folder of `local` and the cache of tables are the test's own."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TACO_CACHE", str(tmp_path / "cache"))
    return tmp_path


def url(folder: Path, version: str = "10.3", mode: Mode = "ok") -> str:
    return f"local?trtexec={make_trtexec(folder / version / mode, version, mode)}"


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    with attached(parse_address(url(tmp_path))) as made:
        yield made


def test_engines_are_built_and_timed_there(device: Device, home: Path) -> None:
    models = {str(width): write_conv(home / f"{width}.onnx", width) for width in (64, 8)}
    found = device.measure(models, QUICK)
    assert found.speedup("64", "8").value > 1, "the stand-in's times grow with the file"
    assert (found.rounds, found.models["8"].n, found.models["8"].runtime_version) == (2, 40, "10.3.0")
    assert found.measured_on["hardware"] == STAND_IN
    assert found.models["8"].cold_ms is None
    work = home / ".cache" / "taco-export" / "device"
    facts = found.models["8"].session
    engine = work / "engines" / f"8-{facts['key']}.engine"
    assert hashlib.sha256(engine.read_bytes()).hexdigest() == facts["engine_sha256"]
    again = device.measure({"64": models["64"]}, QUICK)
    assert again.models["64"].session["from_earlier_run"]
    device.agent.extra = ("--lease", "us", "--owner", "a test")
    device.agent.ask(["take"])
    device.agent.ask(["release"])
    assert [path.name for path in (work / "engines").iterdir()] == ["timing.cache"]


def artifact(path: Path) -> Artifact:
    return Artifact(path, hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size, "fp32", 17, 1)


def test_times_are_taken_anew_once_their_engines_are_gone(home: Path) -> None:
    (home / "work").mkdir()
    device = attach(parse_address(url(home)), Here(home / "work"))
    dense, compressed = (artifact(write_conv(home / f"{width}.onnx", width)) for width in (64, 8))
    made: Any = delivery.Delivery(
        **dict.fromkeys(("exporter", "keys", "held_out"), cast("Any", None)),
        target=dataclasses.replace(quick("jetson-orin"), precision="fp32"),
        options=cast("Any", SimpleNamespace(threads=None)),
        material=cast("Any", SimpleNamespace(bank=SimpleNamespace(preprocessing=SimpleNamespace(input_size=SIZE)))),
        store=Store(RunDir(home / "out")),
        progress=SilentProgress(),
        scratch=home / "scratch",
        device=device,
    )

    def digest() -> str:
        bench = made.time(Pair(dense, dense), Pair(compressed, compressed), None)
        return str(bench.models["compressed"].session["engine_sha256"])

    with leased(device):
        first = digest()
        assert digest() == first, "stored, and the engine is there"
    with leased(device):
        assert digest() != first


def test_what_trtexec_cannot_time_is_refused(device: Device, home: Path) -> None:
    with pytest.raises(MeasurementError, match="timed warm only"):
        device.measure({"a": write_conv(home / "a.onnx")}, dataclasses.replace(QUICK, idle_s=1.0))


def test_a_tensorrt_that_is_too_old_is_told_here(tmp_path: Path) -> None:
    caught = pytest.raises(MeasurementError, match=r"TensorRT 8\.5\.2 is too old")
    with attached(parse_address(url(tmp_path, "8.5"))) as device, caught as error:
        device.check_runtime("trt")
    assert error.value.exit_code == 5
    assert error.value.todo


def test_each_failure_there_has_its_own_message_here(tmp_path: Path) -> None:
    trtexec = make_trtexec(tmp_path / "bin")
    there = TensorRt.found(AgentCaller(Here(tmp_path), "python3"), str(trtexec))
    models = {"a": write_conv(tmp_path / "a.onnx")}
    for mode, words in FAILURES:
        make_trtexec(tmp_path / "bin", mode=mode)
        with pytest.raises(MeasurementError) as caught:
            there.measure(models, QUICK)
        assert words in caught.value.what, mode
        assert caught.value.todo
        assert caught.value.exit_code == 5


def test_what_makes_figures_doubtful_is_told_with_them(tmp_path: Path) -> None:
    def here(mode: Mode) -> Surroundings:
        return Surroundings(str(make_trtexec(tmp_path / mode, mode=mode)))

    write_conv(tmp_path / "a.onnx")
    models = {"a": {"weak": "a.onnx", "strong": "a.onnx", "precision": "fp32"}}
    request: dict[str, Any] = {"models": models, "rounds": 1, "round_s": 0.1, "max_s": 60.0}
    found = {}
    for mode in ("skipped", "unstable"):
        found[mode] = sweep(request, str(tmp_path), here(mode), lambda _: None)["engines"]
        shutil.rmtree(tmp_path / "engines")
    onnx.save(small_net(), tmp_path / "a.onnx")
    np.save(tmp_path / "none.npy", np.zeros((0, *SIZE[1:], 3), np.uint8))
    request |= {
        "input": {"name": "input", "shape": [1, *SIZE], "mean": [0, 0, 0], "std": [1, 1, 1]},
        "output": "logits",
        "pictures": "none.npy",
        "classes": CLASSES,
        "owners": {"a": {node.name: node.name for node in small_net().graph.node}},
        "units": {},
        "profile_s": 0.1,
    }
    older = judge(request, str(tmp_path), here("older"), lambda _: None)["layers"]
    told = [*engine_warnings(found["skipped"], {}), *engine_warnings(found["unstable"], older)]
    beginnings = ["3 kernels were not tried for the engine of a, ", "the time of a was unsteady in 1 runs (", "this T"]
    assert [text[: len(start)] for text, start in zip(told, beginnings, strict=True)] == beginnings
    good = {"a": {**found["skipped"]["a"], "skipped": 0}}
    assert engine_warnings(good, {"a": {"unattributed_percent": 5.0}}) == []


def test_doubts_are_warnings_of_an_attached_run_too() -> None:
    steady = {"skipped": 0, "unstable_percent": []}
    device = SimpleNamespace(emulated=None, board="Orin", clock_off_s=0.0, name="orin")
    timed = ModelTiming(((1.0,),), "TensorRT", "TensorRT", "10.3.0", None, {**steady, "unstable_percent": [4.2]})
    done: Any = SimpleNamespace(
        plan=SimpleNamespace(device=device, target=load_target("jetson-orin")),
        engines={"engines": {"compressed": steady}, "layers": {"compressed": {"unattributed_percent": 100.0}}},
        bench=BenchResult({"compressed": timed}, threads=1, rounds=1, stopped_early=False, measured_on={}),
    )
    told = " ".join(device_warnings(done))
    assert "the time of compressed was unsteady in 1 runs (coefficient of variation up to 4.2 %)" in told
    assert "does not tell what the layers of compressed compute" in told
    assert "were not tried" not in told


@pytest.mark.parametrize(
    ("target", "warned"), [("raspberry-pi-5", False), ("raspberry-pi-4", True), ("jetson-orin", True)]
)
def test_a_compute_module_5_is_a_pi_5(target: str, warned: bool) -> None:
    board = "Raspberry Pi Compute Module 5 Rev 1.0"
    device = SimpleNamespace(emulated=None, board=board, clock_off_s=0.0, name="pi")
    plan = SimpleNamespace(device=device, target=load_target(target))
    told = device_warnings(cast("Any", SimpleNamespace(plan=plan, engines=None, bench=None)))
    assert bool(told) is warned


def test_a_device_without_trtexec_is_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    caught = pytest.raises(MeasurementError, match="trtexec is not on this machine")
    with attached(parse_address("local")) as device, caught as error:
        device.check_runtime("trt")
    assert "apt install" in error.value.todo


def test_the_precision_and_the_edition_are_read_from_the_graph(tmp_path: Path) -> None:
    net = small_net()
    net.opset_import[0].version = NATIVE
    net = lowered(net)
    int8, _ = quantise(net, TENSORRT, calibration(net), Simulated())
    found = {}
    for name, proto in {"fp32": net, "fp16": to_half(net), "int8": int8}.items():
        onnx.save(proto, tmp_path / f"{name}.onnx")
        assert precision_of(proto) == name
        found[name] = [edition_for(tmp_path / f"{name}.onnx", tmp_path, strong=strong) for strong in (False, True)]
    assert all(weak.path == strong.path for weak, strong in (found["fp32"], found["fp16"]))
    strong = found["int8"][1]
    assert strong.path != found["int8"][0].path
    assert strong.precision == "int8"
    halves = {i.data_type for i in onnx.load(strong.path).graph.initializer if len(i.dims) > 1}
    assert onnx.TensorProto.FLOAT16 in halves


@pytest.mark.parametrize("quantised", [False, True])
def test_2_to_4_is_found_where_it_is(quantised: bool) -> None:
    net = small_net()
    if quantised:
        net, _ = quantise(net, TENSORRT, calibration(net), Simulated())
    assert not has_two_to_four(net)
    assert has_two_to_four(zeroed(net, "2:4"))
    assert not has_two_to_four(zeroed(net, "80 %"))


def quick(name: str) -> Target:
    """A target whose protocol takes seconds."""
    return dataclasses.replace(load_target(name), benchmark=BenchmarkProtocol(1, 100.0, 60.0))


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rounds of everything."""
    from taco.search import profile_job

    monkeypatch.setattr(delivery, "IDLE_S", 0.0)
    monkeypatch.setattr(budget, "load_target", quick)
    monkeypatch.setattr(profile_job, "load_target", quick, raising=False)
    monkeypatch.setattr(profile_job, "ENGINE_ROUNDS", 1)
    monkeypatch.setattr(uniform, "_TRIAL_ROUNDS", 1)


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_the_latency_loop_runs_on_engines_to_a_report(pi_site: Path, tmp_path: Path) -> None:
    address = url(tmp_path)
    asked: dict[str, Any] = {"target": "jetson-orin", "device": address, "speedup": 1.1, "allocation": "latency"}
    result = api.export(tiny_run.options(pi_site, tmp_path / "out", **asked))
    report = result.report
    assert report.latency_source == "measured"
    assert report.speedup is not None
    assert report.speedup >= 1.1
    assert report.rounds
    assert report.budget_ms is not None
    assert report.rounds[-1].measured_ms <= report.budget_ms
    assert {unit.source for unit in report.allocation} <= {"measured", "interpolated"}
    assert report.profile is not None
    assert report.profile.cells > 0
    assert {gain.pattern for gain in report.profile.zeros} == {"2:4", "80 %"}
    found = report.engines_run
    assert found is not None
    assert found.hardware is None
    assert {"dense", "compressed", "baseline_fp32"} <= set(found.engines)
    assert found.accuracy["compressed"].n == 9
    assert [(gate.name, gate.passed) for gate in found.gates] == [("answers on the device", True)]
    assert found.layers["compressed"].unattributed_percent < 50
    assert report.runtime.version == "10.3.0"
    assert report.device is not None
    assert report.device.same_answers == 9
    page = render_markdown(report).replace("\N{NO-BREAK SPACE}", " ")
    assert page.index(STAND_IN) < page.index("Speed-up"), "a stand-in is named above everything"
    there = Path(report.device.deployed_to or "")
    engine = (there / "model.engine").read_bytes()
    assert hashlib.sha256(engine).hexdigest() == found.engines["compressed"].engine_sha256, "the judged bytes"
    assert "model.engine" in (report.next_step or "")
    table = next((tmp_path / "cache" / "latency").glob("*.json"))
    assert read_table(table).stand_in
    shown = CliRunner().invoke(cli.app, ["profile", "show", str(table)])
    assert STAND_IN in shown.output
    kit = json.loads((result.folder / "jetson.json").read_text())
    assert set(kit["models"]) == {"dense", "compressed", "baseline_fp32"}


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_a_second_run_in_a_folder_finishes_although_the_engines_of_the_first_are_gone(
    pi_site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export(**more: Any) -> Report:
        asked: dict[str, Any] = {"target": "jetson-orin", "device": url(tmp_path, mode="wrong"), "macs": 0.8}
        return api.export(tiny_run.options(pi_site, tmp_path / "out", **asked, **more)).report

    def fail(*_: object) -> None:
        raise MeasurementError("the link broke")

    with monkeypatch.context() as patch:
        patch.setattr(EngineJudge, "ask", fail)
        with pytest.raises(MeasurementError, match="the link broke"):
            export()
    with pytest.raises(GateError, match="answers on the device"):
        export()
    report = export(force=True)
    assert report.device is not None
    assert report.engines_run is not None
    engine = Path(report.device.deployed_to or "", "model.engine").read_bytes()
    assert hashlib.sha256(engine).hexdigest() == report.engines_run.engines["compressed"].engine_sha256


@pytest.mark.slow
@pytest.mark.usefixtures("short")
def test_int8_that_is_slower_than_fp16_there_is_given_up(pi_site: Path, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"target": "jetson-orin-int8", "device": url(tmp_path, "10.16"), "macs": 0.8}
    report = api.export(tiny_run.options(pi_site, tmp_path / "out", **asked)).report
    assert report.precision is not None
    assert "INT8 is slower than FP16 here: of the dense model FP16 takes 0." in (report.precision.given_up or "")
    assert (report.precision.asked, report.precision.used, report.precision.compared_with) == ("int8", "fp16", "fp16")
    assert report.runtime.precision == "fp16"
    assert report.engines_run is not None
    assert report.engines_run.strongly_typed
    assert {facts.precision for name, facts in report.engines_run.engines.items() if name != "baseline_fp32"} == {
        "fp16"
    }
    assert any("INT8 was given up" in warning for warning in report.warnings)


@pytest.mark.slow
def test_an_int8_folder_for_an_absent_jetson_holds_both_forms(pi_site: Path, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"target": "jetson-orin-int8", "macs": 1.0}
    folder = api.export(tiny_run.options(pi_site, tmp_path / "out", **asked)).folder
    kit = read_kit(str(folder))
    assert {name: model.precision for name, model in kit.models.items()} == {
        "dense": "int8", "compressed": "int8", "dense_fp16": "fp16", "compressed_fp16": "fp16", "baseline_fp32": "fp32",
    }  # fmt: skip
    for name in ("dense", "compressed"):
        assert kit.models[name].weak != kit.models[name].strong
        assert precision_of(onnx.load(folder / kit.models[f"{name}_fp16"].weak)) == "fp16"
    assert kit.instead == {"dense": "dense_fp16", "compressed": "compressed_fp16"}
    assert set(kit.owners) == set(kit.models) - {"baseline_fp32"}
    assert kit.owners["compressed_fp16"]
    assert set(kit.shown.host) == {"compressed", "compressed_fp16"}
    assert STAND_IN in (folder / "report.md").read_text().lower().replace("\N{NO-BREAK SPACE}", " ")
