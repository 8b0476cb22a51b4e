"""The dynamic programme against every combination, and at its edges."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taco.allocation.distribute import distribute
from taco.errors import BudgetInfeasibleError

levels = st.lists(st.tuples(st.floats(0, 10), st.integers(0, 20)), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(st.lists(levels, min_size=1, max_size=4), st.integers(1, 60))
def test_it_is_the_optimum_of_every_combination_within_the_budget(
    units: list[list[tuple[float, int]]], budget: int
) -> None:
    losses = {str(i): [loss for loss, _ in unit] for i, unit in enumerate(units)}
    costs = {str(i): [float(cost) for _, cost in unit] for i, unit in enumerate(units)}
    every = [
        (sum(units[i][k][0] for i, k in enumerate(picks)), sum(units[i][k][1] for i, k in enumerate(picks)))
        for picks in itertools.product(*(range(len(unit)) for unit in units))
    ]
    feasible = [loss for loss, cost in every if cost <= budget]
    if not feasible:
        with pytest.raises(BudgetInfeasibleError, match="cannot be reached: the least is"):
            distribute(losses, costs, budget, buckets=budget)
        return
    chosen = distribute(losses, costs, budget, buckets=budget)  # whole costs: nothing is rounded
    assert sum(costs[n][k] for n, k in chosen.items()) <= budget
    assert sum(losses[n][k] for n, k in chosen.items()) == pytest.approx(min(feasible))


def test_costs_are_rounded_up_so_that_the_budget_is_never_exceeded() -> None:
    losses = {name: [0.0, 1.0] for name in "abc"}
    costs = {name: [3.4, 1.0] for name in "abc"}
    chosen = distribute(losses, costs, 8.0, buckets=8)
    assert sorted(chosen.values()) == [0, 1, 1]  # two at 3.4 (4 buckets each) would leave none for the third


def test_a_budget_that_only_rounding_makes_infeasible_takes_the_cheapest() -> None:
    assert distribute({"a": [0.0, 5.0], "b": [0.0, 5.0]}, {"a": [9.0, 1.3], "b": [9.0, 1.3]}, 2.6, buckets=3) == {
        "a": 1,
        "b": 1,
    }


@pytest.mark.parametrize("budget", [5e-324, 1e-311, 1e-300])
def test_a_budget_near_zero_takes_what_costs_nothing(budget: float) -> None:
    assert distribute({"a": [0.0, 1.0]}, {"a": [3.0, 0.0]}, budget) == {"a": 1}


def test_nothing_to_distribute() -> None:
    assert distribute({}, {}, 1.0) == {}
    assert distribute({"a": [1.0, 2.0]}, {"a": [1.0, 0.0]}, 0.0) == {"a": 1}
    assert distribute({"a": [2.0, 1.0]}, {"a": [0.0, 0.0]}, 0.0) == {"a": 1}
