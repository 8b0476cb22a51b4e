"""The page on mistakes and calibration."""

from __future__ import annotations

import re

import pytest
from make_report import (
    CLASSES,
    make_accuracy,
    make_detail,
    make_model,
    make_no_accuracy,
    make_proportion,
    make_report,
    make_task,
)

from taco.report import wording
from taco.report.accuracy_schema import Confused, CoveragePoint, Paired
from taco.report.build import build_page
from taco.report.detail import coverage_blocks, mistake_sections
from taco.report.detail_figures import confusion_matrix, coverage_curve
from taco.report.markdown import render_markdown
from taco.report.page import Folded, Note, Picture, Table, Tone
from taco.report.schema import Report


def notes(report: Report) -> list[Note]:
    return [block for block in mistake_sections(report)[0].blocks if isinstance(block, Note)]


def tables(report: Report) -> list[Table]:
    return [block for block in mistake_sections(report)[0].blocks if isinstance(block, Table)]


def test_the_worst_class_and_the_balanced_accuracy_are_named() -> None:
    text = notes(make_report())[0].text
    assert "Worst class: panthera-leo, 80.0" in text
    assert "Class-balanced accuracy: 95.8" in text
    perfect = make_report(accuracy=make_accuracy(CLASSES, detail=make_detail(CLASSES, worst=None)))
    assert "Every class that has pictures is always right" in notes(perfect)[0].text


@pytest.mark.parametrize(
    ("first", "second", "p", "words", "tone"),
    [
        (12, 3, 0.035, "The exported model is right less often", Tone.WARN),
        (3, 12, 0.035, "The exported model is right more often", Tone.PLAIN),
        (5, 3, 0.73, "no difference between the two is proven", Tone.PLAIN),
    ],
)
def test_dense_and_exported_are_compared_on_the_same_pictures(
    first: int, second: int, p: float, words: str, tone: Tone
) -> None:
    paired = Paired(both=200, only_first=first, only_second=second, neither=25, p=p)
    ends = (0.4, 7.0) if first > second else (-7.0, -0.4)
    lost = ends if p < 0.05 else (-1.1, 2.8)
    note = notes(make_report(accuracy=make_accuracy(CLASSES, paired=paired, drop_ci95=lost)))[1]
    assert words in note.text
    assert f"{first} are right only with the dense model and {second} only with the exported one" in note.text
    assert f"p = {p:.2g}" in note.text
    assert note.tone is tone


def test_mistakes_are_listed_the_most_frequent_first() -> None:
    cells = [
        Confused(true="panthera-leo", answer=other, count=n) for other, n in zip(CLASSES[1:4], (2, 5, 3), strict=True)
    ]
    report = make_report(accuracy=make_accuracy(CLASSES, detail=make_detail(CLASSES, confusion=cells)))
    mixed = tables(report)[0]
    assert [row[:2] for row in mixed.rows] == [
        (f"panthera-leo taken for {CLASSES[2]}", "5"),
        (f"panthera-leo taken for {CLASSES[3]}", "3"),
        (f"panthera-leo taken for {CLASSES[1]}", "2"),
    ]
    assert mixed.rows[0][2] == wording.percent(50.0)
    assert not [
        t
        for t in tables(make_report(accuracy=make_accuracy(CLASSES, detail=make_detail(CLASSES, confusion=[]))))
        if t.columns[0] == "mistake"
    ]


def test_many_mistakes_and_many_classes_are_folded() -> None:
    names = [f"species-{i}" for i in range(30)]
    report = make_report(task=make_task(classes=names), accuracy=make_accuracy(names))
    folded = [block.summary for block in mistake_sections(report)[0].blocks if isinstance(block, Folded)]
    assert folded == ["All 29 kinds of mistakes", "Precision of all 30 classes"]
    picture = next(b for b in mistake_sections(report)[0].blocks if isinstance(b, Picture))
    assert "Only the worst 20 classes" in picture.caption


def test_precision_says_where_a_class_is_never_the_answer() -> None:
    precision = {**dict.fromkeys(CLASSES, make_proportion(30, 40)), "ursus-arctos": None}
    report = make_report(accuracy=make_accuracy(CLASSES, detail=make_detail(CLASSES, precision=precision)))
    rows = {row[0]: row[1:] for row in tables(report)[-1].rows}
    assert rows["ursus-arctos"] == ("never the answer", "0")
    assert rows["panthera-leo"][0].startswith(wording.percent(75.0))


def test_the_calibration_error_states_its_bins() -> None:
    _, note, table = coverage_blocks(make_report())
    assert isinstance(note, Note)
    assert "Calibration error: 3.2 points" in note.text
    assert "15 bins of equal width" in note.text
    assert isinstance(table, Folded)
    assert table.summary == "Calibration, 2 bins that hold answers"


def test_nothing_is_made_up_where_nothing_was_judged() -> None:
    report = make_report(accuracy=make_no_accuracy())
    assert mistake_sections(report) == ()
    assert coverage_blocks(report) == ()
    assert build_page(report)


def test_heads_that_were_compared_are_in_the_report() -> None:
    text = render_markdown(make_report())
    assert "rows of ImageNet's head" in text
    assert "ridge regression on cached features" in text
    without = render_markdown(make_report(model=make_model(head_candidates=[])))
    assert "ridge regression on cached features" not in without


def test_frames_without_labels_are_counted_in_the_report() -> None:
    text = render_markdown(make_report(task=make_task(unlabelled_images=1234, unlabelled_copies=17)))
    assert re.search(r"frames without labels that recovery learnt from too \| 1[, \u202f\u2009]?234", text)
    assert "of one another | 17" in text
    assert "frames without labels" not in render_markdown(make_report())


def test_the_matrix_shows_counts_where_there_is_room() -> None:
    cells = [Confused(true="fox", answer="hare", count=37), Confused(true="fox", answer="fox", count=63)]
    svg = confusion_matrix(cells, ["fox", "hare"])
    assert svg.startswith("<svg")
    assert {"37", "63"} <= set(re.findall(r">\s*(\d+)\s*<", svg))
    assert "1. fox" in svg
    names = [f"c{i}" for i in range(20)]
    crowded = confusion_matrix([Confused(true="c0", answer="c1", count=377)], names)
    assert "377" not in re.findall(r">\s*(\d+)\s*<", crowded)
    assert confusion_matrix(cells, ["fox"])  # answers that are not drawn


def test_the_curve_is_drawn_with_and_without_a_reachable_limit() -> None:
    points = [
        CoveragePoint(threshold=0.9, sure=50.0, right=100.0),
        CoveragePoint(threshold=0.4, sure=100.0, right=90.0),
    ]
    assert ">limit<" in coverage_curve(points, 0.9, 95.0)
    assert ">limit<" not in coverage_curve(points, 1.1, 95.0)
