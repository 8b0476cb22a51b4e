"""The pictures: present, in the page's colours, escaped, unique ids, the same bytes each time."""

from __future__ import annotations

import re
from collections.abc import Callable
from xml.etree import ElementTree

import matplotlib as mpl
import pytest
from make_report import make_accuracy, make_latency, make_layers, make_report

from taco.report import figures
from taco.report.schema import LatencySection, Report
from taco.report.svg import Margins, canvas, render

DRAWINGS = [figures.recall_dots, figures.latency_curves, figures.width_bars]


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)  # noqa: S314 - our own output


def texts(svg: str) -> list[str]:
    return ["".join(text.itertext()).strip() for text in parsed(svg).iter("text")]


def paths(svg: str, variable: str) -> int:
    return len(re.findall(rf"(?:stroke|fill): var\(--{variable},", svg))


@pytest.mark.parametrize("draw", DRAWINGS, ids=lambda draw: draw.__name__)
def test_a_picture_is_xml_with_a_role_and_a_label(draw: Callable[[Report], str]) -> None:
    root = parsed(draw(make_report()))
    assert root.tag == "svg"
    assert root.get("role") == "img"
    assert root.get("aria-label")
    assert root.get("viewBox")
    assert root.get("width") is None  # the page scales it
    assert list(root.iter("path"))


@pytest.mark.parametrize("draw", DRAWINGS, ids=lambda draw: draw.__name__)
def test_every_colour_belongs_to_the_page(draw: Callable[[Report], str]) -> None:
    svg = re.sub(r"var\(--\w+, #\w+\)", "", draw(make_report()))
    assert not re.findall(r"#[0-9a-f]{6}", svg)


@pytest.mark.parametrize("draw", DRAWINGS, ids=lambda draw: draw.__name__)
def test_equal_reports_give_equal_bytes(draw: Callable[[Report], str]) -> None:
    assert draw(make_report()) == draw(make_report())


def test_drawing_leaves_matplotlib_as_it_was() -> None:
    before = dict(mpl.rcParams)
    figures.width_bars(make_report())
    assert dict(mpl.rcParams) == before


def test_references_point_to_ids_of_the_same_picture() -> None:
    svg = figures.recall_dots(make_report())
    ids = re.findall(r'\sid="([^"]+)"', svg)
    assert len(ids) == len(set(ids))
    assert all(name.startswith("recall-") for name in ids)
    references = re.findall(r'(?:href="#|url\(#)([^")]+)', svg)
    assert references
    assert set(references) <= set(ids)


def test_only_tags_are_rewritten() -> None:
    figure, axes = canvas(100, Margins(20))
    axes.text(0, 0, 'id="x" url(#y) #010203 <b>&', parse_math=False)
    assert 'id="x" url(#y) #010203 <b>&' in texts(render(figure, "k", "l"))


def test_label_is_escaped() -> None:
    figure, _ = canvas(100, Margins(20))
    root = parsed(render(figure, "k", 'a "<b>" & c'))
    assert root.get("aria-label") == 'a "<b>" & c'


def test_odd_class_names_are_drawn_as_they_are() -> None:
    names = ["<b>$x_1$</b>", "$\\frac", "キツネ", "a\nb"]
    drawn = texts(figures.recall_dots(make_report(accuracy=make_accuracy(names))))
    assert {"<b>$x_1$</b>", "$\\frac", "キツネ", "a b"} <= set(drawn)


def test_long_names_keep_both_ends() -> None:
    drawn = texts(figures.recall_dots(make_report(accuracy=make_accuracy(["a" * 30 + "-east", "fox"]))))
    assert "aaaaaaaaaaaa\N{HORIZONTAL ELLIPSIS}aaaaaa-east" in drawn


@pytest.mark.parametrize(("classes", "shown"), [(2, 2), (20, 20), (500, 20)])
def test_recalls_of_2_to_500_classes(classes: int, shown: int) -> None:
    names = [f"class {number:03}" for number in range(classes)]
    report = make_report(accuracy=make_accuracy(names, each=6))
    assert figures.shown_classes(report) == names[:shown]  # the factory makes the first ones the worst
    assert sum(text.startswith("class ") for text in texts(figures.recall_dots(report))) == shown


def test_a_class_without_a_picture_is_not_drawn() -> None:
    accuracy = make_accuracy(["a", "b", "c"])
    assert accuracy.exported is not None
    recalls = {**accuracy.exported.per_class, "b": None}
    exported = accuracy.exported.model_copy(update={"per_class": recalls})
    report = make_report(accuracy=accuracy.model_copy(update={"exported": exported}))
    assert set(figures.shown_classes(report)) == {"a", "c"}
    assert "b" not in texts(figures.recall_dots(report))


def test_dense_and_exported_are_told_apart_without_colour() -> None:
    svg = figures.recall_dots(make_report())
    assert {"dense", "exported"} <= set(texts(svg))
    assert paths(svg, "dense") >= 12
    assert paths(svg, "small") >= 12


def test_curves_have_units_and_a_legend() -> None:
    drawn = texts(figures.latency_curves(make_report()))
    assert {"milliseconds for one picture", "pictures done, %", "dense", "compressed", "dense, fp32"} <= set(drawn)


def test_curves_without_a_baseline() -> None:
    svg = figures.latency_curves(make_report(baseline_fp32_ms=None))
    assert "dense, fp32" not in texts(svg)
    assert paths(svg, "baseline") == 0


def test_equal_times_still_have_an_axis() -> None:
    flat = make_latency(5.0, seed=1).model_copy(update={"samples": [5.0] * 10})
    report = make_report(latency_ms=LatencySection(dense=flat, compressed=flat), baseline_fp32_ms=None)
    assert "5.0" in texts(figures.latency_curves(report))


def test_one_sample_is_a_step() -> None:
    one = make_latency(5.0, seed=1).model_copy(update={"samples": [5.0], "n": 1})
    report = make_report(latency_ms=LatencySection(dense=one, compressed=one), baseline_fp32_ms=None)
    assert paths(figures.latency_curves(report), "small") >= 2


def test_curves_do_not_grow_with_the_samples() -> None:
    few, many = (
        figures.latency_curves(make_report(baseline_fp32_ms=make_latency(5.0, seed=1, n=n))) for n in (200, 5000)
    )
    assert len(many) < 1.2 * len(few)


def test_few_units_are_named_with_their_widths() -> None:
    drawn = texts(figures.width_bars(make_report(layers=make_layers(5))))
    assert "1. blocks.0.0.conv_pw" in drawn
    assert "48 / 96" in drawn
    assert {"kept", "taken away", "channels"} <= set(drawn)


def test_many_units_are_numbered() -> None:
    drawn = texts(figures.width_bars(make_report(layers=make_layers(100))))
    assert "unit, numbered as in the table" in drawn
    assert not any(text.endswith("conv_pw") for text in drawn)


def test_nothing_timed_gives_no_models() -> None:
    assert figures.timed_models(make_report(latency_ms=None)) == []


def test_no_accuracy_shows_no_class() -> None:
    assert figures.shown_classes(make_report(accuracy=make_accuracy(["a"], exported=None))) == []
