"""Parity as ARCHITECTURE section 8 defines it, with hand-made logits."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taco.errors import GateError
from taco.metrics.parity import ParityResult, compare, require

Logits = npt.NDArray[np.float32]


def logits(*rows: list[float]) -> Logits:
    return np.array(rows, np.float32)


def test_figures_of_a_hand_made_case() -> None:
    # largest magnitude 10 -> tolerance 0.01; margins 12, 0.05 and 3, of which two exceed 0.1
    expected = logits([2, -10], [1.05, 1.0], [0, 3])
    got = logits([2.004, -10], [1.0, 1.05], [0, 3])
    result = compare(expected, got)
    assert result.tolerance == pytest.approx(0.01)
    assert result.max_abs == pytest.approx(0.05, rel=1e-5)
    assert (result.counted, result.images, result.argmax_agreement) == (2, 3, 100.0)


def test_equal_logits_pass() -> None:
    values = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    result = compare(values, values.copy())
    assert result.max_abs == 0
    require(result)


def test_a_changed_clear_answer_is_counted_and_refused() -> None:
    result = compare(logits([1, 0], [0, 1], [1, 0], [0, 1]), logits([1, 0], [1, 0], [1, 0], [0, 1]))
    assert result.argmax_agreement == 75.0
    with pytest.raises(GateError, match=r"75\.0 % of 4 clear answers agree"):
        require(result)


@dataclasses.dataclass(frozen=True)
class Edge:
    name: str
    max_abs: float
    agreement: float
    passes: bool


EDGES = (
    Edge("at the tolerance", 0.01, 100.0, True),
    Edge("just beyond it", 0.010001, 100.0, False),
    Edge("one answer differs", 0.0, 99.9, False),
)


@pytest.mark.parametrize("edge", EDGES, ids=lambda e: e.name)
def test_the_gate(edge: Edge) -> None:
    result = ParityResult(edge.max_abs, 0.01, edge.agreement, counted=3, images=3)
    if edge.passes:
        require(result)
    else:
        with pytest.raises(GateError, match="differs from torch") as caught:
            require(result)
        assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    "expected", [logits([0, 0], [0, 0]), logits([5, 5], [3, 3]), logits([100.0, 99.1])], ids=["zero", "ties", "near"]
)
def test_nothing_clear_is_an_error_not_a_pass_on_zero_pictures(expected: Logits) -> None:
    with pytest.raises(GateError, match=f"no picture of {len(expected)} is clearly one class"):
        compare(expected, expected.copy())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", ["expected", "got"])
def test_values_that_are_not_finite_are_refused(bad: float, side: str) -> None:
    both = {"expected": logits([1, 0], [0, 1]), "got": logits([1, 0], [0, 1])}
    both[side][1, 0] = bad
    with pytest.raises(GateError, match="not a finite number"):
        compare(**both)


@pytest.mark.parametrize(
    ("expected", "got"),
    [((2, 3), (2, 4)), ((2, 3), (3, 3)), ((6,), (6,)), ((0, 3), (0, 3)), ((2, 0), (2, 0))],
    ids=["classes", "pictures", "one dimension", "no pictures", "no classes"],
)
def test_shapes_that_cannot_be_compared(expected: tuple[int, ...], got: tuple[int, ...]) -> None:
    with pytest.raises(GateError, match="of shape"):
        compare(np.ones(expected, np.float32), np.ones(got, np.float32))


def test_a_single_class_is_always_clear() -> None:
    result = compare(logits([2.0], [-1.0]), logits([2.0], [-1.0]))
    assert (result.counted, result.argmax_agreement) == (2, 100.0)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(-3, 3))
def test_within_the_tolerance_no_clear_answer_can_change(seed: int, log_scale: float) -> None:
    rng = np.random.default_rng(seed)
    expected = (10**log_scale * rng.normal(size=(30, 4))).astype(np.float32)
    noise = rng.uniform(-0.9e-3, 0.9e-3, expected.shape) * np.abs(expected).max()
    result = compare(expected, (expected + noise).astype(np.float32))
    require(result)
    assert 0 < result.counted <= 30


def test_inputs_are_not_modified() -> None:
    expected, got = logits([3, 1], [0, 2]), logits([3, 1], [0, 2])
    compare(expected, got)
    np.testing.assert_array_equal(expected, logits([3, 1], [0, 2]))
    np.testing.assert_array_equal(got, logits([3, 1], [0, 2]))
