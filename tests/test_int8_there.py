"""INT8 that loses answers on the attached device is given up for the floats that it competes with, and is told."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import tiny_run
from fake_trtexec import make_trtexec
from test_trt_device import quick

from taco import api
from taco.exporters.protocol import Artifact
from taco.field.device_judge import OnDevice
from taco.search import budget
from taco.steps import delivery
from taco.steps.converting import Pair
from taco.steps.delivery import Delivery
from taco.targets.loading import load_target
from taco.timing.timings import BenchResult, ModelTiming

LABELS = np.repeat(np.arange(2), 20)


def file(precision: str) -> Artifact:
    return Artifact(Path(f"{precision}.onnx"), precision, 1, precision, 17, 1)


def made(precision: str = "int8") -> tuple[Delivery, list[str]]:
    """A delivery for a Jetson as far as this decision needs one, and what it says."""
    said: list[str] = []
    nothing = cast("Any", None)
    material = SimpleNamespace(
        task=SimpleNamespace(classes=("a", "b")),
        bank=SimpleNamespace(preprocessing=SimpleNamespace(input_size=(3, 8, 8))),
    )
    target = dataclasses.replace(load_target("jetson-orin-int8"), precision=cast("Any", precision))
    rest = {"exporter": nothing, "keys": nothing, "store": nothing, "held_out": nothing, "scratch": Path()}
    options = cast("Any", SimpleNamespace(threads=None))
    progress = cast("Any", SimpleNamespace(say=said.append))
    device = cast("Any", SimpleNamespace(name="orin"))
    return (
        Delivery(
            **rest, target=target, options=options, material=cast("Any", material), progress=progress, device=device
        ),
        said,
    )


def answers(right: int) -> OnDevice:
    """So many of 40 answers are right there, all of them here."""
    there = np.where(np.arange(40) < right, LABELS, 1 - LABELS)
    return OnDevice(LABELS, LABELS, there, 40, "TensorRT", "TensorRT 10.3.0", ())


JUDGED = cast("Any", SimpleNamespace(labels=LABELS, dense=LABELS))
PAIR = Pair(file("int8"), file("fp32"), file("fp16"))


def test_int8_that_loses_answers_there_is_given_up_for_fp16() -> None:
    found, said = made()
    times = {"compressed": 1.0, "compressed_fp16": 1.5}
    bench = BenchResult(
        {name: ModelTiming(((ms,) * 3,) * 8, "TensorRT", "TensorRT", "10.3.0", None, {}) for name, ms in times.items()},
        threads=1,
        rounds=8,
        stopped_early=False,
        measured_on={},
    )
    assert found.loses_there(PAIR, JUDGED, answers(right=20), bench)
    assert found.target.precision == "fp16"
    assert found.given_up is not None
    assert found.given_up.why.startswith("INT8 loses answers on orin: 50.00 points")
    assert found.given_up.ratio is not None
    assert found.given_up.ratio.value == pytest.approx(1.5)
    assert found.given_up.tried is PAIR.shipped
    assert said == [found.given_up.why]


@pytest.mark.parametrize(
    ("precision", "there"),
    [("int8", answers(right=40)), ("int8", None), ("fp16", answers(right=0))],
    ids=["it keeps its answers", "no device", "no INT8"],
)
def test_else_nothing_changes(precision: str, there: OnDevice | None) -> None:
    found, said = made(precision)
    assert not found.loses_there(PAIR, JUDGED, there, None)
    assert (found.target.precision, found.given_up, said) == (precision, None, [])


@pytest.mark.slow
def test_a_run_whose_int8_engine_answers_wrongly_ends_in_fp16(
    pi_site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(delivery, "IDLE_S", 0.0)
    monkeypatch.setattr(budget, "load_target", quick)
    asked: dict[str, Any] = {
        "target": "jetson-orin-int8",
        "device": f"local?trtexec={make_trtexec(tmp_path / 'bin', mode='int8 wrong')}",
        "macs": 0.8,
    }
    report = api.export(tiny_run.options(pi_site, tmp_path / "out", **asked)).report
    assert report.precision is not None
    assert (report.precision.asked, report.precision.used, report.runtime.precision) == ("int8", "fp16", "fp16")
    assert "INT8 loses answers on " in (report.precision.given_up or "")
    assert report.precision.faster_than_fp32 is not None
    assert report.precision.faster_than_fp32[0] > 1, "it was fast, and wrong"
    assert report.engines_run is not None
    assert [(gate.name, gate.passed) for gate in report.engines_run.gates] == [("answers on the device", True)]
    assert {facts.precision for name, facts in report.engines_run.engines.items() if name != "baseline_fp32"} == {
        "fp16"
    }
    assert any("INT8 was given up: INT8 loses answers" in warning for warning in report.warnings)
