"""Rounding for the least error of outputs: what layers read, the error, memory in lots."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from int8_models import LAYERS, Floats, calibration, observe, pictures, run, small_net
from onnx import TensorProto, helper, numpy_helper

from taco.exporters import mixed, rounding
from taco.exporters.layers import Graph
from taco.exporters.mixed import quantise
from taco.exporters.opened import Simulated
from taco.exporters.protocol import Calibration
from taco.exporters.qdq import RoundedWeights
from taco.exporters.rounding import Window, rounded_for_outputs
from taco.exporters.scheme import Scheme

U8 = Scheme(False, 8, True)
COARSE = Scheme(False, 4, True)


@pytest.fixture(scope="module")
def graph() -> Graph:
    return Graph(small_net())


def convolution(group: int, kernel: tuple[int, int], rows: int = 4, **attributes: list[int] | str) -> onnx.ModelProto:
    rng = np.random.default_rng(3)
    weight = rng.standard_normal((rows, 4 // group, *kernel)).astype(np.float32)
    node = helper.make_node("Conv", ["input", "w.weight"], ["out"], "n", group=group, **attributes)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("input", "out")]
    ends[0].type.tensor_type.shape.CopyFrom(
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 9, 8]).type.tensor_type.shape
    )
    body = helper.make_graph([node], "g", ends[:1], ends[1:], [numpy_helper.from_array(weight, "w.weight")])
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([1, 2, 4]),
    st.sampled_from([(1, 1), (3, 3), (3, 2)]),
    st.integers(1, 2),
    st.integers(1, 2),
    st.integers(0, 2),
)
def test_a_convolution_is_the_product_of_what_is_read(
    group: int, kernel: tuple[int, int], stride: int, dilation: int, pad: int
) -> None:
    proto = convolution(
        group, kernel, strides=[stride, 1], dilations=[dilation, 1], pads=[pad, 0, 1, pad], kernel_shape=list(kernel)
    )
    graph, picture = Graph(proto), np.random.default_rng(0).standard_normal((1, 4, 9, 8)).astype(np.float32)
    weight = graph.constant("w.weight")
    window = Window.of(proto.graph.node[0], graph.layers[0], weight.shape)
    assert window is not None
    read = window.read(picture, 10_000, np.random.default_rng(0)).numpy()
    outputs = read @ weight.reshape(group, 4 // group, -1).transpose(0, 2, 1)  # (groups, n, rows of a group)
    expected = run(proto, picture)[0].reshape(4, -1)
    np.testing.assert_allclose(outputs.transpose(0, 2, 1).reshape(4, -1), expected, rtol=1e-4, atol=1e-4)


def test_of_many_places_some_count_and_none_twice() -> None:
    proto = convolution(1, (3, 3), kernel_shape=[3, 3])
    window = Window.of(proto.graph.node[0], Graph(proto).layers[0], (4, 4, 3, 3))
    assert window is not None
    picture = np.random.default_rng(0).standard_normal((1, 4, 9, 8)).astype(np.float32)
    read = window.read(picture, 5, np.random.default_rng(0)).numpy()
    assert read.shape == (1, 5, 36)
    assert len(np.unique(read, axis=1)[0]) == 5


def output_error(graph: Graph, weights: RoundedWeights, layer: int) -> float:
    """Return the mean squared error of a layer's output over the pictures, from its error weight alone."""
    from taco.exporters.ranges import Runner

    one = graph.layers[layer]
    node = next(n for n in graph.proto.graph.node if n.name == one.node)
    window = Window.of(node, one, graph.constant(one.weight).shape)
    assert window is not None
    error = np.moveaxis(weights.error(one), one.axis, 0).reshape(window.shape)
    total = 0.0
    for picture in pictures():
        value = dict(Runner(graph.proto, [one.input])(picture))[one.input]
        total += float(
            np.square(window.read(value, 10_000, np.random.default_rng(0)).numpy() @ error.transpose(0, 2, 1)).sum()
        )
    return total


@pytest.mark.parametrize("layer", range(len(LAYERS)), ids=LAYERS)
def test_outputs_err_less_than_with_nearest_steps(graph: Graph, layer: int) -> None:
    """On pictures whose every place counts; four bits, where rounding matters."""
    nearest = RoundedWeights(graph, COARSE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounding, "PLACES", 10_000)
        settled = rounded_for_outputs(graph, COARSE, nearest, pictures, 6)
    one = graph.layers[layer]
    (before, scale), (after, scale_after) = nearest.of(one), settled.of(one)
    np.testing.assert_array_equal(scale, scale_after)
    assert after.dtype == np.int8
    assert after.shape == before.shape
    assert np.abs(after).max() <= COARSE.weight_limit
    if not np.array_equal(before, after):
        assert output_error(graph, settled, layer) < output_error(graph, nearest, layer)


def test_most_layers_gain_much(graph: Graph) -> None:
    nearest = RoundedWeights(graph, COARSE)
    settled = rounded_for_outputs(graph, COARSE, nearest, pictures, 6)
    shares = [output_error(graph, settled, n) / output_error(graph, nearest, n) for n in range(len(LAYERS))]
    assert float(np.median(shares)) < 0.8


def test_lots_do_not_change_the_result(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small layers whose every place is read: what is drawn does not depend on the lot."""
    monkeypatch.setattr(rounding, "PLACES", 10_000)
    nearest = RoundedWeights(graph, U8)
    whole = rounded_for_outputs(graph, U8, nearest, pictures, 6)
    passes = []

    def counted() -> object:
        passes.append(1)
        return pictures()

    monkeypatch.setattr(rounding, "LOT_BYTES", 1)
    single = rounded_for_outputs(graph, U8, nearest, counted, 6)  # type: ignore[arg-type]
    assert len(passes) == len(LAYERS)
    for layer in graph.layers:
        np.testing.assert_array_equal(whole.of(layer)[0], single.of(layer)[0])


def test_a_layer_that_pads_by_itself_keeps_its_nearest_steps() -> None:
    graph = Graph(convolution(1, (3, 3), auto_pad="SAME_UPPER"))
    nearest = RoundedWeights(graph, COARSE)
    picture = np.random.default_rng(0).standard_normal((1, 4, 9, 8)).astype(np.float32)
    settled = rounded_for_outputs(graph, COARSE, nearest, lambda: [picture], 1)
    np.testing.assert_array_equal(settled.of(graph.layers[0])[0], nearest.of(graph.layers[0])[0])


def test_inputs_that_are_always_zero_keep_their_nearest_steps() -> None:
    graph = Graph(convolution(1, (1, 1)))
    nearest = RoundedWeights(graph, COARSE)
    picture = np.random.default_rng(0).standard_normal((1, 4, 9, 8)).astype(np.float32)
    picture[:, 1] = 0
    settled = rounded_for_outputs(graph, COARSE, nearest, lambda: [picture], 1)
    (before, _), (after, _) = nearest.of(graph.layers[0]), settled.of(graph.layers[0])
    np.testing.assert_array_equal(after[:, 1], before[:, 1])
    nothing = rounded_for_outputs(graph, COARSE, nearest, lambda: [np.zeros_like(picture)], 1)
    np.testing.assert_array_equal(nothing.of(graph.layers[0])[0], before)


def test_what_is_judged_is_rounded_so_and_what_is_only_timed_is_not(graph: Graph) -> None:
    data = calibration(graph.proto)
    nearest = RoundedWeights(graph, U8)
    settled = rounded_for_outputs(graph, U8, nearest, data.fit, 6)
    for shown, expected, words in (
        (data, settled, "output error"),
        (Calibration(data.fit), nearest, "nearest"),
    ):
        found, facts = quantise(graph.proto, U8, shown, Simulated())
        assert facts.rounding == words
        held = {i.name: numpy_helper.to_array(i) for i in found.graph.initializer}
        for layer in graph.layers:
            np.testing.assert_array_equal(held[f"{layer.node}/weight/q"], expected.of(layer)[0])
    assert any(not np.array_equal(settled.of(layer)[0], nearest.of(layer)[0]) for layer in graph.layers)


def test_biases_make_up_for_what_was_really_rounded(graph: Graph) -> None:
    """The shift is of the weights that are shipped, not of the nearest ones."""
    data = calibration(graph.proto)
    search = mixed._Search(graph, U8, data, Simulated(), Path())
    found, fresh, nearest = search.observed, observe(graph, U8, data.fit, search.rounded), observe(graph, U8, data.fit)
    for name, shift in fresh.shifts.items():
        np.testing.assert_allclose(found.shifts[name], shift, rtol=1e-6, atol=1e-9)
    assert any(not np.array_equal(found.shifts[name], nearest.shifts[name]) for name in LAYERS)


def test_the_same_twice_gives_the_same_integers(graph: Graph) -> None:
    def integers() -> list[Floats]:
        settled = rounded_for_outputs(graph, U8, RoundedWeights(graph, U8), pictures, 6)
        return [settled.of(layer)[0] for layer in graph.layers]

    for one, other in zip(integers(), integers(), strict=True):
        np.testing.assert_array_equal(one, other)
