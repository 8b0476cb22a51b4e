"""The page in a real browser: fits a telephone, readable in light, dark and grey, pictures drawn, silent console."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from browser import look
from make_front import make_front
from make_report import (
    CLASSES,
    LEAK,
    make_accuracy,
    make_answers,
    make_field,
    make_layers,
    make_loop,
    make_max_drop,
    make_model,
    make_no_accuracy,
    make_report,
    make_slower,
    make_sparse,
    make_sparsity,
    make_task,
    make_trap,
    make_unmeasured,
)
from PIL import Image, ImageColor

from taco.front.page import front_page
from taco.report.diff import compare
from taco.report.diff_page import diff_page
from taco.report.html import page_html, render_html

PHONE, DESK = 390, 1280
LEAST_CONTRAST = 4.5
"""WCAG 2, level AA."""
LEAST_LETTERS = 10.0
"""CSS pixels on the screen, within pictures too."""
LEAST_GREY_STEP = 40
COMPARISON = "comparison"
HOSTILE = [
    *(f"{'Panthera-pardus-orientalis-of-the-far-east-' * 2}{number}" for number in range(13)),
    *(f'<b>class</b> & "{number}" | キツネ' for number in range(13)),
    *(f"$x_{number}$ `a`_{'underscored_' * 6}" for number in range(13)),
    "blank",
]
REPORTS = {
    "measured": make_report(),
    "unmeasured": make_unmeasured(),
    "no accuracy": make_report(accuracy=make_no_accuracy()),
    "40 hostile classes": make_report(
        task=make_task(classes=HOSTILE, split_by="image"),
        accuracy=make_accuracy(HOSTILE, each=24, blank_class="blank"),
        warnings=[LEAK, "x" * 200],
        layers=make_layers(60),
    ),
    "one layer": make_report(layers=make_layers(1)),
    "random weights": make_trap(model=make_model(random_weights=True)),
    "camera trap": make_trap(warnings=[LEAK]),
    "weights to zero": make_sparse(),
    "latency loop": make_loop(),
    "max drop": make_max_drop(),
    "few layers to zero": make_sparse(sparsity=make_sparsity(3)),
    "a fleet in the field": make_field(),
}
#: In the reports; the comparison of two runs has one, and so has a front.
FRONT = "front"
PAGES = [*REPORTS, FRONT, COMPARISON]
PICTURES = {
    "unmeasured": 4,
    "no accuracy": 2,
    "latency loop": 7,
    "a fleet in the field": 9,
    "max drop": 6,
    FRONT: 1,
    COMPARISON: 1,
}
schemes = pytest.mark.parametrize("dark", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["light", "dark"])


@cache
def page_of(name: str) -> str:
    if name == FRONT:
        return page_html(front_page(make_front()))
    if name == COMPARISON:
        one, other = make_report(), make_slower(accuracy=make_accuracy(CLASSES, answers=make_answers(wrong=9)), seed=1)
        return page_html(diff_page(compare(one, other, ("runs/trap1", "runs/a-longer-name")), one, other))
    return render_html(REPORTS[name])


def faults(frame: dict[str, Any]) -> list[str]:
    """What a person would stumble over in one frame."""
    found = [f"sideways scrolling: {frame['scrollWidth']}"] if frame["scrollWidth"] > frame["width"] else []
    found += [f"beyond the edge: {element[:80]}" for element in frame["outside"]]
    found += [f"{frame['scrolling']} tables or codes scroll sideways"] if frame["scrolling"] else []
    found += ["empty image" for width in frame["images"] if not width]
    for text in frame["texts"]:
        found += [f"pale: {text}"] if text["contrast"] < LEAST_CONTRAST else []
        found += [f"tiny: {text}"] if text["size"] < LEAST_LETTERS else []
    for picture in frame["pictures"]:
        found += picture_faults(picture)
    return found


def picture_faults(picture: dict[str, Any]) -> list[str]:
    """Cut or overlapping letters, or no size."""
    label, edge, texts = picture["label"], picture["box"], picture["texts"]
    found = [f"small: {label}"] if min(edge["right"] - edge["left"], edge["bottom"] - edge["top"]) < 60 else []
    found += [
        f"cut: {text['text']!r} in {label}"
        for text in texts
        if min(text["box"]["left"] - edge["left"], edge["right"] - text["box"]["right"]) < -1
        or min(text["box"]["top"] - edge["top"], edge["bottom"] - text["box"]["bottom"]) < -1
    ]
    pairs = ((one, other) for index, one in enumerate(texts) for other in texts[:index])
    return found + [f"{one['text']!r} over {other['text']!r} in {label}" for one, other in pairs if overlap(one, other)]


def overlap(one: dict[str, Any], other: dict[str, Any]) -> bool:
    a, b = one["box"], other["box"]
    across = min(a["right"], b["right"]) - max(a["left"], b["left"])
    down = min(a["bottom"], b["bottom"]) - max(a["top"], b["top"])
    return min(across, down) > 1


@schemes
def test_every_report_fits_a_telephone_and_a_desk_and_can_be_read(dark: bool, tmp_path: Path) -> None:
    shown = [(name, width) for name in PAGES for width in (PHONE, DESK)]
    seen = look([(page_of(name), width) for name, width in shown], tmp_path, dark=dark)
    assert seen.console == []
    found = []
    for (name, width), frame in zip(shown, seen.frames, strict=True):
        assert (frame["width"], frame["dark"]) == (width, dark)
        assert len(frame["texts"]) > 100
        assert len(frame["pictures"]) == PICTURES.get(name, 5)
        found += [f"{name}, {width} px: {fault}" for fault in faults(frame)]
    assert found == []


def test_the_checks_find_what_a_person_would_stumble_over(tmp_path: Path) -> None:
    page = """<!DOCTYPE html><body style="margin:0"><div style="width:500px">wide</div>
        <p style="color:#999;background:#fff">pale</p><p style="font-size:6px">tiny</p><img src="data:,">
        <div style="overflow-x:auto"><div style="width:900px">boxed</div></div>
        <svg aria-label="s" viewBox="0 0 100 100" width="100" height="100" style="color:black"><text x="80" y="50"
        >cut text</text><text x="5" y="90">one</text><text x="8" y="92">two</text></svg>
        <script>console.warn("heard")</script>"""
    seen = look([(page, PHONE)], tmp_path)
    assert seen.console == ["heard"]
    found = "\n".join(faults(seen.frames[0]))
    words = ["sideways scrolling: 500", "beyond the edge: DIV", "1 tables or codes", "empty image", "pale: ", "tiny: "]
    for word in [*words, "cut: 'cut text'", "'two' over 'one'"]:
        assert word in found
    assert "boxed" not in found


@pytest.mark.slow
@schemes
@pytest.mark.parametrize(
    ("name", "height"),
    [("camera trap", 12_000), ("40 hostile classes", 37_000), ("one layer", 11_000), ("a fleet in the field", 19_000)],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_pictures_are_drawn_and_told_apart_in_grey(name: str, height: int, dark: bool, tmp_path: Path) -> None:
    page = page_of(name)
    seen = look([(page, PHONE), (page, DESK)], tmp_path, dark=dark, shot=height)
    assert seen.shot is not None
    for frame, left in zip(seen.frames, seen.lefts, strict=True):
        assert frame["bodyHeight"] <= height, "the screenshot ends before the page does"
        whole = seen.shot.crop((left, 0, left + frame["width"], int(frame["bodyHeight"])))
        middle = float(np.asarray(whole.convert("L")).mean())
        assert middle < 60 if dark else middle > 195
        for picture in frame["pictures"]:
            box = picture["box"]
            shot = whole.crop((box["left"], box["top"], box["right"], box["bottom"]))
            if picture["label"].startswith("Confusion"):
                assert fields_stand_out(shot), picture["label"]
                continue
            greys = series_greys(shot, frame, picture)
            steps = np.diff(sorted(greys))
            assert steps.min() >= LEAST_GREY_STEP, f"{picture['label']}: {greys}"


def series_greys(shot: Image.Image, frame: dict[str, Any], picture: dict[str, Any]) -> list[float]:
    """Grey values of the paper, the dense and the small model as they were really drawn."""
    colours = {name: np.array(ImageColor.getrgb(text), float) for name, text in frame["colours"].items()}
    dense = colours["dense"]
    if picture["label"].startswith("Channels"):
        dense = 0.45 * dense + 0.55 * colours["paper"]  # what was taken away is drawn pale
    grey = np.asarray(shot.convert("L"), float)
    greys = []
    # rows of times hold no dense model; the slow device is told by its square
    alone = picture["label"].startswith(("Time of one picture on", "Time of one picture,"))
    for colour in (colours["paper"], *([] if alone else [dense]), colours["small"]):
        drawn = near(shot, colour)
        assert drawn.sum() >= 40, f"{picture['label']}: hardly a pixel of {colour}"
        greys.append(float(grey[drawn].mean()))
    return greys


def fields_stand_out(shot: Image.Image) -> bool:
    """Whether a confusion matrix has fields, whose colour is a blend, that are told from the paper in grey."""
    grey = np.asarray(shot.convert("L"), float)
    paper = float(np.median(grey[:8]))
    return bool((np.abs(grey - paper) >= LEAST_GREY_STEP).sum() >= 1000)


def near(shot: Image.Image, colour: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Which pixels have this colour but for the smoothing of edges."""
    close: npt.NDArray[np.bool_] = np.abs(np.asarray(shot, float) - colour).max(axis=2) <= 8
    return close
