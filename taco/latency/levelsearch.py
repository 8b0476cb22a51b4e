"""The levels of all units for a time by the table, found by the method that was asked: their sum alone, or a search."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, replace

from taco.latency.evopress import evopress
from taco.latency.levels import Choice, join
from taco.latency.limits import Space
from taco.latency.problem import Levels, Tally
from taco.latency.spdy import spdy
from taco.options import Search


@dataclass(frozen=True, slots=True)
class Sought:
    """What a search found.

    Attributes:
        choice: The levels; within the time by the table and all limits.
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
        harm: Unit or block -> width, to how bad the whole model is; a block that is left out and what is in it have 0.
    """

    method: Search
    evaluations: int
    seed: int
    harm: Callable[[Mapping[str, int]], float]


def search_levels(
    space: Space, table_ms: float, start: Choice, how: Searching, known: MutableMapping[str, float]
) -> Sought:
    """Search the widths of units within a time by the table; blocks stay or go as they do in `start`.

    Args:
        space: What may be chosen, and what holds beside the time.
        table_ms: Most milliseconds by the table.
        start: What `space.choose` returns for so many milliseconds; every search begins with it.
        how: Method, evaluations, seed and judge.
        known: Fitness values of an interrupted search with the same blocks left out; new ones are added.
    """
    free = {name: own for name, own in space.options.items() if start.levels[name].width}
    at = {n: [level.width for level in own].index(start.levels[n].width) for n, own in free.items()}
    joined = join(free, space.together, at)
    begin = joined.index_of(at)

    def choice_of(levels: Levels) -> Choice:
        own = {name: free[name][index] for name, index in joined.taken(levels).items()}
        return replace(start, levels={**start.levels, **own})

    def fitness(levels: Levels) -> float:
        return how.harm(choice_of(levels).widths)

    problem = joined.problem(table_ms - start.left_ms)
    if space.limits:
        problem = replace(problem, fits=lambda levels: space.holds(choice_of(levels)))
    tally = Tally(fitness, how.evaluations, known)
    fitness_dp = tally.value(begin)
    method = spdy if how.method == "spdy" else evopress
    found = begin if how.method == "dp" else method(problem, tally, how.seed, begin)
    return Sought(choice_of(found), tally.evaluations, tally.value(found), fitness_dp)
