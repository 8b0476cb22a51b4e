"""Of the ways to spend one time, the one that does least harm is measured; what was tried is not tried again."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from taco.latency.levels import Choice, Drop, Level
from taco.latency.limits import Space
from taco.latency.midway import Aim
from taco.search.least_harm import ALONE, ONE_RATIO, WITH_BLOCKS, LeastHarm


def levels(loss: float) -> list[Level]:
    return [Level(width, loss * (4 - width), float(width), "measured") for width in (4, 3, 2, 1)]


OPTIONS = {"a": levels(1.0), "b": levels(2.0)}
DROPS = {"block": Drop(("a",), 0.5, 4.0, "measured")}
ONE = Choice({name: OPTIONS[name][2] for name in OPTIONS})


def way(choice: Choice) -> str:
    if "block" in choice.levels:
        return WITH_BLOCKS
    return ONE_RATIO if choice.widths == ONE.widths else ALONE


def chooser(harms: Mapping[str, float], drops: Mapping[str, Drop] = DROPS) -> LeastHarm:
    return LeastHarm(Space(OPTIONS, drops), lambda choice: harms[way(choice)], lambda _: ONE)


def taken(choose: LeastHarm, table_ms: float) -> Choice:
    found = choose(lambda _: Aim(table_ms), [])
    assert found is not None
    return found[1]


@pytest.mark.parametrize("best", [WITH_BLOCKS, ALONE, ONE_RATIO])
def test_the_least_harm_decides_and_is_told(best: str) -> None:
    harms = {name: 0.1 if name == best else 0.2 + 0.1 * len(name) for name in (WITH_BLOCKS, ALONE, ONE_RATIO)}
    choose = chooser(harms)
    choice = taken(choose, 5.0)
    assert way(choice) == best
    assert choice.table_ms <= 5.0
    blocks, spread = choose.told(choice, {"block": 0.05}).values()
    assert blocks == {
        "offered": {"block": 0.05}, "taken": ["block"] if best == WITH_BLOCKS else [],
        "harm_with": harms[WITH_BLOCKS], "harm_without": harms[ALONE],
    }  # fmt: skip
    assert spread == {"unit by unit": min(harms[WITH_BLOCKS], harms[ALONE]), "one ratio": harms[ONE_RATIO]}


def test_what_was_tried_makes_room_for_the_next_best_until_nothing_is_left() -> None:
    choose, tried = chooser({WITH_BLOCKS: 0.1, ALONE: 0.3, ONE_RATIO: 0.2}), []
    found = []
    while (one := choose(lambda _: Aim(5.0), tried)) is not None:
        tried.append(one[1].widths)
        found.append(way(one[1]))
        assert one[0] == found[-1]
    assert found == [WITH_BLOCKS, ONE_RATIO, ALONE]
    second, last = (
        Choice({name: Level(w, 0.0, 0.0, "measured") for name, w in widths.items()}) for widths in tried[1:]
    )
    assert choose.harms(second) == {ALONE: 0.3, ONE_RATIO: 0.2}, "what was tried before is no rival"
    assert choose.harms(last) == {}, "it was the only one left"


def test_harm_is_asked_only_where_there_is_something_to_compare() -> None:
    choose = LeastHarm(Space(OPTIONS), lambda _: pytest.fail("nothing to compare"))
    choice = taken(choose, 5.0)
    assert choose.told(choice, {}) == {"blocks": None, "spread": {}}
    assert choose(lambda _: Aim(5.0), [choice.widths]) is None


def test_where_only_fewer_blocks_are_fast_enough_widths_alone_are_no_way() -> None:
    choose = LeastHarm(Space(OPTIONS, DROPS), lambda _: pytest.fail("nothing to compare"))
    choice = taken(choose, 1.0)
    assert way(choice) == WITH_BLOCKS
    blocks, spread = choose.told(choice, {"block": 0.05}).values()
    assert blocks == {"offered": {"block": 0.05}, "taken": ["block"]}
    assert spread == {}


def test_the_dense_model_is_no_choice() -> None:
    assert LeastHarm(Space(OPTIONS), lambda _: 0.0)(lambda _: Aim(100.0), []) is None


def test_every_way_has_a_time_of_its_own() -> None:
    times = {WITH_BLOCKS: 6.5, ALONE: 5.0, ONE_RATIO: 4.0}
    asked: list[float] = []

    def one_ratio(table_ms: float) -> Choice:
        asked.append(table_ms)
        return ONE

    harms = {WITH_BLOCKS: 0.3, ALONE: 0.2, ONE_RATIO: 0.4}
    choose = LeastHarm(Space(OPTIONS, DROPS), lambda choice: harms[way(choice)], one_ratio)
    found = choose(lambda name: Aim(times[name]), [])
    assert found is not None
    assert (found[0], way(found[1])) == (ALONE, ALONE)
    assert 4.0 < found[1].table_ms <= 5.0
    assert asked == [4.0]


def test_between_two_that_were_measured_a_way_takes_what_lies_between() -> None:
    wide, narrow = (Choice({name: OPTIONS[name][at] for name in OPTIONS}) for at in (0, 2))
    middle = (wide.table_ms + narrow.table_ms) / 2
    slower, faster = (Space(OPTIONS).choose(ms) for ms in (middle, narrow.table_ms))
    aim = Aim((slower.table_ms + faster.table_ms) / 2, (slower, faster))
    found = LeastHarm(Space(OPTIONS), lambda _: 0.0)(lambda _: aim, [slower.widths, faster.widths])
    assert found is not None
    assert all(faster.widths[n] <= width <= slower.widths[n] for n, width in found[1].widths.items())
