"""Figures of one model in detail, against counts made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from taco.errors import InputError
from taco.metrics.quality import (
    BINS,
    MOST_POINTS,
    Cell,
    CoveragePoint,
    calibration,
    compare_paired,
    confusion_matrix,
    coverage_curve,
    quality,
)

CLASSES = ("fox", "hare", "blank")


def shares(*rows: tuple[int, float]) -> np.ndarray:
    """A row for each (answer, probability); the rest is shared by the others."""
    found = np.array([[(1 - p) / 2] * 3 for _, p in rows])
    for row, (answer, p) in zip(found, rows, strict=True):
        row[answer] = p
    return found


LABELS = np.array([0, 0, 0, 1, 1, 2])
ANSWERS = shares((0, 0.9), (0, 0.8), (1, 0.6), (1, 0.95), (0, 0.5), (2, 0.99))


def test_recall_precision_and_confusions_are_counted() -> None:
    found = quality(ANSWERS, LABELS, CLASSES)
    assert found.balanced.percent == pytest.approx(100 * (2 / 3 + 1 / 2 + 1) / 3)
    assert {n: p and (p.percent, p.n) for n, p in found.precision.items()} == {
        "fox": (pytest.approx(100 * 2 / 3), 3),
        "hare": (50.0, 2),
        "blank": (100.0, 1),
    }
    assert found.confusion == (
        Cell("fox", "fox", 2),
        Cell("fox", "hare", 1),
        Cell("hare", "fox", 1),
        Cell("hare", "hare", 1),
        Cell("blank", "blank", 1),
    )
    assert found.worst == "hare"


def test_a_class_that_is_never_the_answer_has_no_precision_and_perfect_answers_no_worst_class() -> None:
    found = quality(shares((0, 0.9), (0, 0.8)), np.array([0, 0]), CLASSES)
    assert (found.precision["hare"], found.worst) == (None, None)
    assert quality(shares((0, 0.9), (0, 0.8)), np.array([0, 2]), CLASSES).worst == "blank"


def test_the_matrix_has_true_classes_as_rows() -> None:
    counts = confusion_matrix(np.array([0, 0, 1]), np.array([1, 1, 0]), 3)
    assert counts.tolist() == [[0, 2, 0], [1, 0, 0], [0, 0, 0]]


def test_the_calibration_error_is_the_weighted_gap() -> None:
    confidence = np.array([0.95, 0.95, 0.95, 0.55])
    found = calibration(confidence, np.array([True, True, False, False]))
    assert found.error == pytest.approx(100 * (3 / 4 * abs(0.95 - 2 / 3) + 1 / 4 * 0.55))
    assert [(b.n, round(b.right, 1)) for b in found.bins] == [(1, 0.0), (3, 66.7)]
    assert found.bins[1].low < 0.95 <= found.bins[1].high
    assert found.bins[1].high - found.bins[1].low == pytest.approx(1 / BINS)


def test_sure_and_right_answers_are_calibrated_and_edges_belong_to_the_bin_below() -> None:
    assert calibration(np.ones(5), np.ones(5, bool)).error == 0.0
    assert calibration(np.array([1 / BINS]), np.array([True])).bins[0].low == 0.0
    assert calibration(np.array([0.0]), np.array([True])).bins[0].n == 1


def test_the_coverage_curve_goes_from_the_surest_to_all() -> None:
    curve = coverage_curve(np.array([0.9, 0.5, 0.7, 0.7]), np.array([True, False, True, False]))
    assert curve == (
        CoveragePoint(0.9, 25.0, 100.0),
        CoveragePoint(0.7, 75.0, pytest.approx(200 / 3)),
        CoveragePoint(0.5, 100.0, 50.0),
    )


def test_a_long_curve_keeps_its_ends() -> None:
    confidence = np.round(np.random.default_rng(0).random(1000), 6)
    curve = coverage_curve(confidence, np.ones(1000, bool))
    assert len(curve) == MOST_POINTS
    assert (curve[0].threshold, curve[-1].threshold) == (confidence.max(), confidence.min())
    assert curve[-1].sure == 100.0


def test_pairs_are_counted_and_tested() -> None:
    labels = np.zeros(10, int)
    first, second = np.array([0] * 8 + [1] * 2), np.array([0] * 3 + [1] * 5 + [0, 1])
    found = compare_paired(labels, first, second)
    assert (found.both, found.only_first, found.only_second, found.neither) == (3, 5, 1, 1)
    assert found.p == pytest.approx(2 * (1 + 6) / 2**6)


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [([0] * 5, CLASSES, "do not pair up"), ([0] * 5 + [3], CLASSES, "outside"), ([0] * 6, ("fox",), "3 outputs for 1")],
)
def test_what_does_not_fit_is_said(labels: list[int], classes: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        quality(ANSWERS, np.array(labels), classes)


def test_no_pairs_are_said() -> None:
    with pytest.raises(InputError, match="do not pair up"):
        compare_paired(np.zeros(3, int), np.zeros(3, int), np.zeros(2, int))


def test_five_hundred_classes() -> None:
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(500), 3)
    logits = random.normal(size=(1500, 500))
    logits[np.arange(1500), labels] += 8
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    found = quality(p, labels, [str(i) for i in range(500)])
    assert found.balanced.percent > 99
    assert sum(cell.count for cell in found.confusion) == 1500
    assert len(found.confusion) < 600
