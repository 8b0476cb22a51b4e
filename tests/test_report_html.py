"""`report.html`: self-contained, well-formed, escaped, complete, and the same each time."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from importlib.resources import files

import pytest
from make_report import (
    CLASSES,
    make_accuracy,
    make_layers,
    make_model,
    make_no_accuracy,
    make_report,
    make_slower,
    make_task,
    make_unmeasured,
)

from taco.report import wording
from taco.report.html import render_html
from taco.report.schema import Report

VOID = {"meta", "wbr", "link", "br", "hr", "img", "input", "path", "use", "rect"}


class Page(HTMLParser):
    """What a browser would find: tags with attributes, text of each id'd section, and balance."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.drawn = 0
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        self.drawn += tag == "path" and "svg" in self.open

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.drawn += tag == "path"

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"style", "svg"} & set(self.open):
            return
        if self.tags and self.tags[-1][0] == "wbr":  # one word still
            data = self.words.pop() + data
        self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


REPORTS = {
    "measured": make_report(),
    "unmeasured": make_unmeasured(),
    "slower": make_slower(),
    "random": make_report(model=make_model(random_weights=True)),
    "select": make_report(accuracy=make_accuracy(CLASSES, evaluated_on="select")),
    "bare": make_unmeasured(
        accuracy=make_no_accuracy(),
        layers=[],
        recovery=None,
        warnings=[],
        steps=[],
        versions={},
        task=make_task(skipped=[]),
    ),
}
each_report = pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS.keys())


@each_report
def test_the_page_is_balanced_and_needs_nothing_from_outside(report: Report) -> None:
    text = render_html(report)
    page = Page(text)
    assert page.open == []
    assert not re.search(r"https?://|@import|<script|javascript:|\son\w+=", text)
    assert not page.all("link")
    assert not page.all("img")
    for _, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "data", "action"):
            assert (attributes.get(name) or "#").startswith("#")
        assert "url(" not in (attributes.get("style") or "") or "url(#" in (attributes.get("style") or "")


@each_report
def test_ids_are_unique(report: Report) -> None:
    ids = [attributes["id"] for _, attributes in Page(render_html(report)).tags if "id" in attributes]
    assert len(ids) == len(set(ids))


@each_report
def test_the_page_is_a_pure_function_of_the_report(report: Report) -> None:
    again = Report.model_validate_json(report.model_dump_json())
    assert render_html(report) == render_html(again)


@each_report
def test_every_section_begins_with_its_meaning(report: Report) -> None:
    text = render_html(report)
    assert len(re.findall(r"<h2>[^<]+</h2>\s*<p class=\"meaning\">[^<]+\.</p>", text)) == text.count("<h2>")


def test_the_verdict_comes_first() -> None:
    text = render_html(make_report())
    body = text[text.index("<body>") :]
    places = [body.index(part) for part in ("<h1", 'id="warnings"', 'class="card', 'id="accuracy"')]
    assert places == sorted(places)


def test_pictures_are_there_and_labelled() -> None:
    page = Page(render_html(make_report()))
    pictures = page.all("svg")
    assert len(pictures) == 5
    assert all(picture["role"] == "img" and picture["aria-label"] for picture in pictures)
    assert page.drawn > 50


def test_unmeasured_draws_no_latency() -> None:
    page = Page(render_html(make_unmeasured()))
    assert len(page.all("svg")) == 4
    assert "none is guessed" in page.text
    assert "copy runs/orin to the Orin and run `taco bench runs/orin` there" in page.text


def test_all_figures_are_on_the_page() -> None:
    report = make_report()
    page = Page(render_html(report)).text
    assert report.latency_ms is not None
    assert report.accuracy.dense is not None
    expected = [
        *(
            wording.bare_milliseconds(value)
            for value in (report.latency_ms.dense.p99, report.latency_ms.compressed.min)
        ),
        *(wording.amount(value) for value in (3_383_000, 1_913_000, 385_000_000, 7_670_000)),
        *(wording.proportion(recall) for recall in report.accuracy.dense.per_class.values()),
        *(wording.factor(ratio) for ratio in report.speedup_rounds or []),
        *(layer.unit for layer in report.layers),
        "2.1e-05",
        "317 of 320",
        "300",
        "0.0005",
        "90.8",
        "5 min 00 s",
        "CPUExecutionProvider",
        "1.30.0",
        "trap-lab-3",
        "powersave",
        "9f" * 32,
        "Apache-2.0",
        "imagenet-rows (class map)",
        "taco-export 'my photos/' --target host-cpu",
        "trap/IMG_0042.jpg: truncated file",
    ]
    missing = [text for text in expected if re.sub(r"\s+", " ", text) not in page]
    assert missing == []


def test_random_weights_are_red_from_top_to_table() -> None:
    text = render_html(REPORTS["random"])
    body = text[text.index("<body>") :]
    assert body.index('class="banner"') < body.index("<main>")
    assert "RANDOM WEIGHTS: every accuracy on this page is meaningless" in body
    assert 'class="numeric bad"' in body
    assert 'class="banner"' not in render_html(make_report())


def test_select_is_noted_beside_every_accuracy() -> None:
    text = render_html(REPORTS["select"])
    # verdict, two cards, table, picture, class table, light table, sure answers and their table, recovery;
    # mistakes: two notes, picture, two tables; curve and calibration error; heads
    assert text.count("also guided choices: likely too good") == 18


def test_hostile_names_stay_text() -> None:
    hostile = "<script>alert(1)</script>\"'&"
    report = make_report(
        accuracy=make_accuracy([hostile, "</svg><img src=x onerror=alert(1)>"]),
        task=make_task(name=hostile, classes=[hostile, "b"], skipped=[f"{hostile}.jpg: bad"]),
        command=["taco-export", hostile],
        warnings=[hostile],
        measured_on={hostile: hostile},
        versions={hostile: hostile},
        next_step=hostile,
    )
    page = Page(render_html(report))
    assert page.open == []
    assert not page.all("script")
    assert not page.all("img")
    assert page.text.count("<script>alert(1)</script>") >= 8


def test_many_classes_are_folded_and_the_rest_is_said() -> None:
    names = [f"species {number:03}" for number in range(120)]
    page = Page(render_html(make_report(accuracy=make_accuracy(names, each=6))))
    assert "Only the worst 20 of 120 classes are drawn" in page.text
    assert "Table of all 120 classes" in page.text
    assert "species 119" in page.text
    assert "Few: fewer than 30 pictures of a class are too few to tell" in page.text


def test_details_hold_skipped_pictures_and_units() -> None:
    page = Page(render_html(make_report(layers=make_layers(60))))
    assert len(page.all("details")) == 4
    assert "1 picture could not be used" in page.text
    assert "60. blocks.14.3.conv_pw" in page.text


def test_parity_failure_is_said() -> None:
    parity = make_report().parity
    report = make_report(parity=parity.model_copy(update={"max_abs": 1.0}))
    assert "FAILED: the exported file differs by more than rounding." in Page(render_html(report)).text
    assert "Passed: same answers" in Page(render_html(make_report())).text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"counted": 0, "argmax_agreement": 0.0}, "no picture had a clear answer"),
        ({"argmax_agreement": 99.0}, "some answers differ"),
    ],
)
def test_parity_doubts_are_said(changes: dict[str, float], words: str) -> None:
    report = make_report(parity=make_report().parity.model_copy(update=changes))
    assert words in Page(render_html(report)).text


def test_masked_zeros_are_not_called_smaller() -> None:
    size = make_report().size
    masked = size.compressed.model_copy(update={"nonzero": size.compressed.params // 2})
    report = make_report(size=size.model_copy(update={"compressed": masked}))
    assert "masked, not smaller" in Page(render_html(report)).text
    assert "masked" not in Page(render_html(make_report())).text


def test_the_style_serves_dark_screens_telephones_and_print() -> None:
    style = files("taco.report").joinpath("page.css").read_text(encoding="utf-8")
    for rule in ("prefers-color-scheme: dark", "@media print", "overflow-x: auto", "system-ui"):
        assert rule in style
    svg = render_html(make_report())
    defined = set(re.findall(r"(--[\w-]+):", style))
    assert set(re.findall(r"var\((--[\w-]+)", svg)) <= defined
