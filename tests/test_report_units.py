"""The page about devices in the field: who is slow, who is gone, what heat and a day's work cost."""

from __future__ import annotations

from typing import Any

import pytest
from make_report import make_field, make_latency, make_minutes, make_report, make_unit, make_units
from pydantic import ValidationError

from taco.metrics.energy import Duty
from taco.report.build import build_page
from taco.report.html import render_html
from taco.report.markdown import render_markdown
from taco.report.page import Note, Picture, Section, Table, Tone
from taco.report.units import day_sentence, outcome, spread_sentence
from taco.report.units_schema import UnitRun
from taco.report.verdict import actions
from taco.summaries.unit_summary import with_duty, with_slow


def section(anchor: str, **changes: Any) -> Section:
    found = [part for part in build_page(make_field(**changes)).sections if part.anchor == anchor]
    assert len(found) == 1
    return found[0]


def notes(part: Section) -> str:
    text = "\n".join(block.text for block in part.blocks if isinstance(block, Note))
    return text.replace("\N{NO-BREAK SPACE}", " ")


def test_the_slow_one_and_the_lost_one_are_named_first_and_in_the_verdict() -> None:
    told = spread_sentence(make_units())
    for said in ("2 devices", "1.58x apart", "pi@trap2 is SLOW: 1.58x the time", "pi@trap4 could not be measured"):
        assert said in told, said
    assert any("pi@trap2 is SLOW" in note.text and note.tone is Tone.WARN for note in actions(make_field()))
    text = notes(section("units"))
    assert "Why pi@trap2 may be slow: governor before powersave (the other: ondemand)" in text
    assert "no route to host" in text
    assert "pi@trap3 is EMULATED" in text
    assert "1.00x on pi@trap1, 1.58x on pi@trap2" in text


def test_devices_alike_are_no_warning() -> None:
    units = make_units(units=[make_unit("ssh://a", 3.1, 1), make_unit("ssh://b", 3.2, 2)], duty=None)
    assert "within what devices of one kind differ by" in spread_sentence(units)
    part = section("units", units=units)
    assert isinstance(part.blocks[0], Note)
    assert part.blocks[0].tone is Tone.GOOD
    assert not any("devices" in note.text for note in actions(make_field(units=units)))


def test_devices_far_apart_without_a_proof_are_not_called_alike() -> None:
    units = make_units(units=[make_unit("ssh://a", 3.0, 1), make_unit("ssh://b", 4.2, 2)], duty=None)
    told = "1.40x apart, more than the 1.10x that devices of one kind may differ by, but too unsteady to tell"
    assert told in spread_sentence(units)
    part = section("units", units=units)
    assert isinstance(part.blocks[0], Note)
    assert part.blocks[0].tone is Tone.WARN
    assert any(told in note.text and note.tone is Tone.WARN for note in actions(make_field(units=units)))


def test_heat_power_and_a_day_are_told_with_their_assumptions() -> None:
    text = notes(section("units"))
    assert "3.10 ms for a picture in the first minute and 3.84 ms in minute 30 (1.24x), at up to 80" in text
    assert "Read at the rails of the Pi's power chip" in text
    day = section("day")
    assert "2\N{NARROW NO-BREAK SPACE}000 pictures a day need about 69.60 Wh" in notes(day)
    assert "100 Wh of battery last about 1.4 days" in notes(day)
    for page in (render_html(make_field()), render_markdown(make_field())):
        assert "the battery gives all of its 100 Wh" in page


def test_unknown_power_is_said_and_never_filled_in() -> None:
    silent = [make_unit("ssh://a", 3.1, 1, sustained=make_minutes(2, power_w=None, joules=None), rest_w=None)]
    units = with_duty(make_units(units=silent, duty=None), Duty(2000, battery_wh=100))
    assert units.duty is None
    assert "does not tell its power at work or between pictures" in (units.no_duty or "")
    assert "Energy of one picture on a: unknown" in notes(section("units", units=units))
    assert "Unknown: " in notes(section("day", units=units))
    metered = with_duty(units, Duty(2000, battery_wh=100, rest_w=2.0, active_w=7.0))
    assert metered.duty is not None
    assert metered.duty.wh_per_day == pytest.approx(48 + 2000 * metered.duty.picture_ms / 1000 * 5 / 3600)
    assert "last about" in day_sentence(metered.duty)


def test_a_days_energy_comes_from_the_readings_of_the_minutes() -> None:
    units = with_duty(make_units(duty=None), Duty(1000))
    assert units.duty is not None
    assert (units.duty.address, units.duty.active_w, units.duty.rest_w) == ("ssh://pi@trap1", pytest.approx(7.1), 2.9)
    assert units.duty.picture_ms == pytest.approx(1.65 * 3.1)
    nobody = make_units(units=[UnitRun(address="ssh://a", problem="gone")], duty=None)
    assert with_duty(nobody, Duty(1)).no_duty == "no device was timed"


def test_the_slow_one_differs_in_what_the_others_have_not() -> None:
    usual = {"governor before": "performance"}
    units = [make_unit(f"ssh://{name}", 3, 1, measured_on=usual) for name in "ab"]
    units.append(make_unit("ssh://c", 5, 2, measured_on={"governor before": "powersave"}))
    marked = with_slow(units, {"ssh://c": 1.7})
    assert [unit.slow for unit in marked] == [None, None, 1.7]
    assert marked[2].differs == ["governor before powersave (others: performance)"]


def test_wrong_answers_of_one_device_are_a_failure() -> None:
    unit = make_unit("ssh://a", 3.1, 1)
    assert unit.answers is not None
    wrong = unit.model_copy(update={"answers": unit.answers.model_copy(update={"passed": False})})
    part = section("units", units=make_units(units=[wrong], duty=None))
    assert any(isinstance(b, Note) and b.tone is Tone.BAD and "do not use it" in b.text for b in part.blocks)


def test_an_emulated_unit_with_times_cannot_be_reported() -> None:
    with pytest.raises(ValidationError, match="emulated"):
        UnitRun(address="ssh://a", emulated="qemu", models={"compressed": make_latency(1.0, 1)})


def test_one_line_a_device() -> None:
    first, slow, emulated, lost = map(outcome, make_units().units)
    assert "pi@trap1 (Raspberry Pi 5 Model B Rev 1.0): 3.10" in first
    assert "239 of 240" in slow
    assert "no time was taken (emulated: qemu)" in emulated
    assert lost.startswith("pi@trap4: NOT MEASURED: ")


def test_pictures_and_tables_are_there_for_every_device() -> None:
    part = section("units")
    assert sum(isinstance(block, Picture) for block in part.blocks) == 2
    table = next(block for block in part.blocks if isinstance(block, Table))
    assert [row[0] for row in table.rows] == ["pi@trap1 (decides)", "pi@trap2", "pi@trap3", "pi@trap4"]
    assert [row[1] for row in table.rows][2:] == ["emulated", "not measured"]


def test_no_devices_no_section() -> None:
    assert {part.anchor for part in build_page(make_report()).sections}.isdisjoint({"units", "day"})
