"""Two runs side by side: what may be compared, by which figures, and what is said where nothing may be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from make_report import (
    CLASSES,
    make_accuracy,
    make_answers,
    make_device,
    make_latency,
    make_model,
    make_report,
    make_size,
    make_task,
    make_unmeasured,
)
from typer.testing import CliRunner

from taco import cli
from taco.report.diff import compare
from taco.report.diff_page import diff_page
from taco.report.diff_schema import Difference
from taco.report.html import page_html
from taco.report.schema import LatencySection, ModelSize, Report
from taco.report.write import write_report

NAMES = ("runs/a", "runs/b")
ROUNDS = [1.58, 1.59, 1.6, 1.6, 1.61, 1.61, 1.62, 1.62, 1.63, 1.64, 1.66]


def run(wrong: int = 6, factor: float = 1.0, **changes: Any) -> Report:
    """A run with so many wrong answers, whose speed-up is `factor` times that of the first."""
    middle = 3.1 / factor
    fields: dict[str, Any] = {
        "accuracy": make_accuracy(CLASSES, answers=make_answers(wrong=wrong)),
        "speedup_rounds": [factor * ratio for ratio in ROUNDS],
        "latency_ms": LatencySection(dense=make_latency(5.0, 1), compressed=make_latency(middle, 2)),
    }
    return make_report(**{**fields, **changes})


def differ(a: Report, b: Report) -> Difference:
    return compare(a, b, NAMES)


def test_accuracy_is_compared_picture_by_picture() -> None:
    found = differ(run(wrong=30), run(wrong=6)).accuracy
    assert found.pictures == 240
    assert found.points is not None
    assert found.paired is not None
    assert found.points.value == pytest.approx(100 * 24 / 240)
    assert 0 < found.points.low < found.points.value < found.points.high
    assert (found.paired.only_first, found.paired.only_second) == (0, 24)
    assert found.paired.p == pytest.approx(2 / 2**24)
    first = found.classes[0]
    assert (first.name, first.points, first.pictures) == (CLASSES[0], pytest.approx(60.0), 40)


def test_what_interval_and_test_judge_in_two_ways_is_borderline() -> None:
    found = differ(run(wrong=11), run(wrong=6))
    assert found.accuracy.points is not None
    assert found.accuracy.paired is not None
    assert found.accuracy.points.low > 0
    assert found.accuracy.paired.p == pytest.approx(2 / 2**5)
    assert "whether it is right more or less often is borderline: the paired interval leaves out 0" in found.verdict


def test_only_pictures_that_both_judged_count() -> None:
    other = run(accuracy=make_accuracy(CLASSES, answers=make_answers(start=100)))
    found = differ(run(), other).accuracy
    same = [number for number in range(100, 240) if number // 40 == (number - 100) // 40]
    assert found.pictures == len(same)  # the others have another label there


def test_classes_in_another_order_are_matched_by_name() -> None:
    turned = list(reversed(CLASSES))
    answers = make_answers()
    last = len(CLASSES) - 1
    there = answers.model_copy(
        update={"truth": [last - t for t in answers.truth], "said": [last - s for s in answers.said]}
    )
    other = run(task=make_task(classes=turned), accuracy=make_accuracy(turned, answers=there))
    found = differ(run(), other).accuracy
    assert found.points is not None
    assert (found.pictures, found.points.value) == (240, 0)


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (run(accuracy=make_accuracy(CLASSES, answers=None)), "does not hold its answers"),
        (run(accuracy=make_accuracy(CLASSES, answers=make_answers(start=1000))), "no picture was judged by both"),
        (run(task=make_task(classes=[*CLASSES[:-1], "badger"])), "different classes"),
    ],
    ids=["old report", "other pictures", "other classes"],
)
def test_where_accuracies_cannot_be_compared_the_reason_is_said(other: Report, why: str) -> None:
    found = differ(run(), other)
    assert found.accuracy.points is None
    assert why in (found.accuracy.why_not or "")
    assert "cannot be told" in found.verdict


def test_speed_is_compared_through_the_same_dense_model() -> None:
    found = differ(run(), run(factor=1.25))
    speed = found.speed
    assert speed.ratio == pytest.approx(1.25)
    assert speed.interval is not None
    low, high = speed.interval
    assert pytest.approx(low) == 1.25 * 1.59 / 1.64
    assert pytest.approx(high) == 1.25 * 1.64 / 1.59
    assert speed.coverage is not None
    assert 0.95 <= speed.coverage < 1
    assert "it is faster" in found.verdict
    assert "SLOWER" in differ(run(factor=1.25), run()).verdict
    assert "no difference in time is proven" in differ(run(), run(factor=1.001)).verdict


def test_few_rounds_prove_nothing() -> None:
    few = run(factor=2, speedup_rounds=[3.2, 3.3])
    assert "too few rounds" in differ(run(), few).verdict


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (run(measured_on={"machine": "trap-lab-3", "processor": "Cortex-A76"}), "different devices"),
        (run(device=make_device()), "different devices"),
        (make_unmeasured(), "not timed"),
    ],
    ids=["processor", "device", "unmeasured"],
)
def test_times_of_different_devices_are_never_divided(other: Report, said: str) -> None:
    speed = differ(run(), other).speed
    assert (speed.ratio, speed.interval) == (None, None)
    assert said in speed.how


def test_without_a_common_dense_model_there_is_a_ratio_and_no_interval() -> None:
    found = differ(run(), run(factor=2, model=make_model(name="resnet50")))
    assert found.speed.ratio == pytest.approx(2.0)
    assert found.speed.interval is None
    assert "not in turns" in found.speed.how
    assert {s.name: (s.a, s.b) for s in found.settings} == {"model": ("tf_efficientnet_lite0", "resnet50")}


def test_size_settings_and_warnings_are_told() -> None:
    small = ModelSize(params=1, nonzero=1, macs=2, bytes=1_917_500)
    other = run(size=make_size(compressed=small), seed=7, shipped="forced", recovery=None)
    found = differ(run(), other)
    assert "25.0" in found.verdict
    changed = {s.name: (s.a, s.b) for s in found.settings}
    assert changed["seed"] == ("0", "7")
    assert changed["recovery: steps"] == ("300", "nothing")
    assert any("shipped by force" in warning for warning in found.warnings)
    assert any("RANDOM WEIGHTS" in w for w in differ(run(), run(model=make_model(random_weights=True))).warnings)


def test_a_run_against_itself_differs_in_nothing() -> None:
    found = differ(run(), run())
    assert found.settings == []
    assert "no difference in how often they are right is proven" in found.verdict


def test_the_command_prints_words_json_and_a_page(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "diff")]
    for folder, made in zip(folders, (run(wrong=30), run(factor=1.25)), strict=True):
        folder.mkdir()
        write_report(made, folder)
    words = ["report", "diff", *map(str, folders)]
    told = CliRunner().invoke(cli.app, words)
    assert told.exit_code == 0, told.output
    assert "it is faster" in told.stdout
    page = tmp_path / "diff.html"
    done = CliRunner().invoke(cli.app, [*words, "--json", "--html", str(page)])
    assert Difference.model_validate(json.loads(done.stdout)).accuracy.pictures == 240
    assert "it is faster" in page.read_text()
    again = CliRunner().invoke(cli.app, ["report", str(folders[1])])
    assert again.stdout.strip() == str(folders[1] / "report.html")
    assert CliRunner().invoke(cli.app, [*words, "--html", str(tmp_path)]).exit_code != 0


def test_the_page_shows_both_sides() -> None:
    one, other = run(), run(factor=1.25)
    page = page_html(diff_page(differ(one, other), one, other))
    for said in ("runs/a", "runs/b", "B over A", "1.25x", "What differs", "How to do them again"):
        assert said in page, said
