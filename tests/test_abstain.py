"""The threshold of sure answers: its rule on small cases by hand, its laws on any."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taco.errors import InputError
from taco.metrics.abstain import Abstain, choose_threshold, is_sure
from taco.metrics.accuracy import wilson


def answers(*pairs: tuple[float, bool]) -> tuple[np.ndarray, np.ndarray]:
    """Two classes; class 0 is likeliest with the given probability (>= 0.5), and right or not."""
    top = np.array([p for p, _ in pairs], np.float64)
    return np.stack([top, 1 - top], 1), np.array([0 if right else 1 for _, right in pairs])


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """Answers, what was asked, and the expected threshold and counts, worked out by hand."""

    name: str
    pairs: tuple[tuple[float, bool], ...]
    asked: float
    threshold: float
    n_sure: int
    n_right: int


CASES = (
    Case("all right: the least seen, not 0", ((0.9, True), (0.7, True), (0.8, True), (0.99, True)), 95, 0.7, 4, 4),
    Case("one wrong below", ((0.9, True), (0.7, False), (0.8, True), (0.99, True)), 95, 0.8, 3, 3),
    Case("a wrong answer at the bottom is not taken in", ((0.9, True),) * 30 + ((0.6, False),), 95, 0.9, 30, 30),
    Case("few wrong among many", ((0.99, False),) + ((0.9, True),) * 19, 95, 0.9, 20, 19),
    Case("one right fewer is not enough", ((0.99, False),) + ((0.9, True),) * 18, 95, 0.990001, 0, 0),
    Case("surest wrong, more right below it", ((0.95, False), (0.9, True), (0.8, True), (0.7, True)), 75, 0.7, 4, 3),
    Case("a tie is kept or dropped whole", ((0.9, True), (0.9, False), (0.95, True)), 95, 0.95, 1, 1),
    Case("all wrong", ((0.9, False), (0.7, False)), 95, 0.900001, 0, 0),
    Case("wrong and certain: no answer can be sure", ((1.0, False), (1.0, True)), 95, 1.000001, 0, 0),
    Case("half is enough", ((1.0, False), (1.0, True)), 50, 1.0, 2, 1),
    Case("one picture", ((0.6, True),), 100, 0.6, 1, 1),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_rule_by_hand(case: Case) -> None:
    found = choose_threshold(*answers(*case.pairs), case.asked)
    assert found == Abstain(case.threshold, case.asked, len(case.pairs), case.n_sure, case.n_right)


def test_the_percentages_are_wilsons_and_none_where_none_is_sure() -> None:
    found = choose_threshold(*answers((0.9, True), (0.7, False), (0.8, True)), 95)
    assert found.sure == wilson(2, 3)
    assert found.right == wilson(2, 2)
    assert choose_threshold(*answers((0.9, False)), 95).right is None


def test_the_same_threshold_is_counted_on_other_pictures() -> None:
    chosen = choose_threshold(*answers((0.9, True), (0.8, True)), 95)
    other = chosen.on(*answers((0.8, False), (0.79, True), (0.95, True)))
    assert other == Abstain(0.8, 95, 3, 2, 1)


pairs = st.lists(
    st.tuples(st.sampled_from([*np.linspace(0.5, 1, 11), 0.7000004, 0.7000006]), st.booleans()), min_size=1, max_size=24
)
asked = st.sampled_from([1.0, 50.0, 75.0, 90.0, 95.0, 99.9, 100.0])


@given(pairs, asked)
def test_what_is_asked_is_reached_by_the_least_probability_of_a_right_answer(
    drawn: list[tuple[float, bool]], percent: float
) -> None:
    found = choose_threshold(*answers(*drawn), percent)
    if found.n_sure:
        assert 100 * found.n_right >= percent * found.n_sure
    tried = sorted({round(p, 6) for p, right in drawn if right})
    for lower in (p for p in tried if p < found.threshold):  # brute force: nothing lower would do
        kept = [right for p, right in drawn if round(p, 6) >= lower]
        assert 100 * sum(kept) < percent * len(kept)
    assert found.threshold in tried or (found.n_sure == 0 and found.threshold > max(p for p, _ in drawn) - 1e-6)
    assert [is_sure(p, found.threshold) for p, _ in drawn].count(True) == found.n_sure


@given(pairs, asked, asked)
def test_asking_for_more_never_lowers_the_threshold(drawn: list[tuple[float, bool]], one: float, other: float) -> None:
    less, more = (choose_threshold(*answers(*drawn), p).threshold for p in sorted((one, other)))
    assert less <= more


@given(pairs, asked, st.floats(0.5, 1))
def test_one_more_answer_moves_the_threshold_the_right_way(
    drawn: list[tuple[float, bool]], percent: float, probability: float
) -> None:
    before = choose_threshold(*answers(*drawn), percent)
    assert choose_threshold(*answers(*drawn, (probability, False)), percent).threshold >= before.threshold
    if before.n_sure and round(probability, 6) >= before.threshold:
        assert choose_threshold(*answers(*drawn, (probability, True)), percent).threshold <= before.threshold


@given(pairs, asked, st.randoms(use_true_random=False))
def test_the_order_of_the_pictures_does_not_matter(
    drawn: list[tuple[float, bool]], percent: float, random: np.random.Generator
) -> None:
    shuffled = list(drawn)
    random.shuffle(shuffled)
    assert choose_threshold(*answers(*drawn), percent) == choose_threshold(*answers(*shuffled), percent)


def test_what_is_sure_is_what_a_reader_of_six_decimals_would_say() -> None:
    assert is_sure(0.7999996, 0.8) is True
    assert is_sure(0.7999994, 0.8) is False
    assert is_sure(1.0, 1.000001) is False
    assert is_sure(0.1, None) is None


REFUSED = {
    "no picture": (np.empty((0, 2)), np.empty(0, int), 95.0, "no picture"),
    "unpaired": (np.full((2, 2), 0.5), np.zeros(3, int), 95.0, "do not pair up"),
    "logits": (np.array([[3.0, -1.0]]), np.zeros(1, int), 95.0, "softmax"),
    "not a number": (np.array([[np.nan, 0.5]]), np.zeros(1, int), 95.0, "within 0 and 1"),
    "foreign label": (np.full((1, 2), 0.5), np.array([2]), 95.0, "outside the 2 classes"),
    "0 %": (np.full((1, 2), 0.5), np.zeros(1, int), 0.0, "above 0|more than 0"),
    "101 %": (np.full((1, 2), 0.5), np.zeros(1, int), 101.0, "at most 100"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_judged_is_refused(name: str) -> None:
    probabilities, labels, percent, message = REFUSED[name]
    with pytest.raises(InputError, match=message):
        choose_threshold(probabilities, labels, percent)


def test_float32_softmax_that_sums_to_a_little_more_than_one_is_accepted() -> None:
    found = choose_threshold(np.array([[1 + 1e-7, 0]], np.float32), np.zeros(1, int), 95)
    assert found.threshold == 1.0


def test_no_torch() -> None:
    program = "import sys, taco.metrics.abstain; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
