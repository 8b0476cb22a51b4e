"""What a model has lost, from few pictures: between right answers and probabilities, by how far each may be wrong."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taco.errors import InputError
from taco.metrics.drop_estimate import estimate_drop

Floats = npt.NDArray[np.float64]


def shares(right: npt.NDArray[np.int64], sure: Floats, classes: int = 4) -> Floats:
    """Probabilities with `sure` for the class `right`, the rest spread evenly."""
    found = np.repeat(((1 - sure) / (classes - 1))[:, None], classes, 1)
    found[np.arange(len(right)), right] = sure
    return found


def evenly(n: int) -> npt.NDArray[np.int64]:
    return np.arange(n) % 4


def test_equal_answers_lose_nothing() -> None:
    labels = evenly(32)
    same = shares(labels, np.full(32, 0.9))
    found = estimate_drop(labels, same, same, balanced=False)
    assert (found.points, found.counted.points, found.by_probability) == (0, 0, 0)


def test_on_few_pictures_probabilities_tell_what_right_answers_cannot() -> None:
    """Every picture stays right and every one is less sure: a count would call that nothing."""
    labels = evenly(32)
    found = estimate_drop(labels, shares(labels, np.full(32, 0.97)), shares(labels, np.full(32, 0.91)), balanced=False)
    assert found.counted.points == 0
    assert found.by_probability == pytest.approx(3.0)
    assert 1.5 < found.points < 3.0


def test_on_many_pictures_right_answers_decide() -> None:
    labels = evenly(20_000)
    found = estimate_drop(
        labels, shares(labels, np.full(20_000, 0.97)), shares(labels, np.full(20_000, 0.85)), balanced=False
    )
    assert found.by_probability == pytest.approx(6.0)
    assert found.weight > 0.99
    assert abs(found.points) < 0.1


def test_a_calibrated_model_is_judged_alike_by_both(  # the factor one half is what makes them agree
) -> None:
    rng = np.random.default_rng(0)
    n = 200_000
    labels = np.zeros(n, np.int64)

    def answers(sure: float) -> Floats:
        right = rng.random(n) < sure
        return np.where(right[:, None], [[sure, 1 - sure]], [[1 - sure, sure]])

    found = estimate_drop(labels, answers(0.99), answers(0.96), balanced=False)
    assert found.counted.points == pytest.approx(3.0, abs=0.2)
    assert found.by_probability == pytest.approx(3.0, abs=0.2)


def test_classes_weigh_alike_where_they_differ_in_number() -> None:
    labels = np.array([0] * 30 + [1] * 2)
    before = shares(labels, np.full(32, 0.9))
    after = shares(labels, np.where(labels == 1, 0.7, 0.9))
    assert estimate_drop(labels, before, after, balanced=True).by_probability == pytest.approx(5.0)
    assert estimate_drop(labels, before, after, balanced=False).by_probability == pytest.approx(10 * 2 / 32)


@given(st.integers(1, 60), st.integers(0, 2**32 - 1), st.booleans())
def test_the_estimate_lies_between_both_and_turns_round_with_the_models(n: int, seed: int, balanced: bool) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, n)
    first, second = (rng.dirichlet(np.full(4, 0.4), n) for _ in range(2))
    found = estimate_drop(labels, first, second, balanced=balanced)
    low, high = sorted((found.counted.points, found.by_probability))
    assert low - 1e-9 <= found.points <= high + 1e-9
    assert 0 <= found.weight <= 1
    assert estimate_drop(labels, second, first, balanced=balanced).points == pytest.approx(-found.points, abs=1e-9)


def test_what_does_not_pair_up_is_refused() -> None:
    with pytest.raises(InputError, match="do not pair up with 3 labels"):
        estimate_drop(evenly(3), np.ones((2, 4)), np.ones((2, 4)), balanced=False)
    with pytest.raises(InputError):
        estimate_drop(evenly(0), np.ones((0, 4)), np.ones((0, 4)), balanced=False)
