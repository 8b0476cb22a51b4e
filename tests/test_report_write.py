"""Files are whole or not there, and a stored report draws the same page."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from make_report import make_accuracy, make_report, make_task, make_unmeasured
from pydantic import ValidationError

from taco.errors import BundleError, TacoError
from taco.report.html import render_html
from taco.report.markdown import render_markdown
from taco.report.read import read_report
from taco.report.write import write_report


def test_three_files_and_nothing_else(tmp_path: Path) -> None:
    report = make_report(accuracy=make_accuracy(["キツネ", "fox"]))
    paths = write_report(report, tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([paths.html, paths.json, paths.markdown])
    assert paths.html.read_text(encoding="utf-8") == render_html(report)
    assert paths.markdown.read_text(encoding="utf-8") == render_markdown(report)


@pytest.mark.parametrize("report", [make_report(), make_unmeasured()], ids=["measured", "unmeasured"])
def test_json_draws_the_same_page_again(tmp_path: Path, report) -> None:
    write_report(report, tmp_path)
    again = read_report(tmp_path)
    assert again == report
    assert render_html(again) == render_html(report)


def test_names_that_are_not_utf_8_are_written_with_the_replacement_character(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xe9.jpg")
    changes: dict[str, Any] = {
        "task": make_task(name=name, skipped=[f"a/{name}: the file is empty"]),
        "command": ["taco", "export", name],
        "warnings": [f"a/{name} = b/{name}"],
        "measured_on": {name: "named by a text of JSON: \ud800"},
    }
    report = make_report(**changes).model_copy(update={"next_step": name})
    write_report(report, tmp_path)
    again = read_report(tmp_path)
    assert again == report
    shown = "\N{REPLACEMENT CHARACTER}.jpg"
    assert (again.task.name, again.command[-1], again.next_step) == (shown, shown, shown)
    assert again.task.skipped == [f"a/{shown}: the file is empty"]
    assert again.warnings == [f"a/{shown} = b/{shown}"]


def test_json_keeps_nulls(tmp_path: Path) -> None:
    stored = json.loads(write_report(make_unmeasured(), tmp_path).json.read_text(encoding="utf-8"))
    assert stored["latency_ms"] is stored["speedup"] is stored["measured_on"] is None
    assert stored["latency_source"] == "none"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_json_cannot_hold_is_refused(bad: float) -> None:
    for changes in ({"speedup": bad}, {"speedup_rounds": [1.5, bad]}, {"recovery": {"loss": bad}}):
        with pytest.raises(ValidationError, match="finite number"):
            make_report(**changes)
    with pytest.raises(ValidationError, match="finite number"):
        make_accuracy(["a"], drop_ci95=(bad, 1.0))


def test_a_second_report_replaces_the_first(tmp_path: Path) -> None:
    write_report(make_report(), tmp_path)
    write_report(make_unmeasured(), tmp_path)
    assert read_report(tmp_path).target == "jetson-orin"
    assert len(list(tmp_path.iterdir())) == 3


def test_a_failed_write_leaves_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_report(make_report(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(TacoError, match=r"report\.json cannot be written: No space left on device\. Free some space"):
        write_report(make_unmeasured(), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_interruption_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_report(make_report(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(TacoError, match=r"nowhere/report\.json cannot be written"):
        write_report(make_report(), tmp_path / "nowhere")


def test_files_are_as_readable_as_any_other(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    paths = write_report(make_report(), tmp_path)
    assert paths.html.stat().st_mode == plain.stat().st_mode


def test_reading_where_nothing_is(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="cannot be read"):
        read_report(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [('{"schema_version": 1}', "is not a report of schema version 1: taco_version"), ("{", "the file: Invalid JSON")],
    ids=["incomplete", "damaged"],
)
def test_reading_what_is_not_a_report(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "report.json").write_text(content, encoding="utf-8")
    with pytest.raises(BundleError, match=words):
        read_report(tmp_path)


def test_a_newer_version_is_refused_by_name(tmp_path: Path) -> None:
    paths = write_report(make_report(), tmp_path)
    stored = json.loads(paths.json.read_text(encoding="utf-8"))
    paths.json.write_text(json.dumps({**stored, "schema_version": 2}), encoding="utf-8")
    with pytest.raises(BundleError, match="schema_version"):
        read_report(tmp_path)
