"""What a Jetson timed becomes cells of a latency table and shares of units; a sweep with the stand-in gives them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from device_models import write_conv
from fake_trtexec import make_trtexec

from taco.attached.agent_pack import pack_agent
from taco.device import wire
from taco.device.trt_machine import Surroundings
from taco.device.trt_sweep import sweep
from taco.device.wire import RequestError
from taco.errors import MeasurementError
from taco.timing.trt_times import UnitTime, cells, model_name, unit_shares

REQUEST = {"rounds": 2, "round_s": 0.5, "max_s": 60.0}


def model(file: str) -> dict[str, str]:
    return {"weak": file, "strong": file, "precision": "fp32"}


def test_widths_are_compared_within_rounds() -> None:
    # the machine was half as fast in the second round: the ratio is one half all the same
    found = cells({"a@64": [[4.0, 4.0], [8.0, 8.0]], "a@32": [[2.0, 2.0], [4.0, 4.0]]})
    assert found == [UnitTime("a", 64, 4.0, 6.0, 4, 0.0), UnitTime("a", 32, 2.0, 3.0, 4, 0.0)]


def test_units_may_hold_any_character_but_need_a_width() -> None:
    assert cells({model_name("x@y.1", 8): [[1.0]]})[0].unit == "x@y.1"
    with pytest.raises(MeasurementError, match=r"'x', which names no unit and width"):
        cells({"x": [[1.0]]})


def test_missing_rounds_are_an_error() -> None:
    with pytest.raises(MeasurementError, match="a@4 in other rounds"):
        cells({"a@8": [[1.0], [1.0]], "a@4": [[1.0]]})


def test_a_unit_has_a_part_in_every_layer_whose_width_it_decides() -> None:
    rows = [
        {"module": "b.0.conv1", "ms": 1.0},
        {"module": "b.0.conv2", "ms": 2.0},
        {"module": "b.0.conv1.act", "ms": 0.5},
    ]
    members = {"one": ["b.0.conv1"], "two": ["b.0.conv1", "b.0.conv2"], "none": ["b.0.con"]}
    assert unit_shares(rows, members) == {"one": 1.5, "two": 3.5, "none": 0.0}


def test_a_sweep_times_engines_of_every_width(tmp_path: Path) -> None:
    for width in (8, 64):
        write_conv(tmp_path / f"{width}.onnx", width)
    models = {model_name("stem/conv", width): model(f"{width}.onnx") for width in (8, 64)}
    (tmp_path / "request.json").write_text(json.dumps({"models": models, **REQUEST}))
    pack_agent(tmp_path / "agent.pyz")
    command = [sys.executable, "-I", "agent.pyz", "sweep", "request.json"]
    trtexec = make_trtexec(tmp_path / "bin")
    done = subprocess.run(
        [*command, "--trtexec", str(trtexec)], cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    answer = wire.parse(done.stdout)
    wide, narrow = cells(answer["rounds_ms"])
    assert (wide.unit, wide.width, narrow.width) == ("stem/conv", 64, 8)
    assert wide.n == narrow.n == 40
    assert narrow.p50_ms < wide.p50_ms, "the stand-in's times grow with the file"
    assert answer["hardware"] is None
    assert len(list((tmp_path / "engines").glob("stem_conv@*.engine"))) == 2


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ([], "TypeError"),
        ({**REQUEST, "models": {}}, "must name models"),
        ({**REQUEST, "models": {"a": {"weak": "a"}}}, "KeyError: 'strong'"),
        ({**REQUEST, "rounds": 0, "models": {"a": model("a")}}, "above 0"),
        ({**REQUEST, "models": {"a": {**model("a"), "precision": "fp8"}}}, "a precision is none of"),
    ],
)
def test_a_wrong_request_is_refused_with_an_example(request_: object, words: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=words) as caught:
        sweep(request_, str(tmp_path), Surroundings(), lambda text: None)
    assert "An example" in caught.value.todo
