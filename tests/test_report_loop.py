"""The page's part on the latency loop: rounds, times, and what decided; its pictures hold the report's figures."""

from __future__ import annotations

import re

import pytest
from make_report import make_loop, make_report
from test_report_figures import parsed, paths, texts

from taco.report.loop import loop_sections
from taco.report.loop_figures import block_times, round_marks
from taco.report.page import Block, Folded, Note, Picture, Table
from taco.report.record import recovery_section
from taco.report.schema import BlocksSection, HeldLimit


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


def test_blocks_that_take_more_by_themselves_than_in_the_whole_are_told_so() -> None:
    profile = make_loop().profile
    assert profile is not None
    assert "% lies in no timed block." in words(profile=profile.model_copy(update={"unattributed_percent": 7.5}))
    told = words(profile=profile.model_copy(update={"unattributed_percent": -4.5}))
    assert "Blocks timed one by one take 4.5\N{NO-BREAK SPACE}% more than the whole dense model" in told
    assert "no timed block" not in told


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


def test_blocks_that_could_be_left_out_are_told_with_what_it_cost() -> None:
    found = BlocksSection(offered={"blocks.1": 0.02, "blocks.2": 0.5}, taken=[])
    told = words(blocks=found)
    assert "Left out: no block. 2 residual blocks could be left out" in told
    assert "blocks.1 0.02; blocks.2 0.5." in told
    assert "whole choice" not in told
    told = words(blocks=found.model_copy(update={"taken": ["blocks.1"], "harm_with": 0.3, "harm_without": 0.4}))
    assert "Left out: blocks.1." in told
    assert "with blocks left out 0.3, by widths alone 0.4." in told


def test_limits_are_told_with_what_is_used() -> None:
    told = words(limits=[HeldLimit(flag="--max-bytes", asked=4e6, used=3.5e6)])
    assert "Limits that held beside the budget, and what the model uses: --max-bytes 4e+06: 3.5e+06." in told
    assert "Limits" not in words()


def test_a_search_by_macs_tells_what_was_compared() -> None:
    report = make_report(currency=make_loop().currency, spread={"with blocks": 0.2, "one ratio": 0.9})
    (section,) = loop_sections(report)
    told = " ".join(block.text for block in section.blocks if isinstance(block, Note))
    assert "(nats, before recovery: with blocks 0.2; one ratio 0.9)" in told
    assert "No clock took part" in section.meaning
    assert not any(isinstance(block, Picture) for block in section.blocks)


REFIT = {"kept": "in order", "one_by_one": 1.71, "in_order": 1.33, "failed": None}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "one after the other, each for what is left: that came nearer.*one by one 1.71, in order 1.33"),
        ({"kept": "one by one"}, "refitted each on the dense model's inputs"),
        ({"in_order": None}, "in order not finite"),
        ({"failed": "conv: no. Raise it", "in_order": None}, "failed, and was left out: conv: no. Raise it"),
    ],
    ids=["in order", "one by one", "not finite", "failed"],
)
def test_how_readers_were_refitted_is_told(changes: dict[str, object], said: str) -> None:
    report = make_report(refit={**REFIT, **changes})
    told = " ".join(block.text for block in recovery_section(report).blocks if isinstance(block, Note))
    assert re.search(said, told), told
    assert "refitted" not in " ".join(b.text for b in recovery_section(make_report()).blocks if isinstance(b, Note))


def test_blocks_that_stand_twice_in_the_picture_are_told_where_there_are_some() -> None:
    levels = make_loop().allocation
    assert levels is not None
    gone = levels[1].model_copy(update={"unit": "blocks.0.1", "level": "drop", "latency_ms": 0.0})
    for allocation, told in ((levels, False), ([*levels, gone], True)):
        captions = [block.caption for block in blocks(allocation=allocation) if isinstance(block, Picture)]
        assert ("left out stand below once more" in captions[-1]) == told


def test_every_unit_has_a_row() -> None:
    *_, picture, folded = blocks()
    assert isinstance(picture, Picture)
    assert isinstance(folded, Folded)
    assert isinstance(folded.content, Table)
    assert folded.content.rows[1] == ("2. blocks.0.1.conv_pwl", "width:32", "0.212", "0.080", "0.02", "interpolated")
    assert len(folded.content.rows) == 16


def test_a_single_round_has_one_number() -> None:
    svg = round_marks(make_loop(rounds=make_loop().rounds[:1]))
    assert "1" in texts(svg)
    assert not [text for text in texts(svg) if text in {"0.5", "0.6", "1.5"}], "there is no half of a round"


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
