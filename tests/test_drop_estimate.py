"""What a model has lost, from several looks at few pictures: pictures count once, and are right in part."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taco.errors import InputError
from taco.metrics.accuracy import paired_drop
from taco.metrics.drop_estimate import estimate_drop

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def logits(answers: Ints, classes: int = 4) -> Floats:
    """What names these classes."""
    return np.eye(classes)[answers]


def evenly(n: int) -> Ints:
    return np.arange(n) % 4


def test_equal_answers_lose_nothing() -> None:
    labels = evenly(32)
    same = logits(np.repeat(labels, 8))
    assert estimate_drop(labels, same, same, balanced=False).points == 0


def test_a_loss_shows_before_a_whole_answer_falls() -> None:
    """Every picture is named right as it is, and every fourth is wrong in one look of eight."""
    labels = evenly(32)
    right = np.repeat(labels, 8).reshape(32, 8)
    wrong = right.copy()
    wrong[::4, 3] = (wrong[::4, 3] + 1) % 4
    found = estimate_drop(labels, logits(right.ravel()), logits(wrong.ravel()), balanced=False)
    assert found.points == pytest.approx(100 * 8 / 256)
    assert found.n == 32, "pictures are counted, not looks"
    assert found.low < found.points < found.high
    whole = wrong.copy()
    whole[0] = (right[0] + 1) % 4
    one_answer = estimate_drop(labels, logits(right.ravel()), logits(whole.ravel()), balanced=False)
    assert one_answer.high - one_answer.low > found.high - found.low


@given(st.integers(0, 10_000), st.booleans())
def test_one_look_is_the_count_of_right_answers(seed: int, balanced: bool) -> None:
    rng = np.random.default_rng(seed)
    labels, first, second = rng.integers(0, 4, (3, 40))
    assert estimate_drop(labels, logits(first), logits(second), balanced=balanced) == paired_drop(
        labels, first, second, balanced
    )


@given(st.integers(0, 10_000), st.integers(1, 5), st.booleans())
def test_it_changes_sign_with_the_models_and_repeated_looks_change_nothing(
    seed: int, looks: int, balanced: bool
) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, 20)
    first, second = rng.integers(0, 4, (2, 20))
    one = estimate_drop(labels, logits(first), logits(second), balanced=balanced)
    repeated = (logits(np.repeat(answers, looks)) for answers in (first, second))
    assert estimate_drop(labels, *repeated, balanced=balanced) == one
    assert estimate_drop(labels, logits(second), logits(first), balanced=balanced).points == pytest.approx(-one.points)


def test_rare_classes_weigh_as_much_where_that_is_asked() -> None:
    labels = np.array([0] * 30 + [1] * 2)
    before, after = labels.copy(), labels.copy()
    after[-1] = 0
    assert estimate_drop(labels, logits(before), logits(after), balanced=True).points == pytest.approx(25.0)
    assert estimate_drop(labels, logits(before), logits(after), balanced=False).points == pytest.approx(100 / 32)


@pytest.mark.parametrize("shape", [(2, 4), (0, 4), (4, 4), (3,)])
def test_answers_that_do_not_pair_up_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="do not pair up with 3 labels"):
        estimate_drop(evenly(3), np.ones(shape), np.ones(shape), balanced=False)


def test_no_picture_is_refused() -> None:
    with pytest.raises(InputError, match="do not pair up with 0 labels"):
        estimate_drop(evenly(0), np.ones((0, 4)), np.ones((0, 4)), balanced=False)
