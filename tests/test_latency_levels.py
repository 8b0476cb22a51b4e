"""Levels and their exact optimum: against every combination, fast enough, and never a width that buys no time."""

from __future__ import annotations

import itertools
import math
import time

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny_latency import make_unit

from taco.errors import BudgetInfeasibleError
from taco.latency.levels import MOST_LEVELS, Choice, Drop, Level, choose, dense, fastest, levels_of


def falling(widths: list[int]) -> dict[int, float]:
    """Losses that grow as widths fall."""
    return {w: float(max(widths) - w) for w in range(max(widths) + 1)}


def widths(levels: list[Level]) -> list[int]:
    return [level.width for level in levels]


def test_timed_widths_and_those_in_between_are_offered() -> None:
    unit = make_unit({64: 4.0, 32: 2.0, 16: 1.0})
    levels = levels_of(unit, falling([64]), 8)
    assert widths(levels) == [64, 56, 48, 40, 32, 24, 16]
    assert [level.source for level in levels] == [
        *("measured", "interpolated", "interpolated", "interpolated", "measured", "interpolated", "measured")
    ]
    assert levels[2].ms == pytest.approx(3.0)
    assert levels[0].loss == 0


def test_a_dense_width_that_is_no_multiple_is_offered_as_it_is() -> None:
    assert widths(levels_of(make_unit({20: 4.0, 8: 2.0}), falling([20]), 8)) == [20, 16, 8]


def test_a_width_on_the_same_stair_is_never_offered() -> None:
    unit = make_unit({64: 4.0, 48: 3.99, 32: 2.0, 16: 2.02})
    levels = levels_of(unit, falling([64]), 8)
    assert widths(levels) == [64, 40, 32]  # 48 buys nothing; 16 is slower than 32
    assert all(later.ms < earlier.ms for earlier, later in itertools.pairwise(levels))


def test_wide_intervals_hide_a_small_step_that_the_fastest_runs_do_not_show() -> None:
    times = {64: 4.0, 32: 3.8}
    assert widths(levels_of(make_unit(times, spread=0.02, min_ms=3.5), falling([64]), 32)) == [64, 32]
    assert widths(levels_of(make_unit(times, spread=0.20, min_ms=3.5), falling([64]), 32)) == [64]
    assert widths(levels_of(make_unit(times, spread=0.20), falling([64]), 32)) == [64, 32]


def test_fastest_runs_alone_make_no_step() -> None:
    unit = make_unit({64: 4.0, 32: 4.0}, spread=0.2)
    lucky = unit.cells[1].model_copy(update={"min_ms": 2.0})
    unit = unit.model_copy(update={"cells": (unit.cells[0], lucky)})
    assert widths(levels_of(unit, falling([64]), 32)) == [64]


def test_of_many_widths_all_timed_ones_stay() -> None:
    unit = make_unit({1024: 8.0, 512: 4.0, 8: 1.0})
    levels = levels_of(unit, falling([1024]), 8)
    assert len(levels) <= MOST_LEVELS
    assert {1024, 512, 8} <= set(widths(levels))


levels = st.lists(st.tuples(st.floats(0, 10), st.floats(0.001, 20)), min_size=1, max_size=4)


@settings(max_examples=80)
@given(st.lists(levels, min_size=1, max_size=4), st.floats(0.5, 60), st.integers(20, 400))
def test_the_choice_is_the_best_of_every_combination(
    units: list[list[tuple[float, float]]], budget: float, buckets: int
) -> None:
    options = {
        str(i): [Level(9 - k, loss, ms, "measured") for k, (loss, ms) in enumerate(unit)]
        for i, unit in enumerate(units)
    }
    every = [
        (math.fsum(level.loss for level in picks), math.fsum(level.ms for level in picks))
        for picks in itertools.product(*options.values())
    ]
    least = min(ms for _, ms in every)
    if least > budget * (1 + 1e-12):
        with pytest.raises(BudgetInfeasibleError):
            choose(options, budget, buckets)
        return
    choice = choose(options, budget, buckets)
    assert choice.table_ms <= budget * (1 + 1e-9)
    # rounding up costs at most one bucket a unit
    sure = budget - len(units) * (budget - least) / buckets
    better = [loss for loss, ms in every if ms <= sure]
    assert not better or choice.loss <= min(better) + 1e-9


blocks = st.tuples(
    st.lists(levels, min_size=1, max_size=3),
    st.none() | st.tuples(st.floats(0, 15), st.floats(0, 25)),  # loss of leaving it out, what it then still counts
)


#: The first unit takes all of 1 ms; rounding leaves a little less than nothing for the second, which may take nothing.
FULL = [([[(0.0, 1.0)]], None), ([[(0.0, 0.4512879732262007)]], (0.0, 0.0))]


@settings(max_examples=120)
@example(FULL, 1.0, 20)
@given(st.lists(blocks, min_size=1, max_size=3), st.floats(0.5, 60), st.integers(20, 400))
def test_with_blocks_that_may_be_left_out_it_is_still_the_best_of_every_combination(
    drawn: list[tuple[list[list[tuple[float, float]]], tuple[float, float] | None]], budget: float, buckets: int
) -> None:
    options: dict[str, list[Level]] = {}
    drops: dict[str, Drop] = {}
    each: list[list[tuple[float, float]]] = []  # block -> (loss, ms) of all it can become
    for b, (units, drop) in enumerate(drawn):
        names = [f"{b}.{i}" for i in range(len(units))]
        for name, unit in zip(names, units, strict=True):
            options[name] = [Level(9 - k, loss, ms, "measured") for k, (loss, ms) in enumerate(unit)]
        picks = itertools.product(*(options[name] for name in names))
        each.append([(math.fsum(p.loss for p in pick), math.fsum(p.ms for p in pick)) for pick in picks])
        if drop is not None:
            drops[f"block {b}"] = Drop(tuple(names), drop[0], 1.0, "measured", drop[1])
            each[-1].append(drop)
    every = [(math.fsum(x for x, _ in p), math.fsum(x for _, x in p)) for p in itertools.product(*each)]
    least = min(ms for _, ms in every)
    assert fastest(options, drops).table_ms == pytest.approx(least)
    if least > budget * (1 + 1e-12):
        with pytest.raises(BudgetInfeasibleError):
            choose(options, budget, buckets, drops)
        return
    choice = choose(options, budget, buckets, drops)
    assert choice.table_ms <= budget * (1 + 1e-9) + 1e-9
    check_whole(choice, options, drops)
    # rounding up costs at most one bucket a unit, or a block
    sure = budget - (len(options) + len(drops)) * (budget - least) / buckets
    better = [loss for loss, ms in every if ms <= sure]
    assert not better or choice.loss <= min(better) + 1e-9


def check_whole(choice: Choice, options: dict[str, list[Level]], drops: dict[str, Drop]) -> None:
    """A block that is left out takes all of its units with it, and no other is touched."""
    assert set(options) <= set(choice.levels) <= set(options) | set(drops)
    for name, drop in drops.items():
        gone = {choice.levels[unit].width == 0 for unit in drop.units}
        assert gone == {name in choice.levels}
    assert all(choice.levels[name] in own for name, own in options.items() if choice.levels[name].width)


def test_of_two_units_in_a_block_its_time_is_saved_once() -> None:
    options = {name: [Level(8, 0.0, 5.0, "measured"), Level(4, 3.0, 3.0, "measured")] for name in ("heads", "mlp")}
    drops = {"block": Drop(("heads", "mlp"), 1.0, 5.0, "measured", left_ms=5.0)}
    choice = choose(options, 6.0, drops=drops)
    assert choice.widths == {"heads": 0, "mlp": 0, "block": 0}
    assert (choice.table_ms, choice.loss) == (5.0, 1.0)
    assert dense(options).table_ms - choice.table_ms == 5.0
    dear = {"block": Drop(("heads", "mlp"), 7.0, 5.0, "measured", left_ms=5.0)}
    assert choose(options, 6.0, drops=dear).widths == {"heads": 4, "mlp": 4}


def test_a_hundred_units_of_32_levels_take_less_than_two_seconds() -> None:
    rng = np.random.default_rng(0)
    options = {
        str(i): [
            Level(32 - k, float(loss), float(ms), "measured")
            for k, (loss, ms) in enumerate(zip(np.sort(rng.random(32)), -np.sort(-rng.random(32)), strict=True))
        ]
        for i in range(100)
    }
    begin = time.process_time()
    choice = choose(options, 40.0, 10_000)
    assert time.process_time() - begin < 2
    assert 39 < choice.table_ms <= 40


def test_the_dense_and_the_fastest_choice() -> None:
    options = {"a": [Level(8, 0.0, 2.0, "measured"), Level(4, 1.0, 1.0, "measured")]}
    assert dense(options).widths == {"a": 8}
    assert fastest(options).widths == {"a": 4}
    assert choose(options, 2.0).widths == {"a": 8}
