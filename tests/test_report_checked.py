"""What the page says of gates and of INT8."""

from __future__ import annotations

from make_report import make_precision, make_report

from taco.report.build import build_page
from taco.report.html import render_html
from taco.report.markdown import render_markdown
from taco.report.parts import GateResult
from taco.report.schema import Report

GOOD = GateResult(name="conversion", passed=True, measured="0.00 points lost", limit="1 point")
BAD = GateResult(name="conversion", passed=False, measured="9.00 points lost", limit="1 point")
OPEN = GateResult(name="not slower", passed=None, measured="not measured", limit="the interval reaches 1")


def anchors(report: Report) -> list[str]:
    return [section.anchor for section in build_page(report).sections]


def test_a_report_of_before_there_were_gates_has_no_such_part() -> None:
    assert not {"gates", "precision"} & set(anchors(make_report()))


def test_every_gate_is_a_row_with_its_result() -> None:
    text = render_markdown(make_report(gates=[GOOD, OPEN]))
    assert "| conversion | passed | 0.00 points lost | 1 point |" in text
    assert "| not slower | not decided | not measured |" in text
    assert "Every check passed, or could not be decided." in text


def test_a_refused_model_is_shouted_and_a_forced_one_as_well() -> None:
    refused = make_report(gates=[BAD, GOOD], shipped="no")
    assert build_page(refused).banner == "NOTHING WAS SHIPPED: a check failed (conversion)"
    assert "1 check failed: nothing shipped." in render_markdown(refused)
    forced = make_report(gates=[BAD], shipped="forced")
    assert "SHIPPED BY FORCE although a check failed (conversion)" in render_html(forced)
    assert "shipped all the same (--force)" in render_markdown(forced)


def test_int8_tells_its_gain_its_layers_and_why_some_went_back() -> None:
    text = render_markdown(make_report(precision=make_precision()))
    assert "INT8 is used: 1.85 (1.80 to 1.90) times as fast as fp32 of the same model." in text
    assert "| layers in INT8 | 48 of 50 |" in text
    assert "| conv_stem | it cost answers | 0.013 | 0.2 |" in text
    assert "the runtime does not compute it in INT8" in text


def test_int8_that_was_given_up_says_why() -> None:
    why = "INT8 is slower than fp32 here"
    text = render_markdown(make_report(precision=make_precision(given_up=why, used="fp32", put_back=[])))
    assert f"INT8 was asked for and given up: {why}. The model is shipped in fp32." in text


def test_int8_that_nobody_timed_is_not_called_faster() -> None:
    text = render_markdown(make_report(precision=make_precision(faster_than_fp32=None)))
    assert "Whether INT8 is faster than fp32 was not measured" in text
