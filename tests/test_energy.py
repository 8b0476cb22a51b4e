"""Energy of a picture and days on a battery, against figures worked out by hand."""

from __future__ import annotations

import pytest

from taco.errors import InputError
from taco.metrics.energy import Duty, Power, check_duty, estimate, joules_per_picture, whole_power

REST, ACTIVE = Power(2.0, "rest"), Power(7.0, "work")


def test_a_day_is_rest_and_the_extra_of_the_pictures() -> None:
    found = estimate(Duty(7200, battery_wh=100), 500.0, REST, ACTIVE)  # an hour of work, 5 W above rest
    assert found.wh_per_day == pytest.approx(48 + 5)
    assert found.joules_per_frame == pytest.approx(2.5)
    assert found.model_percent == pytest.approx(100 * 5 / 53)
    assert found.days == pytest.approx(100 / 53)
    said = " ".join(found.assumptions)
    for words in ("7200 pictures a day", "7 W at work: work", "2 W between pictures: rest", "all of its 100 Wh"):
        assert words in said


def test_without_a_battery_there_are_no_days() -> None:
    found = estimate(Duty(10), 1.0, REST, ACTIVE)
    assert found.days is None
    assert not any("battery" in line for line in found.assumptions)


def test_work_that_needs_no_more_than_rest_is_said_to_count_as_free() -> None:
    found = estimate(Duty(10), 1.0, ACTIVE, REST)
    assert found.joules_per_frame == 0
    assert any("counts as free" in line for line in found.assumptions)


def test_a_day_holds_only_so_many_pictures() -> None:
    with pytest.raises(InputError, match="a day holds 86400"):
        estimate(Duty(86401), 1000.0, REST, ACTIVE)


def test_the_energy_of_a_picture_is_power_times_time_over_pictures() -> None:
    assert joules_per_picture(6.0, 60.0, 120) == 3.0
    with pytest.raises(InputError):
        joules_per_picture(6.0, 60.0, 0)


def test_parts_are_never_added_up_to_a_whole() -> None:
    assert whole_power({"VDD_CPU_GPU_CV": 3.0, "VDD_SOC": 1.0}) is None
    jetson = whole_power({"VDD_SOC": 1.0, "VDD_IN": 7.0})
    assert jetson is not None
    assert (jetson.watts, "VDD_IN" in jetson.source) == (7.0, True)
    assert whole_power({}) is None


@pytest.mark.parametrize(
    ("duty", "flag"),
    [
        (Duty(-1), "--frames-per-day"),
        (Duty(float("nan")), "--frames-per-day"),
        (Duty(1, battery_wh=0), "--battery-wh"),
        (Duty(1, rest_w=-1), "--rest-w"),
        (Duty(1, active_w=float("inf")), "--active-w"),
    ],
)
def test_a_duty_that_cannot_be_is_refused(duty: Duty, flag: str) -> None:
    with pytest.raises(InputError, match=flag):
        check_duty(duty)
