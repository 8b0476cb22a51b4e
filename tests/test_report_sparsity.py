"""What a report says of weights that became zero: bytes gained, no time gained."""

from __future__ import annotations

from make_report import make_report, make_sparse, make_sparsity, make_unmeasured

from taco.report.html import render_html
from taco.report.markdown import render_markdown
from taco.report.page import Tone
from taco.report.verdict import actions, cards, verdict


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ").replace("\N{NARROW NO-BREAK SPACE}", " ")


def test_the_verdict_speaks_of_bytes_and_says_by_measurement_that_no_time_is_gained() -> None:
    text = plain(verdict(make_sparse()).text)
    assert "takes 1.00 MB to send instead of" in text
    assert "It is not faster (0.99x, measured: 5.05 ms instead of 5.00 ms a picture)" in text
    assert "computes with zeros as with any number" in text
    assert not any(note.tone is Tone.BAD for note in actions(make_sparse())), "not being faster was no aim"


def test_a_measured_gain_of_time_is_not_sold() -> None:
    text = plain(verdict(make_sparse(speedup=1.2)).text)
    assert "do not count on it" in text


def test_nothing_measured_says_so() -> None:
    report = make_unmeasured(sparsity=make_sparsity())
    assert "Its time was not measured" in verdict(report).text
    assert {card.label for card in cards(report)} >= {"To send", "Speed-up"}


def test_both_pages_show_layers_stages_and_what_stayed_dense() -> None:
    for text in (plain(render_html(make_sparse()).replace("<wbr>", "")), plain(render_markdown(make_sparse()))):
        assert "Weights that became zero" in text
        assert "blocks.1" in text
        assert "77.6 %" in text
        assert "3 columns are no multiple of 4" in text
        assert "packed file to send" in text
        assert "Failure" not in text
        assert "Width kept in each layer" not in text


def test_a_report_without_zeros_has_no_such_part() -> None:
    assert "became zero" not in render_html(make_report())
