"""The verdict, the actions below it and the key figures, for each way a run can end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from make_report import (
    CLASSES,
    make_accuracy,
    make_model,
    make_no_accuracy,
    make_report,
    make_size,
    make_slower,
    make_unmeasured,
)

from taco.report.accuracy_schema import Paired
from taco.report.detail import mistake_sections
from taco.report.page import Card, Note, Tone
from taco.report.schema import ModelSize, Report
from taco.report.verdict import actions, banner, cards, verdict

NO_ACCURACY = make_no_accuracy()
LESS, MORE = (Paired(both=200, only_first=a, only_second=b, neither=25, p=0.035) for a, b in ((12, 3), (3, 12)))
ALIKE = Paired(both=200, only_first=5, only_second=3, neither=32, p=0.73)


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ").replace("\N{NARROW NO-BREAK SPACE}", " ")


def card(report: Report, label: str) -> Card:
    return next(card for card in cards(report) if card.label.startswith(label))


def test_the_sentence_an_ecologist_reads() -> None:
    note = verdict(make_report(accuracy=make_accuracy(CLASSES, drop_points=4.17)))
    assert plain(note.text) == (
        "On this machine the small model names a picture 1.61x faster (3.10 ms instead of 5.00 ms) and gets "
        "4.2 points fewer right (91.7 % instead of 95.8 %, 6 classes, 240 pictures)."
    )


@dataclass(frozen=True)
class DropCase:
    name: str
    points: float
    words: str


DROPS = [
    DropCase("loss", 0.8, "gets 0.8 points fewer right"),
    DropCase("gain", -1.0, "gets 1.0 point more right"),
    DropCase("none", 0.0, "gets as many right"),
    DropCase("rounds-to-none", -0.01, "gets as many right"),
]


@pytest.mark.parametrize("case", DROPS, ids=lambda case: case.name)
def test_verdict_words_for_a_drop(case: DropCase) -> None:
    assert case.words in verdict(make_report(accuracy=make_accuracy(CLASSES, drop_points=case.points))).text


@dataclass(frozen=True)
class ToneCase:
    name: str
    tone: Tone
    changes: dict[str, Any] = field(default_factory=dict)


TONES = [
    ToneCase("no-proven-loss", Tone.GOOD, {"accuracy": make_accuracy(CLASSES, drop_ci95=(-0.3, 1.9), paired=ALIKE)}),
    ToneCase("proven-loss", Tone.PLAIN, {"accuracy": make_accuracy(CLASSES, drop_ci95=(0.3, 1.9))}),
    ToneCase("borderline", Tone.PLAIN, {"accuracy": make_accuracy(CLASSES, drop_ci95=(-0.3, 1.9))}),
    ToneCase("missed", Tone.WARN, {"speedup_asked": 2.0}),
    ToneCase("select", Tone.WARN, {"accuracy": make_accuracy(CLASSES, evaluated_on="select")}),
    ToneCase("no-accuracy", Tone.WARN, {"accuracy": NO_ACCURACY}),
    ToneCase("equal", Tone.BAD, {"speedup": 1.0}),
    ToneCase("slower", Tone.BAD, {"speedup": 0.97}),
]


@pytest.mark.parametrize("case", TONES, ids=lambda case: case.name)
def test_verdict_is_green_only_for_an_unmarred_success(case: ToneCase) -> None:
    assert verdict(make_report(**case.changes)).tone is case.tone


def test_slower_is_a_failure_everywhere() -> None:
    report = make_slower()
    assert plain(verdict(report).text).startswith(
        "Not faster: on this machine the small model takes 1.12x as long for a picture (5.60 ms instead of 5.00 ms)"
    )
    assert any("failed its purpose" in note.text and note.tone is Tone.BAD for note in actions(report))
    speed = card(report, "Speed-up")
    assert (speed.value, speed.tone) == ("0.89x", Tone.BAD)
    assert speed.detail.startswith("FAILED: slower")


def test_unmeasured_promises_nothing_and_shows_the_next_step() -> None:
    report = make_unmeasured()
    text = plain(verdict(report).text)
    assert text.startswith("Not measured: nothing was timed on the jetson-orin")
    assert "55.6 % of the arithmetic" in text
    assert "no promise of speed" in text
    assert "faster (" not in text
    assert any(note.text == f"Next step: {report.next_step}" for note in actions(report))
    assert card(report, "Speed-up").value == "not measured"


def test_a_device_is_named() -> None:
    assert verdict(make_report(target="raspberry-pi-5", local=False)).text.startswith(
        "On the raspberry-pi-5 the small model"
    )


def test_a_missed_speedup_is_said() -> None:
    notes = actions(make_report(speedup_asked=2.0))
    assert [note.text for note in notes] == ["The asked speed-up of 2.00x was missed: 1.61x was measured."]
    assert card(make_report(speedup_asked=2.0), "Speed-up").tone is Tone.WARN


def test_a_success_needs_no_action() -> None:
    assert actions(make_report()) == ()
    assert banner(make_report()) == ""


def test_random_weights_shout() -> None:
    report = make_report(model=make_model(random_weights=True))
    assert banner(report) == "RANDOM WEIGHTS: every accuracy on this page is meaningless"
    assert "meaningless" in verdict(report).text
    for label in ("Accuracy, dense", "Accuracy lost"):
        assert card(report, label).tone is Tone.BAD
        assert "meaningless" in card(report, label).detail


def test_select_pictures_are_marked_beside_every_accuracy() -> None:
    report = make_report(accuracy=make_accuracy(CLASSES, evaluated_on="select"))
    texts = [verdict(report).text, card(report, "Accuracy, dense").detail, card(report, "Accuracy lost").detail]
    assert all("also guided choices" in text for text in texts)
    assert any("--eval" in note.text for note in actions(report))


def test_no_accuracy_is_not_filled_in() -> None:
    report = make_report(accuracy=NO_ACCURACY)
    assert "its accuracy was not measured" in verdict(report).text
    assert card(report, "Accuracy, dense").value == card(report, "Accuracy lost").value == "not measured"
    assert any("Accuracy was not measured" in note.text for note in actions(report))


@pytest.mark.parametrize(
    ("ends", "paired", "words"),
    [
        ((0.2, 1.9), LESS, "a real loss"),
        ((0.2, 1.9), None, "a real loss"),
        ((-2.0, -0.1), MORE, "a real gain"),
        ((-0.3, 1.9), ALIKE, "no difference is proven"),
    ],
)
def test_drop_card_reads_the_interval(ends: tuple[float, float], paired: Paired | None, words: str) -> None:
    detail = card(make_report(accuracy=make_accuracy(CLASSES, drop_ci95=ends, paired=paired)), "Accuracy lost").detail
    assert words in detail


@pytest.mark.parametrize(
    ("ends", "paired", "words"),
    [
        ((0.2, 1.9), ALIKE, "borderline: the paired interval leaves out 0, but McNemar's exact test does not rule"),
        ((-0.3, 1.9), LESS, "borderline: McNemar's exact test rules out chance, but the paired interval holds 0"),
        ((0.2, 1.9), MORE, "point in opposite directions"),
    ],
)
def test_a_page_proves_nothing_of_which_its_two_judges_disagree(
    ends: tuple[float, float], paired: Paired, words: str
) -> None:
    report = make_report(accuracy=make_accuracy(CLASSES, drop_ci95=ends, paired=paired))
    (note,) = (b for b in mistake_sections(report)[0].blocks if isinstance(b, Note) and "McNemar" in b.text)
    for text in (card(report, "Accuracy lost").detail, note.text):
        assert words in text
        assert "a real" not in text
        assert "is proven" not in text
        assert "chance does not explain" not in text


def test_accuracy_card_says_when_it_is_balanced() -> None:
    balanced = card(make_report(accuracy=make_accuracy(CLASSES, balanced=True)), "Accuracy, dense")
    assert "mean over the classes" in balanced.detail
    assert "mean" not in card(make_report(), "Accuracy, dense").detail


def test_speed_card_shows_the_spread() -> None:
    assert "1.58x to 1.66x in 5 rounds; asked: 1.50x" in card(make_report(), "Speed-up").detail


def test_a_file_that_did_not_shrink_is_said() -> None:
    size = ModelSize(params=1, nonzero=1, macs=1, bytes=13_560_000)
    grown = card(make_report(size=make_size(compressed=size)), "Size")
    assert grown.tone is Tone.BAD
    assert grown.detail.startswith("NOT smaller")
    assert plain(card(make_report(), "Size").value) == "13.6 MB \N{RIGHTWARDS ARROW} 7.67 MB"


def test_a_model_without_macs_divides_by_nothing() -> None:
    empty = ModelSize(params=1, nonzero=1, macs=0, bytes=10)
    assert "100.0" in verdict(make_unmeasured(size=make_size(dense=empty, compressed=empty))).text
