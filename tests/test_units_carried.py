"""Blocks by themselves in a copied folder: written here, timed there by its one command, read back as a table."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fake_trtexec import make_trtexec
from onnx import helper, numpy_helper
from test_profiling import Device as Clock
from test_profiling import make_profiler
from typer.testing import CliRunner

from taco.address import parse_address
from taco.attached.ondevice import attached
from taco.cli import app
from taco.device import trt_units
from taco.device.trt_kit import Model
from taco.device.trt_machine import Surroundings
from taco.device.trt_units import ANSWERS, LIST, UNITS, read_units, time_units
from taco.device.wire import DeviceError, RequestError
from taco.errors import InputError, MeasurementError
from taco.exporters.loading import load_exporter
from taco.exporters.protocol import Compressed
from taco.exporters.resize import UnlikeError
from taco.exporters.zeroed import ZEROS
from taco.field import unit_kit
from taco.field.unit_kit import carry_units
from taco.field.unit_list import ZEROS_SWEEP
from taco.field.unit_table import collect_units
from taco.latency.table import load_cached
from taco.progress import PlainProgress
from taco.search import micrographs
from taco.search.profiling import Profiler
from taco.targets.loading import Target, load_target

TARGET = load_target("jetson-orin")


def profiler(target: Target = TARGET) -> Profiler:
    """Two units of a tiny model, for a Jetson."""
    return make_profiler(Clock(), target=target, exporter=load_exporter("trt"))


def drawn(model: Compressed, opset: int) -> onnx.ModelProto:
    """Stands in for torch's exporter, which takes seconds: a convolution as large as the module."""
    (depth, *size), parameters = model.input_size, sum(p.numel() for p in model.module.parameters())
    width = 1 + parameters // (32 * depth)
    weight = numpy_helper.from_array(np.full((width, depth, 1, 1), 0.5, np.float32), "w")
    given = [helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, (1, depth, *size))]
    made = [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, (1, width, *size))]
    nodes = [
        helper.make_node("Relu", ["input"], ["positive"], "relu"),
        helper.make_node("Conv", ["positive", "w"], ["logits"], "conv"),
    ]
    graph = helper.make_graph(nodes, "g", given, made, [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def unlike(*_: object) -> onnx.ModelProto:
    raise UnlikeError("every width is drawn by itself")


def carry(target: Target, folder: Path) -> Path:
    """Write a folder with micro-models, as the host does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unit_kit, "profiler_of", lambda *_: profiler(target))
        patch.setattr(unit_kit, "ENGINE_ROUNDS", 2)
        patch.setattr(micrographs, "export_proto", drawn)
        patch.setattr(micrographs, "export_protos", lambda models, opset: [drawn(model, opset) for model in models])
        patch.setattr(micrographs, "resized", unlike)
        count = carry_units("tiny", target, folder, PlainProgress())
    files = len(list((folder / UNITS).glob("*.onnx")))
    models = 1 + sum(map(len, profiler().widths.values())) + len(ZEROS) + len(profiler().whole_widths)
    assert (count, files) == (models, models * (2 if target.precision == "int8" else 1))
    return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with micro-models."""
    return carry(TARGET, tmp_path_factory.mktemp("carried") / "orin")


@pytest.fixture(scope="module")
def trtexec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_trtexec(tmp_path_factory.mktemp("bin"))


@pytest.fixture(scope="module")
def timed(written: Path, trtexec: Path) -> Path:
    """The folder after its one command: the packed agent, by itself. Tests leave it as it is."""
    command = [sys.executable, "-I", "agent.pyz", "jetson", "--trtexec", str(trtexec)]
    done = subprocess.run(command, cwd=written, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert "taco profile collect" in done.stderr
    return written


@pytest.fixture
def copied(timed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(timed, tmp_path / "back"))


def test_what_came_back_is_a_measured_table_of_that_device(timed: Path) -> None:
    table = collect_units(timed)
    assert set(table.units) == {u.name for u in profiler().found.units}
    for name, unit in table.units.items():
        assert tuple(cell.width for cell in unit.cells) == profiler().widths[name]
        assert {cell.source for cell in unit.cells} == {"measured"}
        assert {cell.n for cell in unit.cells} == {40}
        times = [cell.p50_ms for cell in unit.cells]
        assert times == sorted(times, reverse=True), "the stand-in's times grow with the file"
        assert times[0] < table.dense_ms
    assert table.skipped == {}
    assert [gain.pattern for gain in table.zeros] == ["2:4", "80 %"]
    assert [dict(whole.widths) for whole in table.wholes] == list(profiler().whole_widths.values())
    assert table.dense_ms > table.wholes[0].p50_ms > table.wholes[-1].p50_ms
    assert (table.key.runtime, table.key.runtime_version, table.key.precision) == ("trt", "10.3.0", "fp16")
    assert table.stand_in
    assert not table.unfinished
    assert [path.name.partition("-")[0] for path in (timed / UNITS / "engines").glob("*.engine")] == ["dense"]


def test_int8_goes_along_for_both_typings(tmp_path: Path) -> None:
    asked = read_units(str(carry(load_target("jetson-orin-int8"), tmp_path)))
    models = [model for named in asked.sweeps.values() for model in named.values()]
    assert {model.precision for model in models} == {"int8"}
    assert all(model.strong == model.weak.replace(".onnx", ".strong.onnx") for model in models)
    for model in models:
        halves = {t.data_type for t in onnx.load(Path(asked.folder) / model.strong).graph.initializer if t.dims}
        assert onnx.TensorProto.FLOAT16 in halves


def test_the_table_is_the_one_that_the_device_would_have_if_it_were_attached(
    timed: Path, trtexec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TACO_CACHE", str(tmp_path / "cache"))
    shown = CliRunner().invoke(app, ["profile", "collect", str(timed), "--quiet"])
    assert shown.exit_code == 0, shown.output
    with attached(parse_address(f"local?trtexec={trtexec}")) as device:
        key = make_profiler(Clock(), target=TARGET, exporter=load_exporter("trt"), machine=device.machine("trt")).key()
    found = load_cached(tmp_path / "cache" / "latency", key)
    assert found is not None
    assert found.units == collect_units(timed).units


def test_a_second_run_times_only_what_is_of_another_state(copied: Path, trtexec: Path) -> None:
    here, said = Surroundings(str(trtexec)), list[str]()
    assert time_units(str(copied), here, said.append) == {"timed": 0, "known": 4, "failed": {}}
    path = copied / UNITS / ANSWERS / f"{ZEROS_SWEEP}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "power_mode": "15W"}))
    with pytest.raises(MeasurementError, match=r"not of one device in one state: power_mode is .*15W"):
        collect_units(copied)
    assert time_units(str(copied), here, said.append) == {"timed": 1, "known": 3, "failed": {}}
    assert len(collect_units(copied).units) == 2


def test_a_block_that_cannot_be_built_is_left_out_and_told(
    copied: Path, trtexec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = read_units(str(copied))
    broken = next(name for name in asked.sweeps if name != ZEROS_SWEEP)
    (copied / UNITS / ANSWERS / f"{broken}.json").unlink()
    with pytest.raises(MeasurementError, match="1 of 4 measurements have not been taken"):
        collect_units(copied)
    real = trt_units.built

    def built(models: Mapping[str, Model], *rest: Any) -> Any:
        if len(models) > 1:
            raise DeviceError("building it failed: TensorRT found no kernel for x", "Add swap.")
        return real(models, *rest)

    monkeypatch.setattr(trt_units, "built", built)
    found = time_units(str(copied), Surroundings(str(trtexec)), lambda _: None)
    assert found == {"timed": 0, "known": 3, "failed": {broken: "building it failed: TensorRT found no kernel for x"}}
    table = collect_units(copied)
    units = json.loads((copied / UNITS / LIST).read_text())["units"]
    assert table.skipped == {n: found["failed"][broken] for n, u in units.items() if u["signature"] == broken}
    assert len(table.units) == 1


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda listed, unit: listed["sweeps"].pop(unit["signature"]), r"has no width \d+"),
        (lambda listed, unit: unit["widths"].append(12345), "has no width 12345"),
        (lambda listed, _: listed["sweeps"]["wholes"].pop("whole-0"), "sweep 'wholes' has no whole-0"),
        (lambda listed, unit: listed["sweeps"][unit["signature"]].pop("dense"), "has no 'dense' to compare with"),
        (lambda listed, unit: listed.update(rounds="many"), "rounds: "),
    ],
    ids=["sweep", "width", "wholes", "dense", "rounds"],
)
def test_a_damaged_list_is_named(copied: Path, damage: Callable[[Any, Any], object], told: str) -> None:
    listed = json.loads((copied / UNITS / LIST).read_text())
    damage(listed, next(iter(listed["units"].values())))
    (copied / UNITS / LIST).write_text(json.dumps(listed))
    with pytest.raises(InputError, match=f"units.json is damaged or from another version: .*{told}"):
        collect_units(copied)


def test_where_every_block_fails_it_ends_early_and_says_why(
    copied: Path, trtexec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(copied / UNITS / ANSWERS)
    tried: list[str] = []

    def broken(*_: Any) -> Any:
        tried.append("")
        raise DeviceError("timing it failed: the clock is gone", "Restart it.")

    monkeypatch.setattr(trt_units, "time_rounds", broken)
    monkeypatch.setattr(trt_units, "GIVE_UP", 2)
    with pytest.raises(DeviceError, match="the clock is gone"):
        time_units(str(copied), Surroundings(str(trtexec)), lambda _: None)
    assert len(tried) == 2 < len(read_units(str(copied)).sweeps)
    monkeypatch.setattr(trt_units, "GIVE_UP", 9)
    assert time_units(str(copied), Surroundings(str(trtexec)), lambda _: None)["timed"] == 0
    with pytest.raises(MeasurementError, match="nothing could be timed there: timing it failed: the clock is gone"):
        collect_units(copied)


def test_without_memory_for_the_dense_model_nothing_is_tried(copied: Path, tmp_path: Path) -> None:
    shutil.rmtree(copied / UNITS / ANSWERS)
    shutil.rmtree(copied / UNITS / "engines")
    killed = Surroundings(str(make_trtexec(tmp_path / "bin", mode="killed")))
    with pytest.raises(DeviceError, match=r"memory ran out \(exit code 137\)"):
        time_units(str(copied), killed, lambda _: None)
    assert not list((copied / UNITS / ANSWERS).iterdir())


def test_a_damaged_copy_is_told_before_anything_is_built(copied: Path) -> None:
    path = next((copied / UNITS).glob("*-32.onnx"))
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(RequestError, match=rf"{path.name} is not the file that was exported"):
        read_units(str(copied))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema": 2}, "schema 2 instead of 1"),
        ({"sweeps": {}}, "must time something"),
        ({"files": {"../x.onnx": "0"}}, "outside of its folder"),
        ({"rounds": None}, "TypeError"),
    ],
)
def test_a_wrong_list_is_refused(changes: dict[str, Any], words: str, copied: Path) -> None:
    path = copied / UNITS / LIST
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(RequestError, match=words):
        read_units(str(copied))


def test_what_holds_no_micro_models_is_told_how_to_make_them(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no micro-models") as caught:
        collect_units(tmp_path)
    assert "--into" in caught.value.todo


def test_only_tensorrt_is_carried(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="raspberry-pi-5 is none"):
        carry_units("test_efficientnet", load_target("raspberry-pi-5"), tmp_path, PlainProgress())
