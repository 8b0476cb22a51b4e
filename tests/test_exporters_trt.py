"""TensorRT's exporter: precision in the graph, the rules kept, and the same answers on this machine."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import families
import numpy as np
import onnx
import pytest
import torch
from families import Family
from int8_models import calibration, small_net
from torch import nn

from taco.errors import GateError, MeasurementError, TargetError
from taco.exporters.editions import STRONG_OPSET, strong_file
from taco.exporters.graph import export_proto, write_proto
from taco.exporters.loading import load_exporter
from taco.exporters.mixed import quantise
from taco.exporters.opened import Simulated
from taco.exporters.opsets import NATIVE, lowered, opset_of, raised
from taco.exporters.protocol import Artifact, Calibration, Compressed, FloatArray, Reference, RunOptions
from taco.exporters.scheme import TENSORRT, scheme_for
from taco.exporters.trt import EXPORTER
from taco.exporters.trt_rules import breaches
from taco.metrics.gates import LEAST_COSINE, agreement
from taco.targets.loading import load_target

ORIN = load_target("jetson-orin")
INT8 = dataclasses.replace(ORIN, precision="int8")
FP32 = dataclasses.replace(ORIN, precision="fp32")
#: Largest difference of a logit as a share of the largest, FP16 stored between all operators; 0.0045 was the largest
#: found (efficientnet_lite0, random weights).
FP16_TOLERANCE = 0.01
_CNN, _VIT = (f for f in families.SMALL if f.label in ("test_efficientnet", "test_vit"))
#: A convolutional network and a transformer that take seconds; the slow tests have the others, and whole transformers.
QUICK = (
    _CNN,
    dataclasses.replace(_VIT, label="two blocks of a vit", arguments=(("img_size", 64), ("depth", 2)), pixels=64),
)


def pictures(family: Family, n: int = 8) -> list[FloatArray]:
    """Smooth noise, so that values reach deep layers."""
    coarse = torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    whole = nn.functional.interpolate(coarse, size=(family.pixels, family.pixels), mode="bilinear")
    return [p.numpy() for p in whole.split(1)]


def logits(file: Path, shown: list[FloatArray], *, simulate: bool = True) -> FloatArray:
    session = load_exporter("ort").open(file, RunOptions(1, simulate=simulate))
    return np.concatenate([session.run(p) for p in shown])


def check_family(family: Family, folder: Path) -> None:
    """Export in every precision; rules and answers hold."""
    module, shown, size = families.build(family), pictures(family), family.input_size
    with torch.no_grad():
        expected = torch.cat([module(torch.from_numpy(p)) for p in shown]).numpy()
    largest = np.abs(expected).max()
    fp32 = EXPORTER.export(Compressed(module, size), FP32, folder / "fp32.onnx")
    assert np.abs(logits(fp32.path, shown, simulate=False) - expected).max() <= 1e-3 * largest
    fp16 = EXPORTER.export(Compressed(module, size, fp32=fp32.path), ORIN, folder / "fp16.onnx")
    assert np.abs(logits(fp16.path, shown) - expected).max() <= FP16_TOLERANCE * largest
    reference = Reference(lambda: shown, expected.argmax(1), expected)
    int8 = EXPORTER.export(
        Compressed(module, size, Calibration(lambda: shown, reference), fp32.path), INT8, folder / "int8.onnx"
    )
    strong = folder / "strong.onnx"
    strong.write_bytes(strong_file(int8.path))
    answers = logits(int8.path, shown)
    assert agreement(expected, answers).cosine >= LEAST_COSINE["int8"]
    assert agreement(answers, logits(strong, shown)).cosine >= LEAST_COSINE["int8"]
    assert [a.precision for a in (fp32, fp16, int8)] == ["fp32", "fp16", "int8"]
    assert [a.opset for a in (fp32, fp16, int8)] == [17, 17, 17]
    assert opset_of(onnx.load(strong)) == STRONG_OPSET
    norms = sum(isinstance(m, nn.LayerNorm) for m in module.modules())
    for file in (fp32.path, fp16.path, int8.path, strong):
        proto = onnx.load(file)
        assert breaches(proto, opset_of(proto)) == []
        assert sum(node.op_type == "LayerNormalization" for node in proto.graph.node) == norms


@pytest.mark.parametrize("family", QUICK, ids=str)
def test_every_precision_keeps_the_rules_and_the_answers(family: Family, tmp_path: Path) -> None:
    check_family(family, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("family", [f for f in (*families.CUT, *families.UNCUT) if f not in QUICK], ids=str)
def test_every_family_keeps_the_rules_and_the_answers(family: Family, tmp_path: Path) -> None:
    check_family(family, tmp_path)


def test_running_needs_the_device() -> None:
    assert EXPORTER.check(ORIN) == ["a TensorRT engine for jetson-orin can only be built and run on that device"]


def test_opening_is_refused_with_the_instruction() -> None:
    with pytest.raises(MeasurementError, match=r"m\.onnx can run .* only on the device\. Run the command printed"):
        EXPORTER.open(Path("folder/m.onnx"), RunOptions(1))


def test_int8_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="no pictures to find its ranges on"):
        EXPORTER.export(Compressed(nn.Conv2d(3, 2, 8), (3, 8, 8)), INT8, tmp_path / "m.onnx")


def test_weights_are_halves_and_both_ends_are_float32(tmp_path: Path) -> None:
    artifact = EXPORTER.export(Compressed(nn.Conv2d(3, 32, 8), (3, 8, 8)), ORIN, tmp_path / "m.onnx")
    graph = onnx.load(artifact.path).graph
    assert {i.data_type for i in graph.initializer} == {onnx.TensorProto.FLOAT16}
    ends = (graph.input[0], graph.output[0])
    assert {value.type.tensor_type.elem_type for value in ends} == {onnx.TensorProto.FLOAT}
    assert (graph.node[0].op_type, graph.node[-1].op_type) == ("Cast", "Cast")


def test_a_weight_beyond_the_halves_is_refused_by_name(tmp_path: Path) -> None:
    module = nn.Conv2d(3, 32, 8)
    with torch.no_grad():
        module.weight[0, 0, 0, 0] = 1e5
    with pytest.raises(GateError, match=r"weight holds 1e\+05, which FP16 cannot"):
        EXPORTER.export(Compressed(module, (3, 8, 8)), ORIN, tmp_path / "m.onnx")


class _Norm(nn.Module):
    """A root of a sum of squares, which leaves the range of halves."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.norm(dim=(2, 3))


def test_sums_of_squares_stay_in_float32(tmp_path: Path) -> None:
    artifact = EXPORTER.export(Compressed(_Norm(), (3, 32, 32)), ORIN, tmp_path / "m.onnx")
    x = np.full((1, 3, 32, 32), 50, np.float32)  # the squares sum up to 2.56 million
    found = logits(artifact.path, [x])
    assert found == pytest.approx(np.full((1, 3), 1600.0), rel=1e-3)


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    net = small_net()
    proto, facts = quantise(net, TENSORRT, calibration(net), Simulated())
    return write_proto(proto, tmp_path_factory.mktemp("trt") / "int8.onnx", facts)


def test_int8_is_symmetric_with_float_weights_and_biases(quantised: Artifact) -> None:
    proto = onnx.load(quantised.path)
    assert breaches(proto, 20) == []
    constants = {i.name: onnx.numpy_helper.to_array(i) for i in proto.graph.initializer}
    zeros = {
        constants[n.input[2]].tolist()
        for n in proto.graph.node
        if n.op_type == "QuantizeLinear" and constants[n.input[2]].ndim == 0
    }
    assert zeros == {0}
    assert not {a.dtype for a in constants.values()} & {np.dtype(np.int32), np.dtype(np.uint8)}
    assert scheme_for("trt", "auto") is TENSORRT
    assert quantised.quantisation is not None
    assert quantised.quantisation.scheme == "S8S8, symmetric, 8-bit weights"


def test_a_product_with_a_side_below_16_stays_in_floats(quantised: Artifact) -> None:
    assert quantised.quantisation is not None
    assert quantised.quantisation.layers == 4, "the head has 4 outputs and is not among them"
    node = next(n for n in onnx.load(quantised.path).graph.node if n.name == "n_head")
    assert node.input[1] == "head.weight"


def test_the_weights_of_int8_lie_on_their_grid(quantised: Artifact) -> None:
    constants = {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(quantised.path).graph.initializer}
    grid, scale = constants["n_stem/weight/grid"], constants["n_stem/weight/scale"]
    steps = grid / scale[:, None, None, None]
    assert np.abs(steps - np.rint(steps)).max() < 1e-3
    assert 126 <= np.abs(steps).max() <= 127.001


class _Reduce(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=(2, 3)) + x.amax(dim=(2, 3))


def test_lowering_and_raising_keep_the_answers(tmp_path: Path) -> None:
    native = export_proto(Compressed(_Reduce(), (3, 8, 8)), NATIVE)
    low = lowered(native)
    assert opset_of(low) == 17
    assert any(a.name == "axes" for node in low.graph.node for a in node.attribute)
    high = raised(low, 20)
    assert opset_of(high) == 20
    assert not any(a.name == "axes" for node in high.graph.node for a in node.attribute)
    x = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    expected = _Reduce()(torch.from_numpy(x)).numpy()
    for name, proto in (("low", low), ("high", high)):
        file = write_proto(proto, tmp_path / f"{name}.onnx").path
        assert logits(file, [x]) == pytest.approx(expected, rel=1e-6)


def test_a_node_without_a_form_in_17_is_refused_by_name() -> None:
    native = export_proto(Compressed(_Reduce(), (3, 8, 8)), NATIVE)
    native.graph.node[0].op_type = "GroupNormalization"
    with pytest.raises(GateError, match=rf"node {native.graph.node[0].name} \(GroupNormalization\) has no form"):
        lowered(native)
