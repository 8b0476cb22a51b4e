"""Fronts without a run: who beats whom, what is recommended, what the page says, what may be picked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from make_front import POINTS, make_front, make_point
from pydantic import ValidationError
from test_report_figures import texts
from tiny_run import options

from taco.errors import InputError
from taco.front.dominance import Mark, beating, dominated_by, exceeds, recommend
from taco.front.drawing import MARKS, front_picture, too_low
from taco.front.page import front_page, read_front, write_front
from taco.front.picking import export_options, picked
from taco.front.schema import Front, Recommendation
from taco.report.html import page_html

marks = st.lists(
    st.builds(
        Mark,
        st.uuids().map(str),
        st.sampled_from(["ours", "uniform", "runtime-int8", "dense"]),
        st.integers(1, 9).map(float),
        st.integers(0, 9).map(float),
        st.integers(-2, 5).map(float),
    ),
    max_size=12,
)


@given(marks)
def test_the_front_is_what_nothing_beats_and_everything_else_is_beaten_by_it(found: list[Mark]) -> None:
    front = [m for m in found if dominated_by(m, found) is None]
    assert front or not found
    for mark in found:
        if mark not in front:
            best = next(m for m in found if m.name == dominated_by(mark, found))
            assert dominated_by(best, found) is None, "the most accurate that beats it is beaten by none"
            assert best.ms <= mark.ms
            assert best.percent >= mark.percent


@given(marks, st.integers(-1, 4).map(float))
def test_the_recommended_is_the_fastest_that_may_be_taken(found: list[Mark], limit: float) -> None:
    taken = recommend(found, limit)
    pickable = [m for m in found if m.kind != "runtime-int8"]
    if not pickable:
        assert taken is None
        return
    assert taken is not None
    mark = next(m for m in found if m.name == taken[0])
    within = [m for m in pickable if m.lost <= limit]
    if within:
        assert mark.lost <= limit
        assert mark.ms == min(m.ms for m in within)
    else:
        assert "no model loses at most" in taken[1]
        assert mark.lost == min(m.lost for m in pickable)


def test_others_that_none_of_ours_matches_are_named() -> None:
    ours = [Mark("a", "ours", 2.0, 90.0, 0.0), Mark("b", "ours", 4.0, 95.0, 0.0)]
    others = [
        Mark("slower and worse", "uniform", 3.0, 89.0, 0.0),
        Mark("equal", "macs", 4.0, 95.0, 0.0),
        Mark("faster", "beside", 1.9, 80.0, 0.0),
        Mark("better", "runtime-int8", 5.0, 95.1, 0.0),
        Mark("dense", "dense", 6.0, 99.0, 0.0),
    ]
    assert [m.name for m in beating([*ours, *others])] == ["faster", "better"]


def test_every_kind_has_a_shape_of_its_own_for_those_who_see_no_colour() -> None:
    looks = {(mark.shape, mark.filled) for mark in MARKS.values()}
    assert len(looks) == len(MARKS)
    assert set(MARKS) == {kind for _, kind, _, _ in POINTS}


def test_the_picture_names_axes_kinds_and_the_front() -> None:
    front = make_front()
    drawn = texts(front_picture(front))
    assert "milliseconds for one picture, measured" in drawn
    assert "pictures named right, %" in drawn
    assert {mark.label for mark in MARKS.values()} <= set(drawn)
    numbered = [n for n, p in enumerate(front.points, start=1) if p.dominated_by is None]
    assert {str(n) for n in numbered} <= set(drawn)
    assert front_picture(front) == front_picture(front)


def test_the_page_tells_the_choice_its_reason_and_every_point(tmp_path: Path) -> None:
    front = make_front()
    html = write_front(front, tmp_path)
    assert read_front(tmp_path) == front
    text, page = (tmp_path / "front.md").read_text(), html.read_text()
    for said in (
        "Take number 5 (ours-2x)",
        "at most 1 point",
        "--pick 5",
        "uniform-4x",
        "beaten by number 1",
        "25 rounds",
    ):
        assert said in text, said
    assert "trap &lt;1&gt;" in page
    assert "<script" not in page
    assert "no model of ours is both as fast and as right as" in page
    assert "had no say" in text
    assert "worth taking" not in text
    assert "As measured, number" not in text


def test_models_lie_by_their_ratios_of_rounds_and_older_fronts_by_their_medians(tmp_path: Path) -> None:
    """A median of all times may be of moments in which the machine was faster than for the other models."""
    front = make_front()
    moved = front.points[0].model_copy(update={"p50_ms": 0.123})
    new = front.model_copy(update={"points": [moved, *front.points[1:]]})
    old = new.model_copy(update={"points": [p.model_copy(update={"ms": None}) for p in new.points]})
    said = "ms: the dense model's median over that speed-up"
    for drawn, steady in ((new, True), (old, False)):
        write_front(drawn, tmp_path)
        text = (tmp_path / "front.md").read_text()
        assert ("| 0.123 |" in text, said in text) == (not steady, steady)
    assert front_picture(new) == front_picture(front) != front_picture(old)


def test_what_nobody_takes_is_in_the_list_and_does_not_press_the_picture_together() -> None:
    front = make_front((*POINTS, ("ours-9x", "ours", 0.4, 120)))
    assert [point.name for point in too_low(front)] == ["ours-9x"]
    assert "of 10 models" in front_picture(front)
    (section,) = (s for s in front_page(front).sections if s.anchor == "front")
    assert "Not drawn: 1 model that is much less often right" in str(section)
    assert "ours-9x" in str(section)
    assert "Not drawn" not in str(front_page(make_front()).sections)


def test_a_recommended_model_that_is_beaten_is_said_to_be() -> None:
    taken = Recommendation(name="uniform-4x", reason="the fastest that loses at most 1 point")
    notes = front_page(make_front(recommended=taken)).actions
    assert any("As measured, number 1 (ours-4x) is no slower and no less often right" in note.text for note in notes)


def test_a_recommended_model_that_loses_more_on_unseen_pictures_is_warned_of() -> None:
    def told(points: float, low: float, on_select: float) -> str:
        select = {"points": on_select, "low": -4.0, "high": 6.0}
        lost = {"drop_points": points, "drop_ci95": (low, points + 2), "select": select}
        return exceeds(make_point("ours-4x", "ours", 1.12, 297, **lost), 1.0)

    assert "ours-4x, which is recommended, loses 4.0 points, surely more than the 1 that" in told(4.0, 1.2, 0.5)
    assert "more, though within what chance may do, than the 1 that may be lost: the select" in told(1.9, -0.8, 0.5)
    assert "could not tell" not in told(4.0, 1.2, 3.0), "the select pictures had told"
    assert told(1.0, -0.8, 0.5) == ""


def test_what_makes_accuracies_worthless_is_said_beside_them() -> None:
    page = front_page(make_front(random_weights=True, evaluated_on="select", recommended=None))
    assert "RANDOM WEIGHTS" in page.banner
    assert any("guided choices" in note.text for note in page.actions)
    assert page_html(page).count("meaningless") >= 2


def test_pictures_that_also_judge_are_not_said_to_have_had_no_say() -> None:
    text = page_html(front_page(make_front(evaluated_on="select")))
    assert "guided choices" in text
    assert "had no say" not in text
    assert "which are others" not in text


def test_a_front_that_contradicts_itself_or_is_damaged_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="is no point"):
        make_front(recommended={"name": "nobody", "reason": "x"})
    with pytest.raises(ValidationError, match="two points"):
        make_front(points=(POINTS[0], POINTS[0]))
    with pytest.raises(InputError, match=r"holds no front\.json"):
        read_front(tmp_path)
    (tmp_path / "front.json").write_text(json.dumps({"schema_version": 9}))
    with pytest.raises(InputError, match="damaged or from another version"):
        read_front(tmp_path)


@pytest.mark.parametrize(("asked", "name"), [("5", "ours-2x"), ("ours-2x", "ours-2x"), ("dense", "dense")])
def test_a_point_is_picked_by_number_or_name(asked: str, name: str) -> None:
    assert picked(make_front(), asked).name == name


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("99", "no such point"),
        ("0", "no such point"),
        ("ours-2", "Did you mean 'ours-2x'"),
        ("ort-int8", "no model of ours"),
    ],
)
def test_what_cannot_be_picked_is_told(asked: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        picked(make_front(), asked)


def test_a_point_becomes_the_options_of_an_export(tmp_path: Path) -> None:
    front, asked = make_front(), options(tmp_path, tmp_path / "front", max_drop=1.0)
    cut = export_options(asked, picked(front, "ours-2x"), tmp_path)
    assert (cut.out, cut.from_run, cut.max_drop, cut.macs) == (tmp_path / "ours-2x", tmp_path, None, None)
    assert cut.widths is not None
    assert json.loads(cut.widths.read_text()) == {"blocks.1.0.conv_pwl": 64}
    beside = export_options(asked, picked(front, "tf_efficientnet_lite2-dense"), tmp_path)
    assert (beside.model, beside.macs, beside.widths) == ("tf_efficientnet_lite2", 1.0, None)


def test_the_published_schema_has_every_field_of_a_front() -> None:
    assert set(json.loads(make_front().model_dump_json())) == set(Front.model_json_schema()["properties"])
