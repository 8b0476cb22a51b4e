"""Which layers stay in INT8: by measured harm for each millisecond saved, until the gate passes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from int8_models import LAYERS, calibration, pictures, small_net

from taco.exporters import mixed
from taco.exporters.layers import Graph
from taco.exporters.mixed import LayerTime, divergence, quantise
from taco.exporters.opened import Simulated
from taco.exporters.protocol import Calibration, FloatArray, Quantisation
from taco.exporters.scheme import Scheme

U8 = Scheme(False, 8, True)


@dataclasses.dataclass
class Broken:
    """A runtime whose INT8 spoils the answers of some layers, with made-up times; INT8 takes `int8_ms`."""

    harm: Mapping[str, float]
    int8_ms: Mapping[str, float] | None = None
    floats: tuple[str, ...] = ()
    opened: list[set[str]] = dataclasses.field(default_factory=list)

    def open(self, file: Path) -> Callable[[FloatArray], FloatArray]:
        names = {node.name for node in onnx.load(file).graph.node}
        quantised = {layer for layer in LAYERS if f"n_{layer}/weight/dq" in names}
        self.opened.append(quantised)
        run = Simulated().open(file)
        noise = sum(self.harm.get(layer, 0.0) for layer in quantised)

        def spoiled(picture: FloatArray) -> FloatArray:
            return run(picture) + np.array([[noise, 0, 0, 0]], np.float32)

        return spoiled

    def profile(self, file: Path, graph: Graph) -> Mapping[str, LayerTime] | None:
        if self.int8_ms is None:
            return None
        int8 = any("/weight/dq" in node.name for node in onnx.load(file).graph.node)
        return {
            name: LayerTime(self.int8_ms.get(name, 0.5) if int8 else 1.0, int8 and name not in self.floats)
            for name in LAYERS
        }


@pytest.fixture(scope="module")
def proto() -> onnx.ModelProto:
    return small_net()


@pytest.fixture(scope="module")
def data(proto: onnx.ModelProto) -> Calibration:
    return calibration(proto)


def put_back(facts: Quantisation) -> list[str]:
    return [item.layer for item in facts.put_back]


def test_nothing_goes_back_while_the_gate_passes(proto: onnx.ModelProto, data: Calibration) -> None:
    backend = Broken({}, {})
    made, facts = quantise(proto, U8, data, backend)
    onnx.checker.check_model(made, full_check=True)
    assert (facts.layers, facts.quantised, facts.put_back) == (5, 5, ())
    assert facts.drop_points is not None
    assert facts.drop_points <= 1.0
    assert facts.evaluations == len(backend.opened) == 4
    assert facts.saved_in == "ms"
    assert facts.pictures == 6


def test_the_layer_that_does_harm_goes_back(proto: onnx.ModelProto, data: Calibration) -> None:
    made, facts = quantise(proto, U8, data, Broken({"pw": 50.0}, {}))
    assert put_back(facts) == ["pw"]
    assert facts.quantised == 4
    assert facts.put_back[0].harm is not None
    assert facts.put_back[0].harm > 1
    assert facts.put_back[0].saved == 0.5
    assert "pw.weight" in {i.name for i in made.graph.initializer}
    assert facts.drop_points is not None
    assert facts.drop_points <= 1.0


def test_answers_that_were_learnt_by_heart_do_not_hide_what_a_layer_does(
    proto: onnx.ModelProto, data: Calibration
) -> None:
    """A head that has seen the select pictures is surer of them than of others: harm that flips those changes none."""
    assert data.reference is not None
    logits, labels = data.reference.logits, data.reference.labels
    margins = (logits[np.arange(len(labels)), labels] - logits[:, 0])[labels != 0]
    backend = Broken({"pw": 0.5 * float(margins.min())}, {})
    assert put_back(quantise(proto, U8, data, backend)[1]) == []
    unseen = dataclasses.replace(data.reference, logits=0.1 * logits, correction=-0.9 * logits)
    assert "pw" in put_back(quantise(proto, U8, dataclasses.replace(data, reference=unseen), backend)[1])


def test_of_two_the_one_that_saves_less_time_goes_first(proto: onnx.ModelProto, data: Calibration) -> None:
    equal = {"stem": 25.0, "dw": 25.0}
    _, first = quantise(proto, U8, data, Broken(equal, {"stem": 0.9, "dw": 0.1}))
    _, second = quantise(proto, U8, data, Broken(equal, {"stem": 0.1, "dw": 0.9}))
    assert put_back(first)[0] == "stem"
    assert put_back(second)[0] == "dw"


def test_a_layer_that_the_runtime_computes_in_floats_is_no_int8_layer(
    proto: onnx.ModelProto, data: Calibration
) -> None:
    made, facts = quantise(proto, U8, data, Broken({}, {}, floats=("fc1",)))
    assert [(item.layer, item.reason) for item in facts.put_back] == [
        ("fc1", "the runtime does not compute it in INT8")
    ]
    assert "fc1.weight" in {i.name for i in made.graph.initializer}


def test_without_a_measurement_multiply_accumulates_stand_in(proto: onnx.ModelProto, data: Calibration) -> None:
    _, facts = quantise(proto, U8, data, Broken({"pw": 50.0}))
    assert facts.saved_in == "multiply-accumulates"
    assert facts.put_back[0].saved == 256 * 256


def test_when_every_layer_does_harm_the_file_is_fp32(proto: onnx.ModelProto, data: Calibration) -> None:
    made, facts = quantise(proto, U8, data, Broken(dict.fromkeys(LAYERS, 60.0), {}))
    assert facts.quantised == 0
    assert made == proto
    assert len(put_back(facts)) == 5


def test_for_timing_alone_nothing_is_chosen(proto: onnx.ModelProto) -> None:
    backend = Broken({"pw": 50.0}, {})
    _, facts = quantise(proto, U8, Calibration(lambda: pictures()), backend)
    assert facts.evaluations == 0
    assert backend.opened == []
    assert (facts.drop_points, facts.divergence, facts.quantised) == (None, None, 5)


def test_ranges_are_chosen_by_the_select_pictures(
    proto: onnx.ModelProto, data: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = iter([0.4, 0.2, 0.3, 0.1])  # minmax, 99.99 %, 99.9 %, then the best without correction
    monkeypatch.setattr(mixed, "divergence", lambda *_: next(found))
    _, facts = quantise(proto, U8, data, Broken({}, {}))
    assert (facts.ranges, facts.bias_corrected, facts.divergence) == ("99.99 %", False, 0.1)


def test_the_same_twice_gives_the_same_bytes(proto: onnx.ModelProto, data: Calibration) -> None:
    one, other = (quantise(proto, U8, data, Broken({"pw": 50.0}, {}))[0] for _ in range(2))
    assert one.SerializeToString(deterministic=True) == other.SerializeToString(deterministic=True)


def test_divergence_is_zero_for_the_same_answers_and_known_for_others() -> None:
    logits = np.array([[1000.0, 0.0], [0.0, 2.0]], np.float32)
    assert divergence(logits, logits + 5) == pytest.approx(0, abs=1e-6)
    flat = np.log(np.array([[0.5, 0.5]], np.float32))
    skewed = np.log(np.array([[0.9, 0.1]], np.float32))
    assert divergence(flat, skewed) == pytest.approx(0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(0.5 / 0.1), rel=1e-5)


def test_what_was_found_survives_json(proto: onnx.ModelProto, data: Calibration) -> None:
    import json

    _, facts = quantise(proto, U8, data, Broken({"pw": 50.0}, {}))
    assert Quantisation.from_json(json.loads(json.dumps(dataclasses.asdict(facts)))) == facts
