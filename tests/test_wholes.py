"""What whole models say of a table: which of them tell the line, and how much of a block's time goes with it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_latency import make_table

from taco.latency.levels import Level
from taco.latency.table import LatencyTable, WholeModel
from taco.latency.wholes import known_wholes, saved_share

#: Three blocks of one unit, and one of two units, whose time the table holds twice.
HOLDERS = {"a": "one", "b": "two", "c": "three", "d": "pair", "e": "pair"}
TIMES = {4: 2.0, 3: 1.6, 2: 1.0, 1: 0.7}
BASE_MS = 3.0


def tabled(saved: float, worth: float, gone: tuple[tuple[str, ...], ...] = (("one", "pair"), ("two",))) -> LatencyTable:
    """A device on which widths are worth `worth` of the table, and a block that leaves saves a share of that."""
    bare = make_table(1.0, **dict.fromkeys(HOLDERS, TIMES))
    units = {name: cells.model_copy(update={"holder": HOLDERS[name]}) for name, cells in bare.units.items()}

    def whole(width: int, left: tuple[str, ...] = ()) -> WholeModel:
        kept = {name: width for name, holder in HOLDERS.items() if holder not in left}
        gained = sum(TIMES[4] - TIMES[w] for w in kept.values()) + saved * TIMES[4] * len(left)
        ms = BASE_MS + worth * (len(HOLDERS) * TIMES[4] - gained)
        return WholeModel(widths=kept | dict.fromkeys(left, 0), p50_ms=ms, n=30, spread=0.01)

    wholes = [whole(width) for width in (3, 2, 1)] + [whole(w, left) for left in gone for w in (4, 2)]
    dense_ms = BASE_MS + worth * len(HOLDERS) * TIMES[4]
    return bare.model_copy(update={"units": units, "wholes": tuple(wholes), "dense_ms": dense_ms})


def options_of(table: LatencyTable) -> dict[str, list[Level]]:
    return {n: [Level(c.width, 0.0, c.p50_ms, "measured") for c in unit.cells] for n, unit in table.units.items()}


@given(st.floats(0.25, 1.0), st.floats(0.3, 2.0))
def test_the_share_that_a_block_saves_is_found(saved: float, worth: float) -> None:
    table = tabled(saved, worth)
    assert saved_share(table, options_of(table)) == pytest.approx(saved, abs=1e-6)


@pytest.mark.parametrize(("saved", "told"), [(1.4, 1.0), (0.0, 0.2), (-1.0, 0.2)])
def test_it_stays_within_what_can_be(saved: float, told: float) -> None:
    table = tabled(saved, 1.0)
    assert saved_share(table, options_of(table)) == pytest.approx(told)


def test_a_table_of_an_earlier_version_counts_blocks_in_full() -> None:
    table = tabled(0.5, 1.0, gone=())
    assert saved_share(table, options_of(table)) == 1.0


def test_only_smaller_widths_tell_the_line() -> None:
    table = tabled(0.5, 2.0)
    known = known_wholes(table, options_of(table), 2 * table.dense_ms)
    assert len(known.wholes) == 4
    assert known.scale == 2.0
    assert known.line(8.0).scale == pytest.approx(4.0), "what the dense model takes now counts"


def test_whole_models_that_cut_other_units_than_may_be_cut_tell_nothing() -> None:
    table = tabled(0.5, 2.0)
    options = {name: levels for name, levels in options_of(table).items() if name != "c"}
    assert len(known_wholes(table, options, table.dense_ms).wholes) == 1
    assert saved_share(table, options) == 1.0
