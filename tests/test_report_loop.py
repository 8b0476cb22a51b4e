"""The page's part on the latency loop: rounds, times, and what decided; its pictures hold the report's figures."""

from __future__ import annotations

import re

import pytest
from make_report import make_loop, make_report
from test_report_figures import parsed, paths, texts

from taco.report.loop import loop_sections
from taco.report.loop_figures import block_times, round_marks
from taco.report.page import Block, Folded, Note, Picture, Table


def blocks(**changes: object) -> list[Block]:
    (section,) = loop_sections(make_loop(**changes))  # type: ignore[arg-type]
    return list(section.blocks)


def words(**changes: object) -> str:
    return " ".join(block.text for block in blocks(**changes) if isinstance(block, Note))


def test_without_the_loop_there_is_nothing() -> None:
    assert loop_sections(make_report()) == ()


def test_the_rounds_are_drawn_and_listed() -> None:
    picture, table, *_ = blocks()
    assert isinstance(picture, Picture)
    assert isinstance(table, Table)
    assert [row[1:3] for row in table.rows] == [("3.100", "3.550"), ("3.270", "3.400"), ("3.260", "3.240")]
    assert "3.333 ms" in table.caption


def test_the_profile_and_what_was_not_timed_are_told() -> None:
    told = words()
    assert "93 cells of the latency table were timed on Intel N100" in told
    assert "Not timed, and so left dense: stem.conv: runs twice." in told


def test_what_buys_no_time_is_said_in_words() -> None:
    told = words()
    assert "no time on this device, because a wider one takes no longer; not used: blocks.0.1.conv_pwl: 80, 48." in told
    assert "2:4 on this device: +0.2 % (-0.9 to +1.1), not used." in told
    profile = make_loop().profile
    assert profile is not None
    plain = words(profile=profile.model_copy(update={"zeros": [], "unpaid": {}}))
    assert "not used" not in plain


def test_the_currency_is_told_with_its_rank_correlation() -> None:
    assert "as the change of the answers when that unit alone is cut" in words()
    assert "shares 0.41, logarithms 0.52, probes 0.90" in words()
    assert "ranked" not in words(currency=None)


def test_every_unit_has_a_row() -> None:
    *_, picture, folded = blocks()
    assert isinstance(picture, Picture)
    assert isinstance(folded, Folded)
    assert isinstance(folded.content, Table)
    assert folded.content.rows[1] == ("2. blocks.0.1.conv_pwl", "width:32", "0.212", "0.080", "0.02", "interpolated")
    assert len(folded.content.rows) == 16


def test_the_picture_of_rounds_has_a_ring_and_a_dot_each() -> None:
    svg = round_marks(make_loop())
    assert parsed(svg).get("aria-label") == "Predicted and measured time in 3 rounds of the latency loop"
    assert {"predicted", "measured", "aim", "1", "2", "3"} <= set(texts(svg))
    rings = re.findall(r"<use [^>]*stroke: var\(--ink", svg)
    dots = re.findall(r"<use [^>]*stroke: var\(--small", svg)
    assert (len(rings), len(dots)) == (3 + 1, 3 + 1), "one each in the legend"


def test_without_rounds_there_is_no_such_picture() -> None:
    with pytest.raises(ValueError, match="without rounds"):
        round_marks(make_report())


@pytest.mark.parametrize("units", [1, 60])
def test_the_picture_of_times_has_two_bars_a_unit(units: int) -> None:
    svg = block_times(make_loop(units))
    assert paths(svg, "small") == units + 2, "the legend has a face and an edge"
    assert ("0.04/0.21" in texts(svg)) == (units == 1)
