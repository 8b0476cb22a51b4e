"""The page's part on `--max-drop`: every candidate, what decided, and the loop that had no budget."""

from __future__ import annotations

import pytest
from make_report import CLASSES, make_accuracy, make_max_drop, make_no_accuracy, make_report

from taco.report.accuracy_schema import AccuracySection
from taco.report.loop import loop_sections
from taco.report.max_drop import max_drop_sections
from taco.report.page import Note, Picture, Table
from taco.report.search_schema import NEVER, OtherSize


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


@pytest.mark.parametrize(
    ("accuracy", "unseen"),
    [
        (make_accuracy(CLASSES), True),
        (make_accuracy(CLASSES, evaluated_on="select"), False),
        (make_no_accuracy(), False),
    ],
    ids=["evaluation", "select", "none"],
)
def test_only_unseen_pictures_are_said_to_have_had_no_say(accuracy: AccuracySection, unseen: bool) -> None:
    (section,) = max_drop_sections(make_max_drop(accuracy=accuracy))
    assert ("had no say" in section.meaning) is unseen
    assert section.meaning.startswith("The fastest model was looked for that loses at most 1.0 point on shots")
    assert section.meaning.endswith(".")


def test_other_sizes_of_pictures_are_told_and_which_of_them_were_not_profiled() -> None:
    whole = make_max_drop()
    assert whole.max_drop is not None
    sizes = [
        OtherSize(pictures="224x224", behind=NEVER, profiled=False),
        OtherSize(pictures="192x192", behind=1.204, profiled=True),
    ]
    (section,) = max_drop_sections(
        whole.model_copy(update={"max_drop": whole.max_drop.model_copy(update={"sizes": sizes})})
    )
    (note,) = (block.text for block in section.blocks if isinstance(block, Note) and "another size" in block.text)
    assert "224x224 changes them more at any time or lost too much uncut, 192x192 1.20 times" in note
    assert "224x224 was not profiled: its units' times" in note


def test_a_smaller_picture_without_a_cut_is_called_that() -> None:
    whole = make_max_drop()
    assert whole.max_drop is not None
    first, *others = whole.max_drop.trials
    uncut = first.model_copy(update={"kept_percent": 100.0, "steps": 0, "pictures": "160x160"})
    trials = {"trials": [uncut, *others]}
    (section,) = max_drop_sections(whole.model_copy(update={"max_drop": whole.max_drop.model_copy(update=trials)}))
    (table,) = (block for block in section.blocks if isinstance(block, Table))
    assert table.rows[0][0].startswith("nothing cut at 160x160 pixels, 0 steps")


def test_what_is_lost_beyond_an_uncut_model_for_smaller_pictures_decides_where_one_held() -> None:
    whole = make_max_drop()
    assert whole.max_drop is not None
    first, *others = whole.max_drop.trials
    uncut = first.model_copy(update={"points": -1.0, "kept_percent": 100.0, "steps": 0, "pictures": "160x160"})
    compared = [
        trial.model_copy(update={"points": beyond - 1, "beyond": beyond, "room": 1.0})
        for trial, beyond in zip(others, (1.5, 0.5), strict=False)
    ]
    trials = {"trials": [uncut, *compared]}
    (section,) = max_drop_sections(whole.model_copy(update={"max_drop": whole.max_drop.model_copy(update=trials)}))
    (table,) = (block for block in section.blocks if isinstance(block, Table))
    assert [row[-2:] for row in table.rows] == [
        ("-", "yes"),
        ("+1.50 of 1.00", "no"),
        ("+0.50 of 1.00", "yes"),
        ("-", "yes"),
    ]
    assert len(table.columns) == len(table.rows[0])
    assert "what it seems to gain does not count" in table.caption
    (section,) = max_drop_sections(whole)
    (table,) = (block for block in section.blocks if isinstance(block, Table))
    assert len(table.columns) == 4
    assert "seems to gain" not in table.caption


def test_candidates_that_not_all_shots_judged_are_said_to_be_so() -> None:
    whole = make_max_drop()
    assert whole.max_drop is not None
    lost, passed, last, *_ = whole.max_drop.trials

    def told(*judged: int | None) -> tuple[list[str], str]:
        trials = [t.model_copy(update={"judging_images": n}) for t, n in zip((lost, passed, last), judged, strict=True)]
        assert whole.max_drop is not None
        (section,) = max_drop_sections(
            whole.model_copy(update={"max_drop": whole.max_drop.model_copy(update={"trials": trials})})
        )
        (table,) = (block for block in section.blocks if isinstance(block, Table))
        return [row[-1] for row in table.rows[:-1]], table.caption

    surely, seemed = "surely loses more than was asked", "One that seemed to hold by a part of the shots"
    held, caption = told(43, 86, 128)
    assert held == ["seemed to", "no", "yes"]
    assert surely in caption
    assert seemed in caption
    held, caption = told(43, 128, None)
    assert held == ["seemed to", "no", "yes"]
    assert surely not in caption
    assert seemed in caption
    held, caption = told(128, 128, 128)
    assert held == ["yes", "no", "yes"]
    assert surely not in caption
    assert seemed not in caption


def test_the_loop_is_told_without_a_budget_and_with_its_search() -> None:
    (section,) = loop_sections(make_max_drop())
    told = " ".join(block.text for block in section.blocks if isinstance(block, Note))
    assert "how accurate they are decided" in section.meaning
    assert "EvoPress judged 100 whole models" in told
    assert "0.0312 nats from the dense model's; with the least sum of losses they lay 0.0458" in told
    assert sum(isinstance(block, Picture) for block in section.blocks) == 1, "no rounds, so no picture of them"
