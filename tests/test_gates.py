"""Gates: they fail when the loss is sure, pass when chance may explain it, and say when they cannot decide."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from taco.metrics.gates import (
    Agreement,
    agreement,
    agreement_gate,
    blank_recall_gate,
    class_drop_gates,
    conversion_gate,
    drop_gate,
    parity_gate,
    speed_gate,
    structure_gate,
)
from taco.metrics.parity import ParityResult

Labels = npt.NDArray[np.int64]


def answers(n: int, wrong: int) -> tuple[Labels, Labels, Labels]:
    """Labels, answers that are all right, and answers of which the first are wrong."""
    labels = np.arange(n, dtype=np.int64) % 2
    other = labels.copy()
    other[:wrong] = 1 - other[:wrong]
    return labels, labels.copy(), other


@pytest.mark.parametrize(
    ("n", "wrong", "passes"),
    [(400, 0, True), (400, 4, True), (400, 8, True), (400, 16, False), (40, 2, True), (40, 6, False)],
)
def test_conversion_fails_only_when_more_than_a_point_is_surely_lost(n: int, wrong: int, passes: bool) -> None:
    labels, right, other = answers(n, wrong)
    gate = conversion_gate(labels, right, other, balanced=False)
    assert gate.passed is passes
    assert f"{100 * wrong / n:.2f} points lost on {n} pictures" in gate.measured
    assert gate.limit == "1 point"


def test_a_gain_passes() -> None:
    labels, right, other = answers(100, 30)
    assert conversion_gate(labels, other, right, balanced=False).passed


def test_the_limit_of_the_drop_gate_is_the_asked_one() -> None:
    labels, right, other = answers(200, 20)
    assert drop_gate(labels, right, other, 2.0, balanced=False).passed is False
    assert drop_gate(labels, right, other, 12.0, balanced=False).passed is True


@pytest.mark.parametrize(
    ("n", "recognised", "passes"),
    [(100, 60, True), (100, 45, True), (100, 35, False), (30, 12, True), (30, 9, False), (29, 0, None)],
)
def test_empty_frames_must_be_recognised_as_far_as_chance_does_not_explain_it(
    n: int, recognised: int, passes: bool | None
) -> None:
    labels = np.array([2] * n + [0] * 50, np.int64)
    exported = np.array([2] * recognised + [0] * (n - recognised) + [2] * 50, np.int64)  # animals do not count
    gate = blank_recall_gate(labels, exported, 2, 50.0)
    assert gate.passed is passes
    assert gate.limit == "at least 50 %"
    assert ("too few to gate" in gate.measured) == (passes is None)


def test_each_class_is_gated_where_it_has_thirty_pictures() -> None:
    labels = np.array([0] * 40 + [1] * 30 + [2] * 29, np.int64)
    other = labels.copy()
    other[:20] = 1
    gates = class_drop_gates(labels, labels, other, ("fox", "hare", "lynx"), 5.0)
    assert [gate.passed for gate in gates] == [False, True, None]
    assert "fox" in gates[0].name
    assert gates[2].measured == "29 pictures: too few to gate"


def test_agreement_of_logits_ignores_a_common_shift_and_finds_a_turn() -> None:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((50, 8)).astype(np.float32)
    assert agreement(logits, logits + 3).cosine == pytest.approx(1.0, abs=1e-6)
    assert agreement(logits, -logits).cosine == pytest.approx(-1.0, abs=1e-6)
    assert agreement(logits, logits).same == 50
    flat = np.ones((2, 3), np.float32)
    assert agreement(flat, flat).cosine == 1.0


@pytest.mark.parametrize(
    ("found", "passes"),
    [
        (Agreement(0.99, 200, 200), True),
        (Agreement(0.96, 200, 200), False),
        (Agreement(0.99, 170, 200), False),
        (Agreement(0.99, 18, 20), True),  # too few to be sure that 95 % are missed
    ],
    ids=str,
)
def test_int8_must_be_close_and_agree(found: Agreement, passes: bool) -> None:
    assert agreement_gate(found).passed is passes


@pytest.mark.parametrize(
    ("ratio", "passes"),
    [(None, None), ((1.4, 1.3, 1.5), True), ((0.99, 0.97, 1.01), True), ((0.9, 0.85, 0.95), False)],
)
def test_speed_fails_only_when_it_is_surely_slower(
    ratio: tuple[float, float, float] | None, passes: bool | None
) -> None:
    assert speed_gate(ratio).passed is passes


def test_parity_and_structure_say_what_was_found() -> None:
    good, bad = ParityResult(0.001, 0.01, 100.0, 9, 10), ParityResult(0.02, 0.01, 100.0, 9, 10)
    assert parity_gate(good).passed is True
    assert parity_gate(bad).passed is False
    assert parity_gate(ParityResult(0.001, 0.01, 90.0, 9, 10)).passed is False
    assert "9 clear answers" in parity_gate(good).measured
    assert structure_gate(20, 93).measured == "opset 20, 93 nodes, shapes inferred"
