"""The levels of all units for a time by the table, found by the method that was asked: their sum alone, or a search."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import get_args

from taco.latency.evopress import evopress
from taco.latency.levels import Choice, Level, problem_of
from taco.latency.problem import Levels, Tally
from taco.latency.spdy import spdy
from taco.options import Search

SEARCHES: tuple[Search, ...] = get_args(Search)


@dataclass(frozen=True, slots=True)
class Sought:
    """What a search found.

    Attributes:
        choice: The levels; their time by the table is within the budget.
        evaluations: How many models were judged.
        fitness: Of `choice`.
        fitness_dp: Of the levels with the least sum of losses, from which every search starts.
    """

    choice: Choice
    evaluations: int
    fitness: float
    fitness_dp: float


@dataclass(frozen=True, slots=True)
class Searching:
    """How to search.

    Attributes:
        method: spdy or evopress.
        evaluations: Most models that are judged.
        seed: Draws candidates.
        harm: Unit -> width, to how bad the whole model is.
    """

    method: Search
    evaluations: int
    seed: int
    harm: Callable[[Mapping[str, int]], float]


def search_levels(
    options: Mapping[str, Sequence[Level]], table_ms: float, how: Searching, known: MutableMapping[str, float]
) -> Sought:
    """Search levels within a time by the table.

    Args:
        options: Unit -> levels, the dense one first, each faster than the one before.
        table_ms: Most milliseconds by the table.
        how: Method, evaluations, seed and judge.
        known: Fitness values of an interrupted search; new ones are added.

    Raises:
        BudgetInfeasibleError: Even the fastest levels take longer.
    """
    problem = problem_of(options, table_ms)

    def fitness(levels: Levels) -> float:
        return how.harm({name: options[name][index].width for name, index in levels.items()})

    tally = Tally(fitness, how.evaluations, known)
    start = problem.additive()
    fitness_dp = tally.value(start)
    method = spdy if how.method == "spdy" else evopress
    found = start if how.method == "dp" else method(problem, tally, how.seed)
    choice = Choice({name: options[name][index] for name, index in found.items()})
    return Sought(choice, tally.evaluations, tally.value(found), fitness_dp)
