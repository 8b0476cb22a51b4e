"""Ranges: exact extremes, percentiles close to numpy's, one picture at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from int8_models import LAYERS, observe, pictures, run, small_net

from taco.errors import GateError
from taco.exporters.layers import Graph
from taco.exporters.ranges import METHODS
from taco.exporters.scheme import Scheme

U8 = Scheme(False, 8, True)


@pytest.fixture(scope="module")
def graph() -> Graph:
    return Graph(small_net())


def test_extremes_and_percentiles_are_those_of_all_values(graph: Graph) -> None:
    seen = observe(graph, U8, pictures)
    assert seen.pictures == 6
    for name in ("input", "a_relu", "c"):
        values = np.concatenate([p if name == "input" else run(graph.proto, p, name)[0] for p in pictures()]).ravel()
        low, high = seen.activations("minmax", corrected=False).ranges[name]
        np.testing.assert_allclose((low, high), (values.min(), values.max()), rtol=1e-5)
        width = (high - low) / 4096
        for method, outside in METHODS.items():
            if outside:
                inner = seen.activations(method, corrected=False).ranges[name]
                expected = np.quantile(values, [outside, 1 - outside], method="inverted_cdf")
                np.testing.assert_allclose(inner, expected, atol=2.5 * width)
                assert low <= inner[0] <= inner[1] <= high + width


def test_corrected_brings_the_shifts_and_plain_does_not(graph: Graph) -> None:
    seen = observe(graph, U8, pictures)
    assert seen.activations("minmax", corrected=False).shifts == {}
    assert set(seen.activations("minmax", corrected=True).shifts) == set(LAYERS)


def test_no_picture_is_said(graph: Graph) -> None:
    with pytest.raises(GateError, match="INT8 needs pictures"):
        observe(graph, U8, lambda: iter(()))


def test_what_is_no_number_is_said(graph: Graph) -> None:
    with pytest.raises(GateError, match="tensor input is not finite"):
        observe(graph, U8, lambda: [np.full((1, 3, 16, 16), np.nan, np.float32)])


def test_a_picture_of_another_size_is_said(graph: Graph) -> None:
    with pytest.raises(GateError, match="cannot be run to find ranges"):
        observe(graph, U8, lambda: [np.zeros((1, 3, 8, 8), np.float32)])


def test_pictures_are_asked_one_at_a_time(graph: Graph) -> None:
    """Never two alive: memory does not grow with their number."""
    import gc
    import weakref

    alive: list[weakref.ref[np.ndarray]] = []
    most = 0

    def watched() -> Iterator[np.ndarray]:
        nonlocal most
        for picture in pictures(5):
            alive.append(weakref.ref(picture))
            gc.collect()
            most = max(most, sum(r() is not None for r in alive))
            yield picture

    observe(graph, U8, watched)
    assert most <= 3
