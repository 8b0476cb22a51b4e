"""The page's part on `--max-drop`: every candidate, what decided, and the loop that had no budget."""

from __future__ import annotations

from make_report import make_max_drop, make_report

from taco.report.loop import loop_sections
from taco.report.max_drop import max_drop_sections
from taco.report.page import Note, Picture, Table


def test_without_it_there_is_nothing() -> None:
    assert max_drop_sections(make_report()) == ()


def test_every_candidate_is_listed_with_what_it_lost_and_whether_it_held() -> None:
    (section,) = max_drop_sections(make_max_drop())
    table, note = section.blocks
    assert isinstance(table, Table)
    assert [row[0] for row in table.rows][-1] == "the exported file"
    assert [(row[1], row[-1]) for row in table.rows] == [
        ("+0.62", "yes"),
        ("+4.31", "no"),
        ("+0.97", "yes"),
        ("+0.55", "yes"),
    ]
    assert "Points on 128 shots, each looked at 4 times" in table.caption
    assert "A candidate is made 3 times" in table.caption
    assert isinstance(note, Note)
    assert "2 models were recovered fully" in note.text


def test_the_loop_is_told_without_a_budget_and_with_its_search() -> None:
    (section,) = loop_sections(make_max_drop())
    told = " ".join(block.text for block in section.blocks if isinstance(block, Note))
    assert "how accurate they are decided" in section.meaning
    assert "EvoPress judged 100 whole models" in told
    assert "0.0312 nats from the dense model's; with the least sum of losses they lay 0.0458" in told
    assert sum(isinstance(block, Picture) for block in section.blocks) == 1, "no rounds, so no picture of them"
