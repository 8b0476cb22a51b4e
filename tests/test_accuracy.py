"""Intervals against published or hand-computed figures, their properties, and their simulated coverage."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taco.errors import InputError
from taco.metrics.accuracy import Score, balanced_mean, called, is_unequal, mcnemar, paired_drop, wilson


def answers(lost: int, won: int, both: int, neither: int, label: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels and the two models' answers for one class with a given 2 x 2 table."""
    n = lost + won + both + neither
    dense = np.array([label] * (lost + both) + [-1] * (won + neither))
    other = np.array([-1] * lost + [label] * both + [label] * won + [-1] * neither)
    return np.full(n, label), dense, other


def joined(*tables: tuple[int, int, int, int]) -> tuple[np.ndarray, ...]:
    parts = [answers(*table, label=label) for label, table in enumerate(tables)]
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


@dataclass(frozen=True)
class WilsonCase:
    name: str
    correct: int
    n: int
    low: float
    high: float


# R. G. Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3.
WILSON_CASES = [
    WilsonCase("81-of-263", 81, 263, 25.53, 36.62),
    WilsonCase("15-of-148", 15, 148, 6.24, 16.05),
    WilsonCase("0-of-20", 0, 20, 0.0, 16.11),
    WilsonCase("1-of-29", 1, 29, 0.61, 17.18),
]


@pytest.mark.parametrize("case", WILSON_CASES, ids=lambda case: case.name)
def test_wilson_matches_newcombes_table(case: WilsonCase) -> None:
    result = wilson(case.correct, case.n)
    assert result.percent == pytest.approx(100 * case.correct / case.n)
    assert (result.low, result.high) == pytest.approx((case.low, case.high), abs=0.005)
    assert result.n == case.n


@given(st.integers(1, 3000), st.data())
def test_wilson_holds_its_point_and_mirrors(n: int, data: st.DataObject) -> None:
    correct = data.draw(st.integers(0, n))
    right, wrong = wilson(correct, n), wilson(n - correct, n)
    assert 0 <= right.low <= right.percent <= right.high <= 100
    assert right.high > right.low
    assert right.low == pytest.approx(100 - wrong.high, abs=1e-9)


@pytest.mark.parametrize(("correct", "n"), [(0, 0), (3, 2), (-1, 5)])
def test_wilson_refuses_what_is_not_a_proportion(correct: int, n: int) -> None:
    with pytest.raises(InputError, match="not a proportion"):
        wilson(correct, n)


def test_score_of_equal_classes_is_plain_top1() -> None:
    labels = np.array([0, 0, 1, 1, 2, 2])
    score = Score.from_predictions(labels, np.array([0, 0, 1, 0, 0, 0]), ["lynx", "fox", "hare"])
    assert not score.balanced
    assert score.top1 == wilson(3, 6)
    assert score.per_class == {"lynx": wilson(2, 2), "fox": wilson(1, 2), "hare": wilson(0, 2)}


def test_score_of_unequal_classes_is_the_mean_of_recalls() -> None:
    labels = np.array([0] * 8 + [1] * 2)
    score = Score.from_predictions(labels, np.array([0] * 8 + [1, 0]), ["blank", "lynx"])
    assert score.balanced
    assert score.top1.percent == pytest.approx(75.0)
    assert score.top1.n == 10
    assert score.top1.low < 75 < score.top1.high


def test_a_class_without_a_picture_has_no_recall_and_does_not_unbalance() -> None:
    score = Score.from_predictions(np.array([0, 2]), np.array([0, 1]), ["a", "b", "c"])
    assert score.per_class["b"] is None
    assert not score.balanced
    assert score.top1.percent == 50


def test_an_answer_outside_the_classes_is_wrong() -> None:
    score = Score.from_predictions(np.array([0, 1]), np.array([0, 999]), ["a", "b"])
    assert score.top1.percent == 50


@dataclass(frozen=True)
class BadInput:
    name: str
    labels: list[int]
    predicted: list[int]
    message: str


BAD_INPUTS = [
    BadInput("empty", [], [], "no picture"),
    BadInput("lengths", [0, 1], [0], "do not pair up"),
    BadInput("label-too-big", [0, 2], [0, 0], r"labels \[2\] are outside the 2 classes"),
    BadInput("label-negative", [-1, 0], [0, 0], r"labels \[-1\] are outside"),
]


@pytest.mark.parametrize("case", BAD_INPUTS, ids=lambda case: case.name)
def test_score_refuses(case: BadInput) -> None:
    with pytest.raises(InputError, match=case.message):
        Score.from_predictions(np.array(case.labels, dtype=int), np.array(case.predicted, dtype=int), ["a", "b"])


def test_animals_called_blank_are_counted_among_the_animals() -> None:
    labels, answers = np.array([0, 0, 1, 1, 2, 2, 2]), np.array([0, 1, 0, 1, 0, 2, 0])
    assert called(labels, answers, 0) == (3, wilson(3, 5))
    assert called(labels, answers, 1) == (1, wilson(1, 5))
    assert called(labels, answers, 3) == (0, wilson(0, 7))
    assert called(labels[:2], answers[:2], 0) is None, "no animal was there to lose"
    with pytest.raises(InputError, match="do not pair up"):
        called(labels, answers[1:], 0)


def test_balanced_mean_by_hand() -> None:
    # K = 2: 2 pseudo-pictures a class, half of them right: 9/12 and 4/7 before the mean.
    result = balanced_mean(np.array([8, 3]), np.array([10, 5]))
    deviation = math.sqrt(0.75 * 0.25 / 12 + (4 / 7) * (3 / 7) / 7) / 2
    assert result.percent == pytest.approx(70.0)
    assert result.low == pytest.approx(100 * ((0.75 + 4 / 7) / 2 - 1.959964 * deviation), abs=1e-4)
    assert result.high == pytest.approx(100 * ((0.75 + 4 / 7) / 2 + 1.959964 * deviation), abs=1e-4)


def test_balanced_mean_of_all_right_keeps_a_width() -> None:
    result = balanced_mean(np.array([10, 40]), np.array([10, 40]))
    assert result.percent == result.high == 100
    assert result.low < 97


def test_balanced_mean_needs_a_picture() -> None:
    with pytest.raises(InputError, match="no picture"):
        balanced_mean(np.array([0]), np.array([0]))


@given(
    st.lists(st.integers(0, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), min_size=1, max_size=20)
)
def test_balanced_mean_holds_its_point(counts: list[tuple[int, int]]) -> None:
    rights, totals = np.array(counts).T
    if not totals.any():
        return
    result = balanced_mean(rights, totals)
    assert 0 <= result.low <= result.percent <= result.high <= 100
    assert result.low < result.high


@pytest.mark.parametrize(("totals", "expected"), [([5, 5, 0], False), ([5, 6], True), ([7], False)])
def test_is_unequal(totals: list[int], expected: bool) -> None:
    assert is_unequal(np.array(totals)) is expected


def test_paired_drop_by_hand() -> None:
    # Agresti and Min: n* = 102, difference (9 - 4) / 102, variance ((9 + 4 + 1) / 102 - difference ** 2) / 102.
    drop = paired_drop(*answers(lost=9, won=4, both=80, neither=7), balanced=False)
    centre = 5 / 102
    deviation = math.sqrt((14 / 102 - centre**2) / 102)
    assert drop.points == pytest.approx(5.0)
    assert (drop.low, drop.high) == pytest.approx(
        (100 * (centre - 1.959964 * deviation), 100 * (centre + 1.959964 * deviation)), abs=1e-4
    )
    assert drop.lower_one_sided == pytest.approx(100 * (centre - 1.644854 * deviation), abs=1e-4)
    assert drop.n == 100


def test_balanced_drop_weighs_classes_equally() -> None:
    tables = joined((10, 0, 80, 10), (0, 5, 5, 0))
    assert paired_drop(*tables, balanced=True).points == pytest.approx((10 - 50) / 2)
    assert paired_drop(*tables, balanced=False).points == pytest.approx(100 * 5 / 110)


def test_no_discordance_still_has_a_width() -> None:
    for balanced in (False, True):
        drop = paired_drop(*joined((0, 0, 30, 0), (0, 0, 20, 0)), balanced=balanced)
        assert drop.points == 0
        assert drop.low < -1 < 1 < drop.high


_table = st.tuples(*[st.integers(0, 25)] * 4).filter(lambda table: sum(table) > 0)


@given(st.lists(_table, min_size=1, max_size=6), st.booleans())
def test_paired_drop_holds_its_point_and_changes_sign(tables: list[tuple[int, ...]], balanced: bool) -> None:
    labels, dense, other = joined(*tables)  # type: ignore[arg-type]
    drop, back = paired_drop(labels, dense, other, balanced), paired_drop(labels, other, dense, balanced)
    assert -100 <= drop.low <= drop.lower_one_sided <= drop.points <= drop.high <= 100
    assert drop.high > drop.low
    assert (back.points, back.low, back.high) == pytest.approx((-drop.points, -drop.high, -drop.low), abs=1e-9)


@given(st.lists(_table, min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_paired_drop_ignores_the_order_of_pictures(tables: list[tuple[int, ...]], random: Random) -> None:
    arrays = joined(*tables)  # type: ignore[arg-type]
    order = list(range(arrays[0].size))
    random.shuffle(order)
    assert paired_drop(*(array[order] for array in arrays), balanced=True) == paired_drop(*arrays, balanced=True)


def test_paired_drop_agrees_with_the_scores() -> None:
    labels, dense, other = joined((3, 1, 10, 2), (0, 2, 5, 0), (1, 0, 4, 4))
    names = ["a", "b", "c"]
    first, second = (Score.from_predictions(labels, predicted, names) for predicted in (dense, other))
    drop = paired_drop(labels, dense, other, first.balanced)
    assert first.balanced
    assert drop.points == pytest.approx(first.top1.percent - second.top1.percent)


def test_paired_drop_refuses_unequal_lengths() -> None:
    with pytest.raises(InputError, match="do not pair up"):
        paired_drop(np.zeros(3, int), np.zeros(3, int), np.zeros(2, int), balanced=False)


@dataclass(frozen=True)
class McNemarCase:
    b: int
    c: int
    p: float


@pytest.mark.parametrize(
    "case",
    [McNemarCase(0, 0, 1.0), McNemarCase(0, 5, 2 / 32), McNemarCase(1, 5, 2 * 7 / 64), McNemarCase(4, 4, 1.0)],
    ids=lambda case: f"{case.b}-{case.c}",
)
def test_mcnemar_by_hand(case: McNemarCase) -> None:
    assert mcnemar(case.b, case.c) == pytest.approx(case.p)
    assert mcnemar(case.c, case.b) == mcnemar(case.b, case.c)


def test_mcnemar_stands_thousands_of_pictures() -> None:
    assert 0 < mcnemar(2000, 2300) < 1e-5


def test_mcnemar_refuses_negative_counts() -> None:
    with pytest.raises(InputError, match="not counts"):
        mcnemar(-1, 2)


def coverage_of_balanced_mean(recalls: np.ndarray, totals: np.ndarray, runs: int) -> float:
    rng = np.random.default_rng(7)
    truth = 100 * recalls.mean()
    results = (balanced_mean(rng.binomial(totals, recalls), totals) for _ in range(runs))
    return float(np.mean([result.low <= truth <= result.high for result in results]))


@pytest.mark.parametrize("recall", [0.8, 0.97])
def test_balanced_mean_covers_about_95_percent(recall: float) -> None:
    totals = np.array([12, 20, 20, 25, 30, 40, 55, 80])
    recalls = np.clip(recall + np.linspace(-0.1, 0.1, 8), 0, 0.99)
    assert 0.93 <= coverage_of_balanced_mean(recalls, totals, 3000) <= 0.985


@dataclass(frozen=True)
class Discordance:
    name: str
    lost: float
    won: float
    balanced: bool


@pytest.mark.parametrize(
    "case",
    [
        Discordance("plain-small", 0.02, 0.01, False),
        Discordance("plain-large", 0.10, 0.05, False),
        Discordance("balanced", 0.06, 0.03, True),
    ],
    ids=lambda case: case.name,
)
def test_paired_drop_covers_about_95_percent(case: Discordance) -> None:
    rng = np.random.default_rng(11)
    labels = np.repeat(np.arange(8), [20, 25, 30, 35, 40, 45, 55, 70])
    truth, covered, above = 100 * (case.lost - case.won), 0, 0
    for _ in range(2000):
        kind = rng.choice(3, size=labels.size, p=[case.lost, case.won, 1 - case.lost - case.won])
        drop = paired_drop(labels, np.where(kind == 1, -1, labels), np.where(kind == 0, -1, labels), case.balanced)
        covered += drop.low <= truth <= drop.high
        above += drop.lower_one_sided > truth
    assert 0.935 <= covered / 2000 <= 0.985
    assert above / 2000 <= 0.06  # a gate at the true drop fails by chance in about 5 %
