"""The latency table: what a cell says, when a table counts, and that a changed runtime is another table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tiny_latency import KEY, make_cell, make_table, make_unit

from taco.errors import InputError
from taco.latency.table import (
    Cell,
    cache_folder,
    cached_path,
    device_words,
    dump_table,
    load_cached,
    read_table,
    save_cached,
)


def test_a_timed_width_gives_its_own_cell() -> None:
    unit = make_unit({64: 4.0, 32: 3.0, 16: 1.0})
    assert unit.at(32) == unit.cells[1]
    assert unit.at(32).source == "measured"


def test_between_two_widths_lies_a_straight_line_and_says_so() -> None:
    unit = make_unit({64: 4.0, 32: 3.0, 16: 1.0})
    cell = unit.at(24)
    assert cell.p50_ms == pytest.approx(2.0)
    assert (cell.width, cell.n, cell.source) == (24, 0, "interpolated")


@given(st.integers(16, 64))
def test_a_line_never_leaves_its_neighbours(width: int) -> None:
    unit = make_unit({64: 4.0, 32: 3.0, 16: 1.0})
    above = min(c.p50_ms for c in unit.cells if c.width >= width)
    below = max(c.p50_ms for c in unit.cells if c.width <= width)
    assert below <= unit.at(width).p50_ms <= above


def test_nothing_is_extrapolated() -> None:
    unit = make_unit({64: 4.0, 16: 1.0})
    for width in (8, 80):
        with pytest.raises(InputError, match=f"width {width} is outside of what was timed. Timed are 16 to 64"):
            unit.at(width)


def test_widths_must_fall() -> None:
    with pytest.raises(ValidationError, match="widths must fall"):
        make_unit({16: 1.0}).model_copy().model_validate(
            {"kind": "inner", "holder": "a", "signature": "s", "cells": [make_cell(16, 1.0), make_cell(32, 2.0)]}
        )


@pytest.mark.parametrize(
    "change",
    [
        {"runtime_version": "1.33.0"},
        {"precision": "int8"},
        {"threads": 4},
        {"provider": "GPU"},
        {"architecture": "other"},
        {"software": "other"},
        {"device": {**KEY.device, "processor": "Cortex-A76"}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_change_of_anything_in_the_key_is_another_table(change: dict[str, Any], tmp_path: Path) -> None:
    save_cached(tmp_path, make_table())
    assert load_cached(tmp_path, KEY) == make_table()
    assert load_cached(tmp_path, KEY.model_copy(update=change)) is None


def test_a_table_under_a_name_that_is_not_its_own_does_not_count(tmp_path: Path) -> None:
    other = KEY.model_copy(update={"runtime_version": "1.33.0"})
    cached_path(tmp_path, other).write_bytes(dump_table(make_table()))
    assert load_cached(tmp_path, other) is None


def test_a_damaged_table_is_measured_again_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = save_cached(tmp_path, make_table())
    path.write_bytes(path.read_bytes()[:100])
    with caplog.at_level("WARNING", logger="taco"):
        assert load_cached(tmp_path, KEY) is None
    assert "is measured again" in caplog.text


def test_reading_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_table(tmp_path / "no.json")
    newer = tmp_path / "newer.json"
    newer.write_bytes(dump_table(make_table()).replace(b'"schema_version": 1', b'"schema_version": 2'))
    with pytest.raises(InputError, match="from another version: schema_version"):
        read_table(newer)


def test_a_table_of_a_version_that_noted_no_software_can_be_read(tmp_path: Path) -> None:
    older = tmp_path / "older.json"
    lines = dump_table(make_table()).splitlines(keepends=True)
    older.write_bytes(b"".join(line for line in lines if b'"software"' not in line).replace(b'"abc",', b'"abc"'))
    assert b"software" not in older.read_bytes()
    assert read_table(older) == make_table()


def test_a_table_from_elsewhere_is_an_estimate_in_every_cell() -> None:
    table = make_table()
    assert table.seen_from(KEY) is table
    there = KEY.model_copy(update={"device": {**KEY.device, "processor": "Cortex-A76"}})
    cells = [c for u in table.seen_from(there).units.values() for c in (*u.cells, u.at(40))]
    assert {c.source for c in cells} == {"estimated"}


def test_cells_of_one_signature_are_counted_once() -> None:
    assert make_table(a={64: 4.0, 16: 1.0}, b={64: 4.0, 16: 1.0}).timed == 2


def test_no_time_below_zero() -> None:
    with pytest.raises(ValidationError):
        Cell(width=8, min_ms=-1.0, p50_ms=1.0, n=3, spread=0.0, source="measured")


def test_the_cache_lies_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TACO_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path / "latency"
    monkeypatch.delenv("TACO_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_folder() == tmp_path / "x" / "taco-export" / "latency"


def test_what_changes_while_a_machine_works_is_no_part_of_it() -> None:
    probe = {"machine": "x86_64", "processor": "N100", "isa": ["avx2"], "telemetry": {"load_average": [1, 2, 3]}}
    assert device_words(probe) == device_words({**probe, "telemetry": {}})
    assert device_words(probe)["instructions"] == "avx2"
