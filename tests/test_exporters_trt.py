"""TensorRT's exporter writes the interchange and leaves the rest to the device."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from torch import nn

from taco.errors import MeasurementError
from taco.exporters.protocol import Compressed, RunOptions
from taco.exporters.trt import EXPORTER
from taco.targets.loading import load_target

ORIN = load_target("jetson-orin")


def test_running_needs_the_device() -> None:
    assert EXPORTER.check(ORIN) == ["a TensorRT engine for jetson-orin can only be built and run on that device"]


def test_it_writes_the_fp32_interchange_whatever_the_engine_computes_in(tmp_path: Path) -> None:
    assert ORIN.precision == "fp16"
    artifact = EXPORTER.export(Compressed(nn.Conv2d(3, 2, 8), (3, 8, 8)), ORIN, tmp_path / "m.onnx")
    assert artifact.precision == "fp32"
    types = {i.data_type for i in onnx.load(artifact.path).graph.initializer}
    assert onnx.TensorProto.FLOAT in types
    assert onnx.TensorProto.FLOAT16 not in types


def test_opening_is_refused_with_the_instruction() -> None:
    with pytest.raises(MeasurementError, match=r"m\.onnx can run .* only on the device\. Run the command printed"):
        EXPORTER.open(Path("folder/m.onnx"), RunOptions(1))
