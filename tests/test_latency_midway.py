"""Between two choices that were measured: only what they differ in is open, and the best of that is taken."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from taco.latency.levels import Choice, Drop, Level
from taco.latency.limits import Limit, Space
from taco.latency.midway import Aim, midway

UNITS = ("a", "b", "c")
OPTIONS = {
    name: [Level(8 - k, float(k * (i + 1)) ** 1.5, (8 - k) * (1 + i / 3), "measured") for k in range(8)]
    for i, name in enumerate(UNITS)
}
GONE = {
    "b": Level(0, 0.0, 0.0, "measured"),
    "c": Level(0, 0.0, 0.0, "measured"),
    "block": Level(0, 30.0, 0.0, "measured"),
}
DROPS = {"block": Drop(("b", "c"), 30.0, 8.0, "measured", 0.5)}


def at(*widths: int) -> Choice:
    return Choice({name: next(x for x in OPTIONS[name] if x.width == w) for name, w in zip(UNITS, widths, strict=True)})


@settings(max_examples=80)
@given(
    st.lists(st.integers(1, 8), min_size=3, max_size=3),
    st.lists(st.integers(1, 8), min_size=3, max_size=3),
    st.floats(0, 1),
)
@example([1, 1, 6], [1, 6, 2], 0.0)
def test_it_is_the_best_of_all_that_lie_between(one: list[int], other: list[int], share: float) -> None:
    slower, faster = sorted((at(*one), at(*other)), key=lambda choice: -choice.table_ms)
    aim_ms = faster.table_ms + share * (slower.table_ms - faster.table_ms)
    table_ms = aim_ms * (1 + 1e-9)  # sums of the same levels differ in their last digits
    found = midway(Space(OPTIONS), Aim(aim_ms, (slower, faster)), [])
    assert found is not None
    between = [range(min(pair), max(pair) + 1) for pair in zip(one, other, strict=True)]
    assert all(width in span for width, span in zip(found.widths.values(), between, strict=True))
    fits = [choice for choice in itertools.starmap(at, itertools.product(*between)) if choice.table_ms <= table_ms]
    best = min((choice.loss for choice in fits), default=faster.loss)
    # the programme counts in ten thousand steps, rounded up
    assert found.loss == pytest.approx(best) or found.table_ms <= table_ms < best_within_a_step(fits, best, table_ms)
    assert found.table_ms <= table_ms


def best_within_a_step(fits: list[Choice], best: float, table_ms: float) -> float:
    """Return a time that shows the best choice lay within the rounding of the programme, or none."""
    close = [choice for choice in fits if choice.loss <= best and choice.table_ms > table_ms * (1 - 3e-4)]
    return float("inf") if close else 0.0


def test_a_block_that_both_leave_out_stays_out_and_keeps_its_own_loss() -> None:
    space = Space(OPTIONS, DROPS)
    slower, faster = (Choice({"a": OPTIONS["a"][k], **GONE}, 0.5) for k in (0, 6))
    found = midway(space, Aim(6.0, (slower, faster)), [])
    assert found is not None
    assert "block" in found.levels
    assert (found.levels["block"].loss, found.left_ms) == (30.0, 0.5)
    assert 2 < found.widths["a"] < 8


def test_a_block_that_one_leaves_out_goes_or_stays_as_it_was() -> None:
    space = Space(OPTIONS, DROPS)
    slower, faster = at(6, 5, 4), Choice({"a": OPTIONS["a"][3], **GONE}, 0.5)
    for table_ms in (6.0, 8.0, 12.0, slower.table_ms):
        found = midway(space, Aim(table_ms, (slower, faster)), [])
        assert found is not None
        assert (found.widths["b"], found.widths["c"]) in {(0, 0), (5, 4)}
        assert found.table_ms <= table_ms


def test_there_is_nothing_between_without_two_with_limits_or_where_all_was_tried() -> None:
    slower, faster = at(8, 8, 8), at(8, 8, 7)
    aim = Aim(faster.table_ms, (slower, faster))
    assert midway(Space(OPTIONS), Aim(12.0), []) is None
    assert midway(Space(OPTIONS), aim, [slower.widths, faster.widths]) is None
    limit = Limit("--max-macs", 20.0, 24.0, dict.fromkeys(UNITS, 1.0))
    assert midway(Space(OPTIONS, limits=(limit,)), aim, []) is None
    assert midway(Space(OPTIONS), Aim(faster.table_ms - 1, (slower, faster)), []) is None, "faster than both"
