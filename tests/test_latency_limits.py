"""Limits beside the budget: held, found whenever one limit can be held, and the best choice for what it uses."""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from taco.errors import BudgetInfeasibleError
from taco.latency.levels import Choice, Drop, Level, choose
from taco.latency.limits import Limit, LimitError, Space

BUCKETS = 10_000


def level(width: int, loss: float, ms: float) -> Level:
    return Level(width, loss, ms, "measured")


@st.composite
def spaces(draw: st.DrawFn, limits: int = 1) -> Space:
    """Two blocks of units whose loss grows and whose time falls with width; one block may be left out."""
    options: dict[str, list[Level]] = {}
    for name in ("a.0", "a.1", "b.0"):
        widths = sorted(draw(st.sets(st.integers(1, 9), min_size=1, max_size=3)), reverse=True)
        losses = sorted(draw(st.lists(st.floats(0, 10), min_size=len(widths), max_size=len(widths))))
        times = sorted(draw(st.lists(st.floats(0.1, 9), min_size=len(widths), max_size=len(widths))), reverse=True)
        options[name] = [level(*row) for row in zip(widths, losses, times, strict=True)]
    drops = {"a": Drop(("a.0", "a.1"), draw(st.floats(0, 20)), 1.0, "measured", draw(st.floats(0, 5)))}
    each = st.floats(0.1, 5)
    made = []
    for k in range(limits):
        per_channel = {name: draw(each) for name in options}
        block = sum(per_channel[name] * options[name][0].width for name in ("a.0", "a.1")) + draw(st.floats(0, 5))
        dense = sum(per_channel[name] * own[0].width for name, own in options.items()) + 5.0
        made.append(Limit(f"--limit-{k}", draw(st.floats(0.1, 1.0)) * dense, dense, per_channel, {"a": block}))
    return Space(options, drops if draw(st.booleans()) else {}, tuple(made))


def combinations(space: Space) -> list[Choice]:
    """Everything that can be chosen."""
    names = list(space.options)
    found = [Choice(dict(zip(names, pick, strict=True))) for pick in itertools.product(*space.options.values())]
    for name, drop in space.drops.items():
        zero = dict.fromkeys(drop.units, level(0, 0.0, 0.0)) | {name: level(0, drop.loss, 0.0)}
        others = [own for own in names if own not in drop.units]
        for pick in itertools.product(*(space.options[own] for own in others)):
            found.append(Choice(dict(zip(others, pick, strict=True)) | zero, drop.left_ms))
    return found


def surely_within(space: Space, choice: Choice, budget: float) -> bool:
    """Whether a choice fits after every cost was rounded up to a bucket."""
    least = min(c.table_ms for c in combinations(space))
    return choice.table_ms <= budget - 5 * (budget - least) / BUCKETS


def used(space: Space, choice: Choice, k: int = 0) -> float:
    return space.limits[k].used(choice, space.options, space.drops)


@settings(max_examples=60)
@given(spaces(), st.floats(1, 30))
def test_one_limit_is_held_whenever_it_can_be(space: Space, budget: float) -> None:
    limit, every = space.limits[0], combinations(space)
    possible = [c for c in every if surely_within(space, c, budget) and used(space, c) <= limit.cap * (1 - 1e-9)]
    try:
        found = space.choose(budget)
    except LimitError as error:
        assert not possible
        assert "--limit-0" in error.what  # noqa: PT017
        return
    except BudgetInfeasibleError:
        assert min(c.table_ms for c in every) > budget
        return
    assert found.table_ms <= budget * (1 + 1e-9) + 1e-9
    assert used(space, found) <= limit.cap
    free = choose(space.options, budget, drops=space.drops)
    if used(space, free) <= limit.cap:
        assert found.loss == pytest.approx(free.loss), "a limit that does not bind changes nothing"
    assert found.loss >= free.loss - 1e-9


@settings(max_examples=60)
@given(spaces(), st.floats(1, 30), st.floats(0, 10))
def test_at_any_price_a_choice_is_the_best_for_what_it_uses(space: Space, budget: float, price: float) -> None:
    every = combinations(space)
    assume(min(c.table_ms for c in every) <= budget)
    found = space._at(budget, [price])
    for other in every:
        if surely_within(space, other, budget) and used(space, other) <= used(space, found):
            assert other.loss >= found.loss - 1e-6


@settings(max_examples=40)
@given(spaces(limits=2), st.floats(5, 30))
def test_of_two_limits_both_hold_or_the_refusal_names_one(space: Space, budget: float) -> None:
    try:
        found = space.choose(budget)
    except BudgetInfeasibleError as error:
        assert "--limit-" in error.what or "a budget of" in error.what  # noqa: PT017
        return
    assert all(used(space, found, k) <= space.limits[k].cap for k in range(2))
    assert found.table_ms <= budget * (1 + 1e-9) + 1e-9


def test_by_hand_the_unit_that_uses_most_gives_way_and_what_is_left_over_is_used() -> None:
    options = {
        "thin": [level(8, 0.0, 1.0), level(4, 1.0, 1.0)],
        "thick": [level(8, 0.0, 1.0), level(6, 0.6, 1.0), level(4, 2.0, 1.0)],
    }
    limit = Limit("--max-bytes", 80.0, 100.0, {"thin": 1.0, "thick": 10.0})
    found = Space(options, {}, (limit,)).choose(2.0)
    assert found.widths == {"thin": 8, "thick": 6}
    assert limit.used(found, options, {}) == 80.0
    assert found.loss == pytest.approx(0.6)
    with pytest.raises(LimitError, match=r"--max-bytes 55 cannot be reached .* least found is 56.*--max-bytes 56"):
        Space(options, {}, (dataclasses.replace(limit, cap=55.0),)).choose(2.0)


def test_leaving_a_block_out_saves_all_that_it_uses() -> None:
    options = {"a.0": [level(4, 0.0, 1.0)], "b.0": [level(4, 0.0, 1.0)]}
    drops = {"a": Drop(("a.0",), 3.0, 1.0, "measured")}
    limit = Limit("--max-macs", 60.0, 100.0, {"a.0": 5.0, "b.0": 5.0}, {"a": 45.0})
    found = Space(options, drops, (limit,)).choose(2.0)
    assert found.widths == {"a.0": 0, "b.0": 4, "a": 0}
    assert limit.used(found, options, drops) == 55.0
    assert math.isclose(found.loss, 3.0)
