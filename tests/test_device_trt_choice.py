"""INT8 or FP16 on the device: the faster one that keeps its answers, and the report says which and why."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from fake_trtexec import make_trtexec
from hypothesis import given
from hypothesis import strategies as st
from int8_models import small_net
from jetson_folder import make_jetson_folder
from onnx import numpy_helper

from taco import api
from taco.device.intervals import median_interval, ratios
from taco.device.trt_choice import choose
from taco.device.trt_job import run_kit
from taco.device.trt_kit import Kit, read_kit
from taco.device.trt_machine import Surroundings
from taco.device.trt_report import write_reports
from taco.device.wire import RequestError
from taco.report.read import read_report
from taco.timing.timings import median_ratio

INSTEAD = {"dense": "dense_fp16", "compressed": "compressed_fp16"}


def test_int8_is_used_where_it_is_faster_than_fp16() -> None:
    found = choose({"compressed": [[1.0], [1.1]], "compressed_fp16": [[2.0], [2.2]]}, INSTEAD)
    assert (found.names, found.given_up) == ({"dense": "dense", "compressed": "compressed"}, None)
    assert found.gain == (2.0, 2.0, 2.0)


def test_int8_that_is_not_faster_is_given_up_with_the_figures() -> None:
    found = choose({"compressed": [[2.0], [2.0]], "compressed_fp16": [[1.0], [2.0]]}, INSTEAD)
    assert found.names == INSTEAD
    assert found.given_up == (
        "INT8 is slower than FP16 here: of the compressed model FP16 takes 0.75 of the INT8 time (0.50 to 1.00)"
    )


def test_without_another_form_there_is_nothing_to_choose() -> None:
    assert choose({}, {}).gain is None


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=40))
def test_the_device_s_interval_is_the_host_s(values: list[float]) -> None:
    host = median_ratio(values)
    assert median_interval(values) == (pytest.approx(host.value), host.low, host.high)


def test_rounds_are_compared_with_their_own_kind() -> None:
    assert ratios([[2.0, 2.0], [8.0]], [[1.0, 1.0], [2.0]]) == [2.0, 4.0]


def run(kit: Kit, trtexec: Path) -> list[str]:
    said: list[str] = []
    write_reports(kit, run_kit(kit, Surroundings(str(trtexec)), said.append))
    return said


@pytest.mark.slow
@pytest.mark.parametrize("pays", [False, True])
def test_a_folder_ends_with_what_pays_on_its_device(pays: bool, tmp_path: Path) -> None:
    folder = make_jetson_folder(tmp_path / "folder", pictures=1, int8_pays=pays)
    kit = read_kit(str(folder))
    said = run(kit, make_trtexec(tmp_path / "bin"))
    report, used = read_report(folder), "int8" if pays else "fp16"
    assert report.runtime.precision == used
    assert report.precision is not None
    assert report.precision.used == used
    assert report.precision.compared_with == "fp16"
    assert report.precision.faster_than_fp32 is not None
    assert (report.precision.faster_than_fp32[0] > 1) is pays
    assert report.engines_run is not None
    assert report.engines_run.used["compressed"] == ("compressed" if pays else "compressed_fp16")
    assert set(report.engines_run.accuracy) == set(report.engines_run.used.values())
    file = folder / f"compressed.{used}.onnx"
    assert report.size.compressed.bytes == file.stat().st_size
    gave_up = any("INT8 was given up: INT8 is slower than FP16 here" in warning for warning in report.warnings)
    assert gave_up is not pays
    assert any(text.startswith("INT8 is not used") for text in said) is not pays
    page = api.redraw_report(folder).markdown.read_text()
    assert ("The model is shipped in FP16" in page) is not pays


@pytest.mark.slow
def test_int8_that_loses_answers_here_is_given_up_too(tmp_path: Path) -> None:
    folder = make_jetson_folder(tmp_path / "folder", pictures=12, int8_pays=True)
    kit = read_kit(str(folder))
    net = small_net()
    for tensor in net.graph.initializer:
        if tensor.name.startswith("head."):
            tensor.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(tensor), tensor.name))
    onnx.save(net, folder / "compressed.int8.onnx")
    run(kit, make_trtexec(tmp_path / "bin"))
    report = read_report(folder)
    assert report.precision is not None
    assert "the INT8 engine loses answers on this device: " in (report.precision.given_up or "")
    assert report.precision.used == report.runtime.precision == "fp16"
    assert report.engines_run is not None
    gates = [(gate.name, gate.passed) for gate in report.engines_run.gates]
    assert gates == [("engine of compressed_fp16 against its file", True)]


def test_a_kit_whose_other_form_was_not_judged_is_refused(tmp_path: Path) -> None:
    folder = make_jetson_folder(tmp_path / "folder", pictures=1, int8_pays=True, host_answers={"compressed": [0]})
    with pytest.raises(RequestError, match="host_answers lacks 'compressed_fp16'"):
        read_kit(str(folder))
