"""Every family that can be cut goes to both runtimes, in fp32 and in INT8, or the refusal has a reason."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import families
import numpy as np
import onnx
import pytest
import torch
from families import Family
from torch import nn

from taco.exporters.loading import load_exporter
from taco.exporters.protocol import Artifact, Calibration, Compressed, FloatArray, Reference, RunOptions
from taco.gates import agreement
from taco.targets.loading import Target, load_target

TARGETS = ("host-cpu-int8", "host-cpu-openvino-int8")


def pictures(family: Family, n: int = 8) -> list[FloatArray]:
    """Smooth noise, so that values reach deep layers."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randn(n, 3, 8, 8, generator=generator)
    whole = nn.functional.interpolate(coarse, size=(family.pixels, family.pixels), mode="bilinear")
    return [p.numpy() for p in whole.split(1)]


def in_fp32(target: Target) -> Target:
    return dataclasses.replace(target, precision="fp32")


def norms(file: Path) -> int:
    return sum(node.op_type == "LayerNormalization" for node in onnx.load(file).graph.node)


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("family", families.CUT, ids=str)
def test_fp32_and_int8_run_and_agree_with_torch(family: Family, name: str, tmp_path: Path) -> None:
    target = load_target(name)
    if target.runtime == "ov":
        pytest.importorskip("openvino")
    exporter, shown, module = load_exporter(target.runtime), pictures(family), families.build(family)
    with torch.no_grad():
        expected = torch.cat([module(torch.from_numpy(p)) for p in shown]).numpy()
    size = (3, family.pixels, family.pixels)
    options = RunOptions(1, target.provider)

    def logits(artifact: Artifact) -> FloatArray:
        session = exporter.open(artifact.path, options)
        return np.concatenate([session.run(p) for p in shown])

    fp32 = exporter.export(Compressed(module, size), in_fp32(target), tmp_path / "fp32.onnx")
    assert np.abs(logits(fp32) - expected).max() <= 1e-3 * np.abs(expected).max()
    reference = Reference(lambda: shown, expected.argmax(1), expected)
    model = Compressed(module, size, Calibration(lambda: shown, reference), fp32.path)
    int8 = exporter.export(model, dataclasses.replace(target, threads=1), tmp_path / "int8.onnx")
    assert int8.quantisation is not None
    assert int8.quantisation.quantised + len(int8.quantisation.put_back) == int8.quantisation.layers
    assert all(item.reason for item in int8.quantisation.put_back)
    assert agreement(expected, logits(int8)).cosine > 0.9
    assert norms(fp32.path) == norms(int8.path) == sum(isinstance(m, nn.LayerNorm) for m in module.modules())
    for file in (fp32.path, int8.path):
        proto = onnx.load(file)
        del proto.graph.initializer[:]  # three random bytes of weights spell anything
        content = proto.SerializeToString()
        private = (str(Path.home()), str(Path(torch.__file__).parents[1]), str(tmp_path), ".py")
        assert [word for word in private if word != "/" and word.encode() in content] == []
