"""The levels of all units for a time by the table, found by the method that was asked: their sum alone, or a search."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace

from taco.latency.evopress import evopress
from taco.latency.levels import Choice, Level, choose
from taco.latency.limits import Space
from taco.latency.problem import Levels, Problem, Tally
from taco.latency.spdy import spdy
from taco.latency.together import Together, total_ms
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
    begin = _indices(free, start)

    def choice_of(levels: Levels) -> Choice:
        return replace(start, levels={**start.levels, **{name: free[name][index] for name, index in levels.items()}})

    def fitness(levels: Levels) -> float:
        return how.harm(choice_of(levels).widths)

    problem = _Timed.of(free, table_ms - start.left_ms, space.together)
    if space.limits:
        problem = replace(problem, fits=lambda levels: space.holds(choice_of(levels)))
    tally = Tally(fitness, how.evaluations, known)
    fitness_dp = tally.value(begin)
    method = spdy if how.method == "spdy" else evopress
    found = begin if how.method == "dp" else method(problem, tally, how.seed, begin)
    return Sought(choice_of(found), tally.evaluations, tally.value(found), fitness_dp)


@dataclass(frozen=True, kw_only=True)
class _Timed(Problem):
    """The problem of choosing levels within a time by the table, in which units that share layers do not add up."""

    options: Mapping[str, Sequence[Level]]
    together: tuple[Together, ...]

    @staticmethod
    def of(options: Mapping[str, Sequence[Level]], table_ms: float, together: tuple[Together, ...]) -> _Timed:
        losses = {name: [level.loss for level in own] for name, own in options.items()}
        costs = {name: [level.ms for level in own] for name, own in options.items()}
        return _Timed(losses=losses, costs=costs, budget=table_ms, options=options, together=together)

    def cost(self, levels: Levels) -> float:
        return total_ms({name: self.costs[name][index] for name, index in levels.items()}, self.together)

    def additive(self, weights: Mapping[str, float] | None = None) -> dict[str, int]:
        def weighted(name: str, level: Level) -> Level:
            return level if weights is None else replace(level, loss=weights[name] * level.loss)

        options = {name: [weighted(name, level) for level in own] for name, own in self.options.items()}
        return _indices(options, choose(options, self.budget, self.buckets, together=self.together))


def _indices(options: Mapping[str, Sequence[Level]], choice: Choice) -> dict[str, int]:
    return {n: [level.width for level in own].index(choice.levels[n].width) for n, own in options.items()}
