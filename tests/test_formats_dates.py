"""Dates as cameras, databases and spreadsheets write them."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taco.formats.dates import DateReader

WALL = 1590814657.0  # 2020-05-30 04:57:37 on the clock that the text shows


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("2020-05-30 04:57:37", WALL),
        ("2020-05-30T04:57:37", WALL),
        ("2020-05-30T04:57:37Z", WALL),
        ("2020-05-30T04:57:37+05:30", WALL),
        ("2020-05-30T04:57:37-0800", WALL),
        ("2020:05:30 04:57:37", WALL),
        (" 2020-05-30 04:57:37\0", WALL),
        ("2020-05-30 04:57:37.5", WALL + 0.5),
        ("2020-05-30", WALL - 4 * 3600 - 57 * 60 - 37),
        ("1969-12-31 23:59:59", -1.0),
        ("0001-01-01T00:00:00+14:00", -62135596800.0),
    ],
)
def test_every_way_of_writing_gives_the_camera_s_own_clock(text: str, taken: float) -> None:
    dates = DateReader()
    assert dates.taken(text) == taken
    assert dates.warnings() == []


@pytest.mark.parametrize("value", ["0000:00:00 00:00:00", "yesterday", "30/05/2020", 1590814657, ["2020-05-30"], " "])
def test_what_is_no_date_is_ignored_and_counted(value: object) -> None:
    dates = DateReader()
    assert dates.taken(value) is None
    assert dates.taken(value) is None
    assert dates.warnings() == [f"2 dates cannot be read and are ignored, such as {value!r}"]


def test_no_date_is_no_mistake() -> None:
    dates = DateReader()
    assert dates.taken(None) is None
    assert dates.taken("") is None
    assert dates.warnings() == []


@given(st.datetimes(), st.sampled_from(["", "Z", "+02:00", "-11:30"]))
def test_the_zone_does_not_matter(moment: datetime.datetime, zone: str) -> None:
    expected = moment.replace(tzinfo=datetime.UTC).timestamp()
    assert DateReader().taken(moment.isoformat() + zone) == expected
