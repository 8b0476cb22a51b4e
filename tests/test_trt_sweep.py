"""Engines timed against each other by the packed agent, with the stand-in for trtexec."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from device_models import write_conv
from fake_trtexec import make_trtexec

from taco.attached.agent_pack import pack_agent
from taco.attached.trt_device import SweepAnswer, sweep_result
from taco.device import wire
from taco.device.trt_machine import Surroundings
from taco.device.trt_sweep import sweep
from taco.device.wire import RequestError

REQUEST = {"rounds": 2, "round_s": 0.5, "max_s": 60.0}


def model(file: str) -> dict[str, str]:
    return {"weak": file, "strong": file, "precision": "fp32"}


def test_a_sweep_times_engines_of_every_width(tmp_path: Path) -> None:
    for width in (8, 64):
        write_conv(tmp_path / f"{width}.onnx", width)
    models = {f"stem/conv@{width}": model(f"{width}.onnx") for width in (8, 64)}
    (tmp_path / "request.json").write_text(json.dumps({"models": models, **REQUEST}))
    pack_agent(tmp_path / "agent.pyz")
    command = [sys.executable, "-I", "agent.pyz", "sweep", "request.json"]
    trtexec = make_trtexec(tmp_path / "bin")
    done = subprocess.run(
        [*command, "--trtexec", str(trtexec)], cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    answer = wire.parse(done.stdout)
    result = sweep_result(SweepAnswer.model_validate(answer))
    assert {timing.n for timing in result.models.values()} == {40}
    assert result.speedup("stem/conv@64", "stem/conv@8").value > 1, "the stand-in's times grow with the file"
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
