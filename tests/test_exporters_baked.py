"""Preprocessing baked in: pixels in, probabilities out, the same answers."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from int8_models import SIZE, run, small_net
from tiny_bundle import PREPROCESSING

from taco.device.images import Preprocessing, to_tensor
from taco.device.opening import open_session
from taco.device.session import fixed_input
from taco.exporters.baked import bake
from taco.metrics.abstain import softmax
from taco.steps.baking import Baked, baked_gate

HOW = Preprocessing.from_dict(PREPROCESSING | {"input_size": SIZE, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]})
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3)).astype(np.uint8)


def test_the_same_probabilities_come_from_pixels() -> None:
    proto = small_net()
    before = proto.SerializeToString()
    baked = bake(proto, HOW)
    assert proto.SerializeToString() == before
    for pixels in PIXELS:
        expected = softmax(run(proto, to_tensor(pixels, HOW))[0])
        import onnxruntime

        session = onnxruntime.InferenceSession(baked.SerializeToString(), providers=["CPUExecutionProvider"])
        got = session.run(["probabilities"], {"pixels": pixels[None]})[0]
        np.testing.assert_allclose(got, expected, atol=1e-5)
        assert got.sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("provider", ["CPUExecutionProvider", "CPU"])
def test_both_runtimes_take_pixels_and_time_them(provider: str, tmp_path: Path) -> None:
    if provider == "CPU":
        pytest.importorskip("openvino")
    onnx.save(bake(small_net(), HOW), tmp_path / "baked.onnx")
    session = open_session(str(tmp_path / "baked.onnx"), 1, provider)
    assert session.input_dtype == "uint8"
    noise = fixed_input(session, 0)
    assert (noise.dtype, noise.shape) == (np.uint8, (1, 16, 16, 3))
    assert session.run(noise).shape == (1, 4)


@dataclasses.dataclass(frozen=True)
class Case:
    pixels: int
    files: int
    passes: bool


@pytest.mark.parametrize("case", [Case(0, 0, True), Case(0, 1, True), Case(0, 2, False), Case(1, 0, False)], ids=str)
def test_answers_on_pixels_are_equal_and_through_files_nearly(case: Case) -> None:
    gate = baked_gate(Baked(Path(), ("a.jpg",) * case.pixels, ("b.jpg",) * case.files, 200))
    assert gate.passed is case.passes
    assert ("b.jpg" in gate.measured) is bool(case.files)
