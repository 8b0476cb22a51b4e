"""Rounding and phrases: figures may lose digits, never their meaning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from make_report import make_accuracy, make_latency, make_model, make_proportion, make_report

from taco.report import wording


@dataclass(frozen=True)
class Case:
    function: Callable[..., str]
    arguments: tuple[object, ...]
    expected: str


CASES = [
    Case(wording.percent, (97.43,), "97.4 %"),
    Case(wording.percent, (100.0,), "100.0 %"),
    Case(wording.percent, (99.97,), "99.97 %"),
    Case(wording.percent, (0.0,), "0.0 %"),
    Case(wording.percent, (0.02,), "0.02 %"),
    Case(wording.interval, (95.13, 98.87), "95.1 to 98.9 %"),
    Case(wording.interval, (-0.31, 1.9, "points"), "\N{MINUS SIGN}0.3 to 1.9 points"),
    Case(wording.signed, (-0.04,), "0.0"),
    Case(wording.points, (0.8,), "0.8 points"),
    Case(wording.points, (1.02,), "1.0 point"),
    Case(wording.points, (-1.0,), "\N{MINUS SIGN}1.0 point"),
    Case(wording.milliseconds, (3.141,), "3.14 ms"),
    Case(wording.milliseconds, (31.41,), "31.4 ms"),
    Case(wording.milliseconds, (314.1,), "314 ms"),
    Case(wording.milliseconds, (0.3141,), "0.314 ms"),
    Case(wording.factor, (1.614,), "1.61x"),
    Case(wording.factor, (0.998,), "0.9980x"),
    Case(wording.factor, (1.0,), "1.00x"),
    Case(wording.spread, ([1.66, 1.58, 1.6],), "1.58x to 1.66x in 3 rounds"),
    Case(wording.spread, ([1.5],), "1.50x to 1.50x in 1 round"),
    Case(wording.amount, (3_383_000,), "3 383 000"),
    Case(wording.large, (385_000_000,), "385 M"),
    Case(wording.large, (999,), "999"),
    Case(wording.size, (13_560_000,), "13.6 MB"),
    Case(wording.size, (42,), "42 bytes"),
    Case(wording.duration, (0.44,), "0.4 s"),
    Case(wording.duration, (42.2,), "42 s"),
    Case(wording.duration, (59.7,), "1 min 00 s"),
    Case(wording.duration, (185.0,), "3 min 05 s"),
    Case(wording.duration, (3720.0,), "1 h 02 min"),
    Case(wording.counted, (1, "picture"), "1 picture"),
    Case(wording.counted, (8, "class", "classes"), "8 classes"),
    Case(wording.proportion, (None,), "no picture"),
]


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ").replace("\N{NARROW NO-BREAK SPACE}", " ")


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.function.__name__}-{case.expected}")
def test_wording(case: Case) -> None:
    assert plain(case.function(*case.arguments)) == case.expected


def test_figures_stay_with_their_units() -> None:
    for text in (wording.percent(97.4), wording.milliseconds(3.1), wording.size(13_560_000), wording.interval(1, 2)):
        assert " " not in text


def test_proportion_shows_its_interval() -> None:
    assert plain(wording.proportion(make_proportion(81, 263))) == "30.8 % (25.5 to 36.6)"


@given(st.floats(0.5, 2.0))
def test_a_factor_on_one_side_of_1_never_reads_as_1(value: float) -> None:
    if abs(value - 1) < 1e-4:
        return
    assert (float(wording.factor(value).removesuffix("x")) < 1) == (value < 1)


@given(st.integers(0, 10**13))
def test_large_is_within_half_a_percent(value: int) -> None:
    number, _, unit = plain(wording.large(value)).partition(" ")
    factor = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}[unit]
    assert float(number) * factor == pytest.approx(value, rel=0.006)


def test_variation_of_samples() -> None:
    latency = make_latency(5.0, seed=1).model_copy(update={"samples": [4.0, 6.0]})
    assert plain(wording.variation(latency)) == "28.3 %"
    assert wording.variation(latency.model_copy(update={"samples": [4.0]})) == "\N{EN DASH}"


def test_a_clean_report_has_no_mark() -> None:
    assert wording.accuracy_mark(make_report()) == ""
    assert wording.marked("97 %", make_report()) == "97 %"


def test_marks_name_every_reason_for_doubt() -> None:
    report = make_report(
        model=make_model(random_weights=True), accuracy=make_accuracy(["a", "b"], evaluated_on="select")
    )
    mark = wording.accuracy_mark(report)
    assert "meaningless" in mark
    assert "also guided choices" in mark
    assert wording.marked("97 %", report) == f"97 % [{mark}]"
