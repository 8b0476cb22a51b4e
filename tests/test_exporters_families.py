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
from taco.metrics.gates import agreement
from taco.targets.loading import Target, load_target

TARGETS = ("host-cpu-int8", "host-cpu-openvino-int8")
#: timm builds the same modules for it, of the same shapes, as for a family that is tested.
BUILT_ALIKE = ("deit",)


def pictures(family: Family, n: int = 4) -> list[FloatArray]:
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
@pytest.mark.parametrize("family", [f for f in families.CUT if f.label not in BUILT_ALIKE], ids=str)
def test_fp32_and_int8_run_and_agree_with_torch(family: Family, tmp_path: Path) -> None:
    """Both exporters write fp32 from the same graph, which torch makes once for both."""
    module, size, fp32 = families.build(family), (3, family.pixels, family.pixels), None
    for name in TARGETS:
        target = load_target(name)
        if target.runtime == "ov":
            pytest.importorskip("openvino")
        artifact = load_exporter(target.runtime).export(
            Compressed(module, size, fp32=fp32), in_fp32(target), tmp_path / f"{target.runtime}-fp32.onnx"
        )
        check_both_precisions(family, target, artifact, tmp_path)
        fp32 = artifact.path


def check_both_precisions(family: Family, target: Target, fp32: Artifact, folder: Path) -> None:
    """Compare the fp32 file, and the INT8 file made of it, with torch on this runtime."""
    exporter, shown, module = load_exporter(target.runtime), pictures(family), families.build(family)
    with torch.no_grad():
        expected = torch.cat([module(torch.from_numpy(p)) for p in shown]).numpy()
    options = RunOptions(1, target.provider)

    def logits(artifact: Artifact) -> FloatArray:
        session = exporter.open(artifact.path, options)
        return np.concatenate([session.run(p) for p in shown])

    assert np.abs(logits(fp32) - expected).max() <= 1e-3 * np.abs(expected).max()
    reference = Reference(lambda: shown, expected.argmax(1), expected)
    model = Compressed(module, (3, family.pixels, family.pixels), Calibration(lambda: shown, reference), fp32.path)
    int8 = exporter.export(model, dataclasses.replace(target, threads=1), folder / f"{target.runtime}-int8.onnx")
    assert int8.quantisation is not None
    assert int8.quantisation.quantised + len(int8.quantisation.put_back) == int8.quantisation.layers
    assert all(item.reason for item in int8.quantisation.put_back)
    assert agreement(expected, logits(int8)).cosine > 0.9
    assert norms(fp32.path) == norms(int8.path) == sum(isinstance(m, nn.LayerNorm) for m in module.modules())
    for file in (fp32.path, int8.path):
        proto = onnx.load(file)
        del proto.graph.initializer[:]  # three random bytes of weights spell anything
        content = proto.SerializeToString()
        private = (str(Path.home()), str(Path(torch.__file__).parents[1]), str(folder), ".py")
        assert [word for word in private if word != "/" and word.encode() in content] == []
