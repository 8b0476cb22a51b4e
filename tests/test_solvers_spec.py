"""Levels: what they refuse, which columns make a block, how much they remove."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from taco.errors import SolverError
from taco.solvers import Spec


def test_blocks_with_a_stride_run_along_the_input_channels() -> None:
    assert Spec.nm(1, 2, stride=3).blocks(12).tolist() == [[0, 3], [1, 4], [2, 5], [6, 9], [7, 10], [8, 11]]
    assert Spec.block(2, 0.5).blocks(4).tolist() == [[0, 1], [2, 3]]


@pytest.mark.parametrize(
    ("spec", "removed"),
    [
        (Spec(), 0),
        (Spec.unstructured(0.5), 36),
        (Spec.unstructured(0.99), 71),
        (Spec.nm(1, 4), 54),
        (Spec.nm(4, 4), 0),
        (Spec.block(4, 0.5), 36),
        (Spec.block(4, 0.99), 72),
        (Spec.channels(1, 4), 48),
        (Spec.channels(3, 4), 0),
        (Spec.channels(9, 4), 0),
        (Spec.channels(0, 4), 72),
    ],
    ids=str,
)
def test_what_a_level_removes_of_two_groups_of_three_rows_of_twelve(spec: Spec, removed: int) -> None:
    assert spec.removed(2, 3, 12) == removed


@pytest.mark.parametrize("spec", [Spec.nm(2, 4), Spec.block(4, 0.5), Spec.channels(1, 4), Spec.nm(1, 2, 2)], ids=str)
def test_columns_that_do_not_divide_are_refused(spec: Spec) -> None:
    with pytest.raises(SolverError, match="10 columns are no multiple of 4"):
        spec.removed(1, 1, 10)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Spec.unstructured(1.0),
        lambda: Spec.unstructured(-0.1),
        lambda: Spec.unstructured(float("nan")),
        lambda: Spec.nm(0, 4),
        lambda: Spec.nm(5, 4),
        lambda: Spec.nm(2, 4, stride=0),
        lambda: Spec.block(0, 0.5),
        lambda: Spec.block(4, 1.0),
        lambda: Spec.block(4, 0.5, stride=0),
        lambda: Spec.channels(-1),
        lambda: Spec.channels(1, 0),
        lambda: Spec.quantize(1),
        lambda: Spec.quantize(17),
        lambda: Spec.nm(2, 4).then(Spec.nm(2, 4)),
        lambda: Spec.nm(2, 4).then(Spec()),
        lambda: Spec.nm(2, 4).then(Spec.quantize(8)).then(Spec.quantize(4)),
    ],
)
def test_levels_that_do_not_exist_are_refused_with_advice(make: Callable[[], Spec]) -> None:
    with pytest.raises(SolverError) as caught:
        make()
    assert caught.value.todo


def test_a_pattern_followed_by_a_grid_keeps_both() -> None:
    spec = Spec.channels(3, 2).then(Spec.quantize(8, symmetric=False))
    assert (spec.pattern, spec.keep, spec.size) == ("channels", 3, 2)
    assert spec.quantization == Spec.quantize(8, symmetric=False).quantization
