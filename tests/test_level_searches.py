"""Searches beyond the dynamic programme, on toys in which the sum of losses is wrong and the optimum is known."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import get_args

import pytest
from families import SMALL, units_of
from hypothesis import given, settings
from hypothesis import strategies as st

from taco import options as options_of
from taco.errors import BudgetInfeasibleError, InputError
from taco.latency.evopress import evopress
from taco.latency.levels import Drop, Level
from taco.latency.levelsearch import Searching, search_levels
from taco.latency.limits import Limit, Space
from taco.latency.problem import Fitness, Levels, Problem, Tally
from taco.latency.spdy import spdy
from taco.options import make_options
from taco.search.given_widths import read_widths
from taco.search.widths import Found
from taco.units import lies_in

Search = Callable[[Problem, Tally, int], dict[str, int]]
beyond = pytest.mark.parametrize("method", ["spdy", "evopress"])
both = pytest.mark.parametrize("search", [spdy, evopress], ids=["spdy", "evopress"])
UNITS, DEPTH, KILLED_AFTER = "abcdef", 4, 8


def toy(budget: float = 9.0) -> Problem:
    """Six units with four levels; by their losses all are alike."""
    return Problem(
        losses={unit: [0.1 * k for k in range(DEPTH)] for unit in UNITS},
        costs={unit: [float(DEPTH - 1 - k) for k in range(DEPTH)] for unit in UNITS},
        budget=budget,
        buckets=180,  # fine enough that whole costs are not rounded up
    )


def misjudged(levels: Levels) -> float:
    """What a sum of the toy's losses does not know: two units hardly matter, and a pair is fatal when both are cut."""
    weights = {"a": 0.01, "b": 0.02, "c": 3.0, "d": 1.0, "e": 1.0, "f": 2.0}
    return sum(weights[u] * i**2 for u, i in levels.items()) + 50.0 * (levels["a"] > 1 and levels["b"] > 1)


def weighted(levels: Levels) -> float:
    """Losses that only need other coefficients, so that coefficients can find the optimum."""
    weights = {"a": 0.01, "b": 0.02, "c": 3.0, "d": 1.0, "e": 1.1, "f": 2.0}
    return sum(weights[u] * i for u, i in levels.items())


def optimum(problem: Problem, fitness: Fitness) -> float:
    every = (dict(zip(UNITS, at, strict=True)) for at in itertools.product(range(DEPTH), repeat=len(UNITS)))
    return min(fitness(levels) for levels in every if problem.allows(levels))


@pytest.mark.parametrize("seed", range(2))
def test_evolution_finds_the_optimum_of_a_model_in_which_cuts_interact(seed: int) -> None:
    problem, tally = toy(), Tally(misjudged, 400)
    assert misjudged(problem.additive()) > 2 * optimum(problem, misjudged), "the sum alone must be wrong here"
    assert misjudged(evopress(problem, tally, seed)) == pytest.approx(optimum(problem, misjudged))


@pytest.mark.parametrize("seed", range(2))
def test_coefficients_find_the_optimum_where_units_were_only_weighed_wrongly(seed: int) -> None:
    problem, tally = toy(), Tally(weighted, 60)
    assert weighted(problem.additive()) > 1.5 * optimum(problem, weighted), "the sum alone must be wrong here"
    assert weighted(spdy(problem, tally, seed)) == pytest.approx(optimum(problem, weighted))


@both
@settings(max_examples=15)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 40),
    st.floats(0, 18),
    st.lists(st.floats(0, 5), min_size=DEPTH ** len("ab"), max_size=DEPTH ** len("ab")),
)
def test_any_fitness_is_never_made_worse_and_the_budget_and_the_evaluations_are_kept(
    search: Search, seed: int, limit: int, budget: float, pairs: list[float]
) -> None:
    def fitness(levels: Levels) -> float:
        return pairs[DEPTH * levels["a"] + levels["b"]] + levels["c"]

    problem, tally = toy(budget), Tally(fitness, limit)
    found = search(problem, tally, seed)
    assert set(found) == set(UNITS)
    assert problem.cost(found) <= budget + 1e-6
    assert 1 <= tally.evaluations <= limit
    assert fitness(found) <= fitness(problem.additive())


@both
def test_equal_seeds_find_the_same_and_an_interrupted_search_goes_on_as_if_it_had_not_been(search: Search) -> None:
    problem = toy()
    whole = search(problem, Tally(misjudged, 60), 7)
    assert search(problem, Tally(misjudged, 60), 7) == whole
    asked = 0

    def killed(levels: Levels) -> float:
        nonlocal asked
        asked += 1
        if asked > KILLED_AFTER:
            raise KeyboardInterrupt
        return misjudged(levels)

    known: dict[str, float] = {}
    with pytest.raises(KeyboardInterrupt):
        search(problem, Tally(killed, 60, known), 7)
    assert len(known) == KILLED_AFTER
    again = 0

    def counted(levels: Levels) -> float:
        nonlocal again
        again += 1
        return misjudged(levels)

    tally = Tally(counted, 60, known)
    assert search(problem, tally, 7) == whole
    assert again == tally.evaluations - KILLED_AFTER


@both
def test_a_model_that_breaks_is_the_worst_of_all(search: Search) -> None:
    def fitness(levels: Levels) -> float:
        return math.nan if levels["a"] < 2 else misjudged(levels)

    problem = toy()
    assert search(problem, Tally(fitness, 200), 0)["a"] >= 2


@both
def test_what_cannot_be_paid_for_is_an_error_and_a_single_choice_is_taken(search: Search) -> None:
    with pytest.raises(BudgetInfeasibleError):
        search(toy(-1.0), Tally(misjudged, 10), 0)
    single = Problem({"a": [0.0]}, {"a": [0.0]}, 0.0)
    tally = Tally(lambda _: 1.0, 10)
    assert search(single, tally, 0) == {"a": 0}
    assert tally.evaluations == 1


def test_a_tally_asks_once_and_counts_what_was_asked() -> None:
    calls: list[Levels] = []

    def fitness(levels: Levels) -> float:
        calls.append(levels)
        return 1.0

    tally = Tally(fitness, 3)
    assert [tally.value({"a": 1, "b": 0}), tally.value({"b": 0, "a": 1})] == [1.0, 1.0]
    assert (len(calls), tally.evaluations, tally.left) == (1, 1, 2)
    assert tally.knows({"a": 1, "b": 0})
    assert not tally.knows({"a": 0, "b": 1})


@pytest.mark.parametrize("method", get_args(options_of.Search))
def test_levels_of_a_table_are_searched_within_its_milliseconds(method: str) -> None:
    options = {unit: [Level(64 - 16 * k, 0.1 * k, 1.0 - 0.25 * k, "measured") for k in range(DEPTH)] for unit in UNITS}

    def harm(widths: object) -> float:
        assert isinstance(widths, dict)
        return misjudged({unit: (64 - width) // 16 for unit, width in widths.items()})

    space = Space(options)
    dp = space.choose(4.0)
    found = search_levels(space, 4.0, dp, Searching(method, 20, 0, harm), {})  # type: ignore[arg-type]
    assert found.choice.table_ms <= 4.0 + 1e-9
    assert found.fitness == pytest.approx(harm(found.choice.widths))
    assert found.fitness_dp == pytest.approx(harm(dp.widths))
    if method == "dp":
        assert (found.choice, found.evaluations) == (dp, 1)
    else:
        assert found.fitness < found.fitness_dp


def stairs(ms: float) -> dict[str, list[Level]]:
    return {unit: [Level(64 - 16 * k, 0.1 * k, ms - 0.25 * k, "measured") for k in range(DEPTH)] for unit in UNITS}


def harm_of(widths: Mapping[str, int]) -> float:
    """As `misjudged`; of units that are gone nothing is lost."""
    return misjudged({unit: (64 - widths[unit]) // 16 if widths[unit] else 0 for unit in UNITS})


@beyond
def test_a_block_that_is_left_out_stays_out_and_its_time_goes_to_the_others(method: str) -> None:
    drop = Drop(("e", "f"), 0.0, 1.0, "measured", left_ms=1.0)
    space = Space(stairs(1.0), {"block": drop})
    start = space.choose(3.6)
    assert start.levels["block"].width == 0, "it costs nothing, so the sum of losses leaves it out"
    asked: list[Mapping[str, int]] = []

    def harm(widths: Mapping[str, int]) -> float:
        asked.append(widths)
        return harm_of(widths)

    found = search_levels(space, 3.6, start, Searching(method, 30, 0, harm), {})  # type: ignore[arg-type]
    assert all(widths["block"] == widths["e"] == widths["f"] == 0 for widths in asked)
    assert (found.choice.widths["block"], found.choice.left_ms) == (0, 1.0)
    assert found.choice.table_ms <= 3.6 + 1e-9
    assert found.fitness == pytest.approx(harm_of(found.choice.widths))
    assert found.fitness < found.fitness_dp


@beyond
def test_limits_hold_for_every_model_that_is_judged(method: str) -> None:
    """Without the limit a search keeps `c` and `f` wide; here their channels are dear."""
    dear = {"a": 1.0, "b": 1.0, "c": 5.0, "d": 1.0, "e": 1.0, "f": 5.0}
    limit = Limit("--max-macs", 500.0, 64.0 * sum(dear.values()), dear)
    space = Space(stairs(1.0), limits=(limit,))
    start = space.choose(5.0)
    judged: list[Mapping[str, int]] = []

    def harm(widths: Mapping[str, int]) -> float:
        judged.append(widths)
        return harm_of(widths)

    found = search_levels(space, 5.0, start, Searching(method, 60, 0, harm), {})  # type: ignore[arg-type]
    assert max(sum(dear[unit] * width for unit, width in widths.items()) for widths in judged) <= 500.0
    free = search_levels(Space(stairs(1.0)), 5.0, start, Searching(method, 60, 0, harm_of), {})  # type: ignore[arg-type]
    assert sum(dear[unit] * width for unit, width in free.choice.widths.items()) > 500.0, "the limit must bind"
    assert found.fitness <= found.fitness_dp


REFUSED = (
    ({"search": "spdy", "allocation": "latency", "macs": 0.5}, "--search spdy chooses among measured levels"),
    ({"search": "spdy", "max_drop": 1.0}, "--search spdy chooses among measured levels"),
    ({"max_drop": 1.0, "max_macs": 1e6}, "--max-macs and --max-drop exclude each other"),
    ({"max_drop": 1.0, "max_bytes": 1e6}, "--max-bytes and --max-drop exclude each other"),
)


@pytest.mark.parametrize(("asked", "said"), REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_what_has_no_meaning_together_is_refused(tmp_path: Path, asked: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        make_options({"task": tmp_path, "target": "host-cpu", "out": tmp_path / "out", **asked})


def test_a_block_that_a_person_leaves_out_takes_its_units_with_it(tmp_path: Path) -> None:
    units, file = units_of(SMALL[1]), tmp_path / "widths.json"
    block = units.of("block")[0].name
    inside = [unit.name for unit in units.within_blocks if lies_in(unit, block)]
    file.write_text(json.dumps({block: 0}))
    found = read_widths(file, units)
    assert {name for name, width in found.items() if width == 0} == {block, *inside}
    assert inside
    assert set(found) == {block, *(unit.name for unit in units.within_blocks)}
    assert Found.given(found, units).values["candidates"][0]["ratio"] < 1
    file.write_text(json.dumps({block: 0, inside[0]: units.within_blocks[0].multiple}))
    with pytest.raises(InputError, match="it lies in a block that is left out"):
        read_widths(file, units)
