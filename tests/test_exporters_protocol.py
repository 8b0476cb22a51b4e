"""The boundary itself: values that cannot change, and no torch until a module is exported."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from taco.exporters.protocol import Artifact, RunOptions


def test_values_cannot_change() -> None:
    artifact = Artifact(Path("m.onnx"), "00", 3, "fp32", 20, 7)
    with pytest.raises(dataclasses.FrozenInstanceError):
        artifact.nodes = 8  # type: ignore[misc]
    assert RunOptions(threads=2).provider == "CPUExecutionProvider"


def test_the_boundary_loads_neither_torch_nor_a_runtime() -> None:
    code = "import sys, taco.exporters.protocol; print(sorted({'torch', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
