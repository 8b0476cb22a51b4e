"""The lines of a plan and of a result: short, and nothing that was not measured or judged is claimed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from taco.answers.prediction import Prediction
from taco.commands import printing
from taco.options import make_options
from taco.pictures.listing import LabelledPicture, Listing, Skipped
from taco.report.schema import Report
from taco.search.budget import Budget
from tests.make_report import (
    make_abstention,
    make_accuracy,
    make_no_accuracy,
    make_precision,
    make_report,
    make_task,
    make_trap,
)


def shown(report: Report, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    printing.result(report, Path("runs/a"), already_done=False)
    lines = capsys.readouterr().out.splitlines()
    return {line[:10].strip(): line[10:] for line in lines}


def test_a_camera_trap_run_tells_of_empty_frames_night_new_places_and_trust(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = make_trap()
    lines = shown(report, capsys)
    blank = report.accuracy.exported.per_class["blank"] if report.accuracy.exported else None
    assert blank is not None
    assert lines["empty"] == f"{blank.percent:.1f} % of {blank.n} empty frames are named as such"
    assert lines["split"] == "no place is in both shots and evaluation"
    assert (
        lines["pictures"]
        == "96 shots, 200 to judge on; looked at in boxes around the animals; 31 held back; 1 skipped, see report"
    )
    day, night = (report.accuracy.by_light[kind].exported for kind in ("day", "infrared"))
    assert lines["light"] == f"{day.percent:.1f} % by day ({day.n}), {night.percent:.1f} % in infrared ({night.n})"
    found = report.accuracy.abstention
    assert found.eval_sure is not None
    assert found.eval_right is not None
    assert lines["sure"].startswith(f"{found.eval_sure.percent:.1f} % of the answers (probability from 0.83); ")
    assert f"{found.eval_right.percent:.1f} % of them are right, 95 % asked" in lines["sure"]


def test_whole_frames_by_day_without_empty_ones_say_nothing_of_boxes_and_blanks(
    capsys: pytest.CaptureFixture[str],
) -> None:
    task = make_task(split_by="image", held_back=0, skipped=[], cropped=False)
    lines = shown(make_report(task=task, accuracy=make_accuracy(task.classes, by_light={})), capsys)
    assert lines["pictures"] == "96 shots, 320 to judge on"
    assert lines["split"] == "no picture is in both shots and evaluation; places and bursts may be"
    assert not {"empty", "light"} & set(lines)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"eval_sure": None, "eval_right": None},
            "83.3 % of the answers on the select pictures (probability from 0.83); ",
        ),
        ({"eval_right": None}, "no answer is sure: a person must look at every picture"),
        ({"eval_sure": None, "eval_right": None, "select_right": None}, "no answer on the select pictures is sure: "),
    ],
    ids=["few-shot", "none sure", "none sure, few-shot"],
)
def test_sure_answers_are_told_on_the_pictures_that_there_are(
    capsys: pytest.CaptureFixture[str], changes: dict[str, Any], said: str
) -> None:
    report = make_trap()
    exported = report.accuracy.exported
    assert exported is not None
    accuracy = report.accuracy.model_copy(update={"abstention": make_abstention(exported.top1, **changes)})
    assert shown(make_trap(accuracy=accuracy), capsys)["sure"].startswith(said)


def test_nothing_is_claimed_where_nothing_was_judged(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(make_report(accuracy=make_no_accuracy()), capsys)
    assert lines["accuracy"] == "not judged"
    assert not {"empty", "light", "sure", "split"} & set(lines)


def plan(*, evaluation: bool = False, **options: object) -> str:
    pictures = tuple(LabelledPicture(Path(f"/p/{n}.jpg"), n % 2) for n in range(6))
    task = Listing("site", ("fox", "hare"), pictures, skipped=(Skipped(Path("/p/x.jpg"), "two species"),))
    found = SimpleNamespace(
        resized=(),
        options=make_options({"task": "site", "target": "host-cpu", "out": "runs/a", **options}),
        budget=Budget(1.5, None),
        units=SimpleNamespace(within_blocks=[SimpleNamespace(width=96, kind="inner")], dense=[]),
        listings=SimpleNamespace(
            task=task, evaluation=Listing("val", task.classes, pictures[:4]) if evaluation else None, cropped=evaluation
        ),
        generalist=SimpleNamespace(name="lite0", weights_source="a package", random_weights=not evaluation),
        target=SimpleNamespace(name="host-cpu", description="this machine", channel_multiple=8),
        device=None,
        others=SimpleNamespace(
            devices={"ssh://b": SimpleNamespace(name="b", board="Raspberry Pi 5")} if evaluation else {},
            missing={"ssh://c": "c cannot be reached"} if evaluation else {},
        ),
        frames=SimpleNamespace(views=[], problems=[]),
    )
    return printing.plan(found, Path("site/taco.toml") if evaluation else None)  # type: ignore[arg-type]


def test_a_plan_names_its_settings_file_and_what_it_will_look_at() -> None:
    lines = plan(evaluation=True, split_by="location", from_run="runs/old").splitlines()
    assert lines[:3] == [
        "settings  site/taco.toml",
        "from      runs/old",
        "task      site: 6 pictures of 2 classes, 16 shots a class",
    ]
    assert "views     boxes around the animals" in lines
    assert "judged on 4 pictures of val" in lines
    assert "split     places kept apart" in lines
    assert "skipped   1 picture; the report will list them" in lines
    assert "device    b: Raspberry Pi 5" in lines
    assert "MISSING   ssh://c: c cannot be reached" in lines
    assert not any("WARNING" in line for line in lines)


def test_a_plan_without_them_does_not() -> None:
    text = plan()
    assert text.startswith("task ")
    assert "views     whole frames" in text
    assert "judged on what the shots leave" in text
    assert "WARNING   random weights" in text


def test_answers_that_need_a_person_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    found = [
        Prediction(Path("a.jpg"), "fox", 0.9, {}, None, sure=True),
        Prediction(Path("a.jpg"), "fox", 0.4, {}, None, sure=False),
        Prediction(Path("b.jpg"), None, None, None, "empty"),
    ]
    printing.answers(found, 2)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "1 of 2 pictures could not be read; they are listed with the reason",
        "1 of 3 answers are not sure and marked so: look at those pictures yourself",
    ]
    printing.answers(found[:1], 1)
    assert capsys.readouterr().err == ""


def test_int8_is_told_as_it_came_out(capsys: pytest.CaptureFixture[str]) -> None:
    used = shown(make_report(precision=make_precision()), capsys)
    assert used["INT8"] == "48 of 50 layers (U8S8, 8-bit weights); 1.85 times as fast as fp32 of the same model"
    elsewhere = shown(make_report(precision=make_precision(faster_than_fp32=None)), capsys)
    assert elsewhere["INT8"].endswith("whether it is faster than fp32 was not measured")
    slower = shown(make_report(precision=make_precision(given_up="INT8 is slower", used="fp32")), capsys)
    assert slower["INT8"] == "given up, the model is in fp32: INT8 is slower"
    assert "INT8" not in shown(make_report(), capsys)
