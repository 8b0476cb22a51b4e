"""What camera-trap people look for: empty frames, day and infrared, sure answers, how the pictures were divided."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from make_report import (
    LEAK,
    TRAP_CLASSES,
    make_abstention,
    make_accuracy,
    make_lost,
    make_model,
    make_no_accuracy,
    make_proportion,
    make_report,
    make_task,
    make_trap,
)

from taco.report import camera, figures
from taco.report.accuracy_schema import LightAccuracy
from taco.report.build import build_page
from taco.report.html import render_html
from taco.report.markdown import render_markdown
from taco.report.page import Note, Section, Table, Tone
from taco.report.schema import Report
from taco.report.verdict import cards


def plain(text: str) -> str:
    return re.sub(r"[\N{NO-BREAK SPACE}\N{NARROW NO-BREAK SPACE}]", " ", text).replace("\N{RIGHTWARDS ARROW}", "->")


def notes(section: Section) -> list[Note]:
    return [block for block in section.blocks if isinstance(block, Note)]


def table(section: Section) -> Table:
    return next(block for block in section.blocks if isinstance(block, Table))


def with_blank(right: int, n: int, **changes: Any) -> Report:
    """A report in which `right` of `n` empty frames are recognised by both models."""
    accuracy = make_accuracy(TRAP_CLASSES, blank_class="blank", **changes)
    blank = make_proportion(right, n) if n else None
    models = {
        name: model.model_copy(update={"per_class": {**model.per_class, "blank": blank}})
        for name in ("dense", "exported")
        if (model := getattr(accuracy, name)) is not None
    }
    return make_trap(accuracy=accuracy.model_copy(update=models))


@dataclass(frozen=True)
class BlankCase:
    name: str
    report: Report
    value: str
    detail: str
    tone: Tone


BLANKS = [
    BlankCase(
        "enough",
        with_blank(45, 50),
        "90.0 % -> 90.0 %",
        "class blank, 50 pictures; 95 % intervals: 78.6 to 95.7 % -> 78.6 to 95.7 %",
        Tone.PLAIN,
    ),
    BlankCase("30", with_blank(30, 30), "100.0 % -> 100.0 %", "class blank, 30 pictures", Tone.PLAIN),
    BlankCase("29", with_blank(29, 29), "100.0 % -> 100.0 %", "too few to tell: class blank, 29 pictures", Tone.WARN),
    BlankCase("no picture", with_blank(0, 0), "not measured", "no picture of the class blank was left", Tone.WARN),
    BlankCase(
        "no accuracy",
        make_report(accuracy=make_no_accuracy(blank_class="blank")),
        "not measured",
        "no picture of the class blank was left",
        Tone.WARN,
    ),
    BlankCase(
        "select",
        with_blank(45, 50, evaluated_on="select"),
        "90.0 % -> 90.0 %",
        "[on pictures that also guided choices: likely too good]",
        Tone.WARN,
    ),
    BlankCase(
        "random",
        make_trap(model=make_model(random_weights=True)),
        "95.0 % -> 90.0 %",
        "[random weights: meaningless]",
        Tone.BAD,
    ),
]


@pytest.mark.parametrize("case", BLANKS, ids=lambda case: case.name)
def test_empty_frames_are_a_key_figure(case: BlankCase) -> None:
    (card,) = (card for card in cards(case.report) if card.label.startswith("Empty frames recognised"))
    assert (plain(card.value), card.tone) == (case.value, case.tone)
    assert case.detail in plain(card.detail)


@dataclass(frozen=True)
class LostCase:
    name: str
    dense: tuple[int, int]
    exported: tuple[int, int]
    detail: str
    tone: Tone
    changes: dict[str, Any] = field(default_factory=dict)


SHARES = "pictures of other classes called blank: 1.9 % -> 2.5 %; 95 % intervals: 0.6 to 5.4 % -> 1.0 to 6.3 %"
LOST = [
    LostCase("a few", (3, 160), (4, 160), SHARES, Tone.PLAIN),
    LostCase("none", (0, 160), (0, 160), "pictures of other classes called blank: 0.0 % -> 0.0 %", Tone.PLAIN),
    LostCase("proven worse", (0, 160), (16, 160), "more than before: pictures of other", Tone.WARN),
    LostCase("few pictures", (0, 29), (1, 29), "too few to tell: pictures of other", Tone.WARN),
    LostCase("select", (3, 160), (4, 160), "that also guided choices", Tone.WARN, {"evaluated_on": "select"}),
]


@pytest.mark.parametrize("case", LOST, ids=lambda case: case.name)
@pytest.mark.parametrize("render", [render_html, render_markdown], ids=["html", "markdown"])
def test_animals_called_blank_are_a_key_figure(case: LostCase, render: Callable[[Report], str]) -> None:
    accuracy = make_accuracy(TRAP_CLASSES, blank_class="blank", **case.changes)
    counts = {"dense": make_lost(*case.dense), "exported": make_lost(*case.exported)}
    models = {n: getattr(accuracy, n).model_copy(update={"animals_called_blank": c}) for n, c in counts.items()}
    report = make_trap(accuracy=accuracy.model_copy(update=models))
    (card,) = (card for card in cards(report) if card.label.startswith("Animals lost as empty frames"))
    assert plain(card.value) == f"{case.dense[0]} -> {case.exported[0]} of {case.exported[1]}"
    assert card.tone is case.tone
    assert case.detail in plain(card.detail)
    assert card.value in render(report)


def test_a_report_without_empty_frames_says_nothing_of_them() -> None:
    assert "mpty frames" not in render_html(make_report())


def test_a_report_from_before_animals_called_blank_were_counted_is_drawn() -> None:
    written = make_trap().model_dump(mode="json")
    for name in ("dense", "compressed", "exported"):
        del written["accuracy"][name]["animals_called_blank"]
    page = render_html(Report.model_validate(written))
    assert "Empty frames recognised" in page
    assert "Animals lost" not in page


def test_empty_frames_come_first_in_the_table_and_stay_in_the_picture() -> None:
    names = [f"class {number:02}" for number in range(30)] + ["blank"]
    report = make_report(accuracy=make_accuracy(names, blank_class="blank"))
    assert figures.shown_classes(report) == [*names[:19], "blank"]
    markdown = render_markdown(report)
    assert 0 < markdown.index("| blank (empty frames) |") < markdown.index("| class 00 |")


def lights(**kinds: tuple[int, int]) -> dict[str, LightAccuracy]:
    """Right and all pictures of each kind, dense and exported alike."""
    return {name: LightAccuracy(dense=make_proportion(*n), exported=make_proportion(*n)) for name, n in kinds.items()}


def light_section(**kinds: tuple[int, int]) -> Section:
    accuracy = make_accuracy(TRAP_CLASSES, by_light=lights(**kinds))
    (section,) = camera.light_sections(make_trap(accuracy=accuracy))
    return section


def test_day_and_infrared_have_a_row_each() -> None:
    section = light_section(infrared=(18, 20), day=(95, 100))
    assert [tuple(map(plain, row)) for row in table(section).rows] == [
        ("daylight (colour)", "95.0 % (88.8 to 97.8)", "95.0 % (88.8 to 97.8)", "100"),
        ("infrared (grey)", "90.0 % (69.9 to 97.2)", "90.0 % (69.9 to 97.2)", "20 (few)"),
    ]
    assert "Few: fewer than 30 pictures are too few to tell." in table(section).caption
    assert notes(section) == []


@dataclass(frozen=True)
class LightCase:
    name: str
    kinds: dict[str, tuple[int, int]]
    words: str
    tone: Tone


LIGHTS = [
    LightCase("only day", {"day": (9, 10)}, "Only daylight (colour) pictures were judged (10 pictures)", Tone.PLAIN),
    LightCase("only night", {"infrared": (1, 1)}, "nothing is known about daylight (colour) pictures", Tone.PLAIN),
    LightCase("night worse", {"day": (95, 100), "infrared": (60, 100)}, "less often by infrared light", Tone.WARN),
    LightCase("day worse", {"day": (60, 100), "infrared": (95, 100)}, "less often by day than", Tone.WARN),
]


@pytest.mark.parametrize("case", LIGHTS, ids=lambda case: case.name)
def test_what_the_kinds_of_light_tell(case: LightCase) -> None:
    (note,) = notes(light_section(**case.kinds))
    assert case.words in plain(note.text)
    assert note.tone is case.tone


def test_without_known_light_the_part_is_left_out() -> None:
    assert 'id="light"' not in render_html(make_report(accuracy=make_no_accuracy()))
    assert 'id="light"' in render_html(make_report())


@dataclass(frozen=True)
class SureCase:
    name: str
    words: str
    tone: Tone
    on: str = "evaluation"
    changes: dict[str, Any] = field(default_factory=dict)


SURE = [
    SureCase(
        "evaluation",
        "Answers below 83.0 % are marked unsure: of the sure ones 97.0 % (95 % interval: 91.5 to 99.0 %) were right, "
        "and 50.0 % of the evaluation pictures are sure. Asked for: 95.0 % right.",
        Tone.PLAIN,
    ),
    SureCase("missed", "of the sure ones 90.0 %", Tone.WARN, changes={"eval_right": make_proportion(90, 100)}),
    SureCase(
        "none sure",
        "Answers below 83.0 % are marked unsure, and none of the 200 evaluation pictures is sure.",
        Tone.WARN,
        changes={"eval_sure": make_proportion(0, 200), "eval_right": None},
    ),
    SureCase(
        "never sure",
        "Every answer is marked unsure: no limit made 95.0 % of the sure answers right on the shots.",
        Tone.WARN,
        changes={"threshold": 1.000001, "eval_sure": make_proportion(0, 200), "eval_right": None},
    ),
    SureCase(
        "select",
        "and 83.3 % of the shots that chose this limit (slightly optimistic) are sure. Asked for: 95.0 % right. "
        "[on pictures that also guided choices: likely too good]",
        Tone.PLAIN,
        on="select",
        changes={"eval_sure": None, "eval_right": None},
    ),
]


@pytest.mark.parametrize("case", SURE, ids=lambda case: case.name)
def test_sure_answers_in_words(case: SureCase) -> None:
    figures_of = {"eval_sure": make_proportion(100, 200), "eval_right": make_proportion(97, 100), **case.changes}
    accuracy = make_accuracy(TRAP_CLASSES, evaluated_on=case.on, abstention=make_abstention(None, **figures_of))
    note, *_ = notes(camera.abstention_section(make_trap(accuracy=accuracy)))
    assert case.words in plain(note.text)
    assert note.tone is case.tone


def test_sure_answers_on_both_kinds_of_pictures() -> None:
    accuracy = make_accuracy(TRAP_CLASSES, abstention=make_abstention(make_proportion(180, 200), select_right=None))
    found = table(camera.abstention_section(make_trap(accuracy=accuracy)))
    assert [tuple(map(plain, row)) for row in found.rows] == [
        ("the shots that chose the limit", "83.3 % (64.1 to 93.3)", "none is sure", "0 of 24"),
        ("evaluation", "81.0 % (75.0 to 85.8)", "96.9 % (93.0 to 98.7)", "162 of 200"),
    ]
    assert "slightly too good" in found.caption


@dataclass(frozen=True)
class SplitCase:
    name: str
    changes: dict[str, Any]
    words: str
    tone: Tone


SPLITS = [
    SplitCase(
        "place",
        {"split_by": "location"},
        "No place (location) has pictures both among the shots and in the evaluation",
        Tone.GOOD,
    ),
    SplitCase("burst", {"split_by": "sequence"}, "No burst (sequence) has pictures both among the shots", Tone.WARN),
    SplitCase("picture", {"split_by": "image"}, "Pictures were divided one by one", Tone.WARN),
    SplitCase("nothing left", {"eval_images": 0}, "No pictures were left for an evaluation", Tone.WARN),
]


@pytest.mark.parametrize("case", SPLITS, ids=lambda case: case.name)
@pytest.mark.parametrize("render", [render_html, render_markdown], ids=["html", "markdown"])
def test_the_split_is_said_in_words(case: SplitCase, render: Callable[[Report], str]) -> None:
    report = make_trap(task=make_task(**case.changes))
    (note,) = notes(camera.split_section(report))
    assert note.tone is case.tone
    assert case.words in note.text
    assert case.words in render(report)


@pytest.mark.parametrize("split_by", ["location", "sequence", "image"])
def test_frames_without_labels_may_show_the_places_that_judge(split_by: str) -> None:
    report = make_trap(task=make_task(split_by=split_by, unlabelled_images=1234))
    found = notes(camera.split_section(report))
    assert {note.tone for note in found} == {Tone.WARN}
    assert "learnt from 1 234 frames without labels, and nobody told their places" in plain(found[-1].text)
    for text in (render_html(report), render_markdown(report)):
        assert "the accuracies hold for places that the model has never seen" not in text
        assert "imitate the dense one on your labelled pictures and on frames without labels." in text
    assert "on your labelled pictures." in render_markdown(make_trap())


@pytest.mark.parametrize(("cropped", "words"), [(True, "crops: the boxes around"), (False, "whole frames")])
def test_the_split_counts_what_was_left_out(cropped: bool, words: str) -> None:
    section = camera.split_section(make_trap(task=make_task(held_back=1234, duplicates=7, cropped=cropped)))
    rows = {label.split(":")[0]: plain(value) for label, value in table(section).rows}
    assert (rows["held back"], rows["copies or near copies of another picture"]) == ("1 234", "7")
    assert words in rows["what the model looks at"]


def test_warnings_stand_between_the_verdict_and_the_key_figures() -> None:
    report = make_trap(warnings=[LEAK])
    assert build_page(report).warnings == (LEAK,)
    for text in (render_html(report).split("<body>")[1], render_markdown(report)):
        assert text.index("names a picture") < text.index(LEAK) < text.index("Empty frames recognised")
