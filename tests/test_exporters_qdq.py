"""Q/DQ: where it is placed, that integers are right to the last one, and that the fp32 graph is left alone."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from int8_models import CLASSES, LAYERS, observe, pictures, run, small_net
from onnx import helper, numpy_helper

from taco.exporters import scheme as scheme_module
from taco.exporters.layers import Graph
from taco.exporters.qdq import Activations, RoundedWeights, activation_scale, insert_qdq, round_weight
from taco.exporters.scheme import Scheme, here, scheme_for

U8, U7, S8 = Scheme(False, 8, True), Scheme(False, 7, True), Scheme(True, 8, True)
INPUTS_ONLY = Scheme(False, 8, False)


@pytest.fixture(scope="module")
def graph() -> Graph:
    return Graph(small_net())


def ranges(graph: Graph, scheme: Scheme) -> Activations:
    return observe(graph, scheme, pictures).activations("minmax", corrected=False)


def changed(proto: onnx.ModelProto, **layers: dict[int, tuple[float, float]]) -> onnx.ModelProto:
    """Give output channels of layers another largest weight and another bias."""
    graph, constants = Graph(proto), {i.name: i for i in proto.graph.initializer}
    for layer in (found for found in graph.layers if found.name in layers):
        weight = np.moveaxis(graph.constant(layer.weight), layer.axis, 0).copy()
        bias = graph.constant(str(layer.bias)).copy()
        for row, (top, constant) in layers[layer.name].items():
            weight[row] *= top / np.abs(weight[row]).max()
            bias[row] = constant
        new = np.ascontiguousarray(np.moveaxis(weight, 0, layer.axis))
        constants[layer.weight].CopyFrom(numpy_helper.from_array(new, layer.weight))
        constants[str(layer.bias)].CopyFrom(numpy_helper.from_array(bias, str(layer.bias)))
    return proto


def kinds(proto: onnx.ModelProto) -> dict[str, int]:
    found: dict[str, int] = {}
    for node in proto.graph.node:
        found[node.op_type] = found.get(node.op_type, 0) + 1
    return found


# --- what is found ---------------------------------------------------------------------------------------------------


def test_layers_are_named_after_their_torch_modules(graph: Graph) -> None:
    assert tuple(layer.name for layer in graph.layers) == LAYERS
    by_name = {layer.name: layer for layer in graph.layers}
    assert by_name["stem"].result == "a_relu"
    assert by_name["dw"].result == "b_clip"
    assert by_name["pw"].result == "c"
    assert (by_name["fc1"].axis, by_name["fc1"].bias, by_name["fc1"].bias_node) == (1, "fc1.bias", "n_fc1_bias")
    assert (by_name["head"].axis, by_name["head"].bias, by_name["head"].bias_node) == (0, "head.bias", None)


def test_macs_are_counted_by_hand(graph: Graph) -> None:
    assert graph.macs() == {"stem": 256 * 16 * 27, "dw": 256 * 16 * 9, "pw": 256 * 256, "fc1": 512, "head": 128}


def test_all_sides_or_inputs_only(graph: Graph) -> None:
    assert graph.tensors(LAYERS, all_sides=True) == ["input", "a_relu", "b_clip", "c", "pooled", "e_relu"]
    assert graph.tensors(LAYERS, all_sides=False) == ["input", "a_relu", "b_clip", "pooled", "e_relu"]
    assert graph.tensors(["pw"], all_sides=True) == ["b_clip", "c"]
    assert graph.tensors([], all_sides=True) == []


def test_other_operand_of_an_add_is_quantised_where_its_result_is() -> None:
    proto = small_net()
    next_layer = helper.make_node("Conv", ["d", "pw.weight"], ["f"], "n_next")
    proto.graph.node.insert(6, next_layer)
    proto.graph.node[7].input[0] = "f"
    assert "a_relu" in Graph(proto).tensors(["pw", "n_next"], all_sides=True)
    assert "a_relu" not in Graph(proto).tensors(["pw", "n_next"], all_sides=False)


@pytest.mark.parametrize("attribute", [{"transA": 1}, {"alpha": 0.5}, {"beta": 2.0}], ids=str)
def test_a_gemm_that_has_no_int8_form_is_left_alone(attribute: dict[str, float]) -> None:
    proto = small_net()
    proto.graph.node[-1].attribute.extend(helper.make_attribute(k, v) for k, v in attribute.items())
    assert "head" not in {layer.name for layer in Graph(proto).layers}


def test_products_of_few_terms_and_of_two_activations_are_left_alone() -> None:
    proto = small_net()
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros((CLASSES, 8), np.float32), "thin"))
    proto.graph.node.append(helper.make_node("MatMul", ["logits", "thin"], ["x"], "n_thin"))
    proto.graph.node.append(helper.make_node("MatMul", ["e_relu", "x"], ["y"], "n_attention"))
    assert {layer.name for layer in Graph(proto).layers} == set(LAYERS)


# --- rounding --------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.sampled_from([U8, U7]), st.sampled_from([0, 1]))
def test_weights_round_to_the_nearest_step_of_their_own_channel(seed: int, scheme: Scheme, axis: int) -> None:
    rng = np.random.default_rng(seed)
    weight = (rng.standard_normal((6, 5)) * rng.lognormal(0, 3, (6, 5))).astype(np.float32)
    integers, scale = round_weight(weight, axis, scheme)
    assert integers.dtype == np.int8
    assert integers.shape == weight.shape
    assert np.abs(integers).max() <= scheme.weight_limit
    shape = (-1, 1) if axis == 0 else (1, -1)
    steps = scale.reshape(shape)
    inside = np.abs(weight) <= scheme.weight_limit * steps
    assert (np.abs(integers * steps - weight)[inside] <= 0.5001 * np.broadcast_to(steps, weight.shape)[inside]).all()
    plain = np.abs(weight).max(axis=1 - axis).reshape(shape) / scheme.weight_limit
    worse = ((np.rint(weight / plain) * plain - weight) ** 2).sum(axis=1 - axis)
    assert (((integers * steps - weight) ** 2).sum(axis=1 - axis) <= worse * 1.0001 + 1e-12).all()


def test_an_output_channel_of_zeros_stays_zero() -> None:
    integers, scale = round_weight(np.zeros((3, 4), np.float32), 0, U8)
    assert not integers.any()
    assert (scale > 0).all()


@given(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4), st.sampled_from([U8, S8]))
def test_zero_is_exact_and_the_range_is_covered(one: float, other: float, scheme: Scheme) -> None:
    low, high = min(one, other), max(one, other)
    scale, zero = activation_scale(low, high, scheme)
    least, most = scheme.activation_limits
    assert least <= zero <= most
    step = float(scale)
    assert (least - zero) * step <= min(low, 0) + 0.51 * step
    assert (most - zero) * step >= max(high, 0) - 0.51 * step


@pytest.mark.parametrize("scheme", [U8, S8], ids=lambda s: s.words)
def test_a_tensor_that_is_always_zero_has_a_scale(scheme: Scheme) -> None:
    assert activation_scale(0.0, 0.0, scheme) == (1.0, scheme.activation_limits[0])


def test_activations_that_are_never_negative_use_every_step() -> None:
    assert activation_scale(0.0, 6.0, U8)[1] == 0
    assert activation_scale(0.0, 6.0, S8)[1] == -128


# --- what is written -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", [U8, U7, S8, INPUTS_ONLY], ids=lambda s: f"{s.words} {s.all_sides}")
def test_the_graph_stays_valid_and_close_to_fp32(graph: Graph, scheme: Scheme) -> None:
    before = graph.proto.SerializeToString()
    proto = insert_qdq(graph, LAYERS, scheme, ranges(graph, scheme))
    onnx.checker.check_model(proto, full_check=True)
    assert graph.proto.SerializeToString() == before
    for picture in pictures():
        expected, got = run(graph.proto, picture)[0], run(proto, picture, optimise=False)[0]
        assert np.abs(expected - got).max() < 0.06 * np.abs(expected).max()
        assert not np.array_equal(expected, got)
    weights = {i.name: i for i in proto.graph.initializer}
    assert not {f"{layer}.weight" for layer in LAYERS} & weights.keys(), "the fp32 weight is no longer there"
    assert weights["n_stem/weight/q"].data_type == onnx.TensorProto.INT8


def test_onnx_runtime_computes_every_layer_on_integers(graph: Graph, tmp_path_factory: pytest.TempPathFactory) -> None:
    import onnxruntime

    proto = insert_qdq(graph, LAYERS, U7, ranges(graph, U7))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path_factory.mktemp("o") / "optimised.onnx")
    onnxruntime.InferenceSession(proto.SerializeToString(), options)
    found = kinds(onnx.load(options.optimized_model_filepath))
    assert found["QLinearConv"] == 3
    assert found.get("QGemm", 0) + found.get("MatMulIntegerToFloat", 0) == 2
    assert not {"Conv", "Gemm", "MatMul", "Clip", "FusedConv", "FusedGemm"} & found.keys()


def test_real_integers_agree_with_their_meaning(graph: Graph) -> None:
    """The file run node by node in floats, and by INT8 kernels: seven bits do not overflow on any processor."""
    proto = insert_qdq(graph, LAYERS, U7, ranges(graph, U7))
    for picture in pictures(3):
        meant, got = run(proto, picture, optimise=False)[0], run(proto, picture)[0]
        assert np.abs(meant - got).max() < 0.03 * np.abs(meant).max()


def test_a_layer_that_is_left_out_keeps_its_weight_and_gets_no_quantiser_of_its_own(graph: Graph) -> None:
    chosen = [name for name in LAYERS if name != "dw"]
    proto = insert_qdq(graph, chosen, U8, ranges(graph, U8))
    names = {i.name for i in proto.graph.initializer}
    assert {"dw.weight", "dw.bias"} <= names
    dw = next(node for node in proto.graph.node if node.name == "n_dw")
    assert list(dw.input) == ["a_relu/dq", "dw.weight", "dw.bias"]
    assert insert_qdq(graph, [], U8, Activations({}, {})).graph == graph.proto.graph


def test_no_node_or_tensor_comes_twice(graph: Graph) -> None:
    proto = insert_qdq(graph, LAYERS, U8, ranges(graph, U8))
    made = [out for node in proto.graph.node for out in node.output]
    nodes = [node.name for node in proto.graph.node]
    constants = [i.name for i in proto.graph.initializer]
    assert len(set(made)) == len(made)
    assert len(set(nodes)) == len(nodes)
    assert len(set(constants)) == len(constants)


def test_a_bias_is_rounded_in_steps_of_input_times_weight(graph: Graph) -> None:
    seen = ranges(graph, U8)
    proto = insert_qdq(graph, LAYERS, U8, seen)
    constants = {i.name: numpy_helper.to_array(i) for i in proto.graph.initializer}
    step = activation_scale(*seen.ranges["a_relu"], U8)[0] * constants["n_dw/weight/scale"]
    np.testing.assert_array_equal(constants["n_dw/bias/scale"], step)
    np.testing.assert_allclose(constants["n_dw/bias/q"] * step, graph.constant("dw.bias"), atol=float(step.max()))


@pytest.mark.parametrize("scheme", [U8, U7, S8, INPUTS_ONLY], ids=lambda s: f"{s.words} {s.all_sides}")
@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("layer", ["stem", "dw", "fc1", "head"])
def test_a_nearly_dead_channel_keeps_its_bias(layer: str, corrected: bool, scheme: Scheme) -> None:
    """Its steps of input times weight would be so small that 0.5 of them do not fit into int32."""
    graph = Graph(changed(small_net(), **{layer: {0: (1e-12, 0.5), 1: (2e-6, -0.5), 2: (1e-40, 0.0)}}))
    seen = observe(graph, scheme, pictures).activations("minmax", corrected=corrected)
    proto = insert_qdq(graph, LAYERS, scheme, seen)
    tensor = "e_biased" if layer == "fc1" else next(x.output for x in graph.layers if x.name == layer)
    for picture in pictures(2):
        expected, found = run(graph.proto, picture, tensor)[0], run(proto, picture, tensor, optimise=False)[0]
        np.testing.assert_allclose(found[:, :3], expected[:, :3], atol=1e-4)
        if (
            scheme is U7 or here() != "x86"
        ):  # else sums of two products of eight bits overflow, see `taco.exporters.scheme`
            np.testing.assert_allclose(run(proto, picture)[0], run(proto, picture, optimise=False)[0], atol=0.05)
    whole = [numpy_helper.to_array(i) for i in proto.graph.initializer if i.name.endswith("/bias/q")]
    assert max(np.abs(q.astype(np.int64)).max() for q in whole) <= 1.001 * 2**30, "sums of products need room as well"


def test_weights_of_channels_whose_bias_fits_stay_as_they_were(graph: Graph) -> None:
    before = insert_qdq(graph, LAYERS, U8, ranges(graph, U8))
    dead = Graph(changed(small_net(), stem={0: (1e-12, 0.5)}))
    after = insert_qdq(dead, LAYERS, U8, ranges(dead, U8))
    stem = [{i.name: numpy_helper.to_array(i) for i in proto.graph.initializer} for proto in (before, after)]
    for name in ("n_stem/weight/q", "n_stem/weight/scale", "n_stem/bias/q"):
        np.testing.assert_array_equal(stem[0][name][1:], stem[1][name][1:])
    assert not stem[1]["n_stem/weight/q"][0].any()


def test_shifts_are_what_rounded_weights_add_on_average(graph: Graph) -> None:
    """Against the same layers run on dequantised weights, padding included."""
    seen = observe(graph, U7, pictures)
    expected = {layer.name: [] for layer in graph.layers}
    rounded = onnx.ModelProto()
    for layer in graph.layers:
        rounded.CopyFrom(graph.proto)
        for initializer in rounded.graph.initializer:
            if initializer.name == layer.weight:
                changed = graph.constant(layer.weight) + RoundedWeights(graph, U7).error(layer)
                initializer.CopyFrom(numpy_helper.from_array(changed, layer.weight))
        for picture in pictures():
            before, after = run(graph.proto, picture, layer.output)[0], run(rounded, picture, layer.output)[0]
            difference = (after - before).reshape(before.shape[1], -1).mean(1)
            expected[layer.name].append(difference)
    for name, values in expected.items():
        np.testing.assert_allclose(seen.shifts[name], np.mean(values, axis=0), atol=2e-5)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_corrected_bias_takes_the_shift_off(graph: Graph, layer: str) -> None:
    seen = observe(graph, U7, pictures)
    plain = insert_qdq(graph, [layer], U7, seen.activations("minmax", corrected=False))
    corrected = insert_qdq(graph, [layer], U7, seen.activations("minmax", corrected=True))
    found = next(item for item in graph.layers if item.name == layer)
    tensor = "e_biased" if layer == "fc1" else found.output

    def off(proto: onnx.ModelProto) -> float:
        means = [
            (run(proto, p, tensor, optimise=False)[0] - run(graph.proto, p, tensor)[0]).reshape(
                len(seen.shifts[layer]), -1
            )
            for p in pictures()
        ]
        return float(np.abs(np.mean([m.mean(1) for m in means], axis=0)).mean())

    assert off(corrected) < 0.75 * off(plain)


# --- which scheme ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("instructions", "words"),
    [("x86-vnni", "U8S8, 8-bit weights"), ("x86", "U8S8, 7-bit weights"), ("arm", "S8S8, 8-bit weights")],
)
def test_each_processor_gets_its_own(instructions: scheme_module.Instructions, words: str) -> None:
    assert scheme_for("ort", instructions).words == words
    assert scheme_for("ort", instructions).all_sides
    assert not scheme_for("ov", instructions).all_sides


@pytest.mark.parametrize(
    ("machine", "isa", "expected"),
    [
        ("x86_64", ["avx2"], "x86"),
        ("x86_64", ["avx2", "avx_vnni"], "x86-vnni"),
        ("x86_64", ["avx512_vnni"], "x86-vnni"),
        ("aarch64", ["asimddp"], "arm"),
    ],
)
def test_this_machine_is_looked_at(
    monkeypatch: pytest.MonkeyPatch, machine: str, isa: list[str], expected: str
) -> None:
    monkeypatch.setattr(scheme_module, "probe", lambda: {"machine": machine, "isa": isa})
    assert here() == expected
    assert scheme_for("ort", "auto") == scheme_for("ort", expected)  # type: ignore[arg-type]
