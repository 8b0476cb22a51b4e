"""Levels switched between units as long as the whole model becomes better, within the budget.

O. Sieberling, D. Kuznedelev, E. Kurtic, D. Alistarh, "EvoPress: Accurate dynamic model compression via evolutionary
search", ICML 2025: one parent, a few children a generation, each made by a few switches that give to one unit what they
take from others; the best child follows when it is better. There every child is judged on few samples first; here the
select pictures are so few that all are judged on all of them. Levels differ in cost, so a switch takes from as many
units as it needs, and what is left of the budget is given away.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from taco.latency.problem import Problem, Tally

OFFSPRING = 4
_MOST_SWITCHES = 3
#: Levels that one switch moves at once; fine levels would need many generations one by one.
_STRIDES = (1, 1, 2, 4)
#: Children for each evaluation: some are known already, or cannot be paid for.
_TRIES = 10


def evopress(problem: Problem, tally: Tally, seed: int, start: dict[str, int] | None = None) -> dict[str, int]:
    """Evolve levels until the evaluations are used up or nothing new is found.

    Args:
        problem: What may be chosen.
        tally: Judges levels; at least one evaluation must be left.
        seed: Draws switches.
        start: Levels that are allowed; None takes those with the least sum of losses.

    Returns:
        Unit -> index of its level, allowed; never worse than `start`.

    Raises:
        BudgetInfeasibleError: Even the cheapest levels cost more.
    """
    rng = np.random.default_rng(seed)
    parent = problem.additive() if start is None else dict(start)
    least = tally.value(parent)
    for _ in range(max(1, _TRIES * tally.left // OFFSPRING)):
        children = []
        for _ in range(OFFSPRING):
            child = _child(problem, parent, rng)
            if child is not None and not tally.knows(child) and tally.left > 0:
                children.append((tally.value(child), child))
        if children:
            value, child = min(children, key=lambda pair: pair[0])
            if value < least:
                parent, least = child, value
        if tally.left <= 0:
            break
    return parent


def _child(problem: Problem, parent: dict[str, int], rng: np.random.Generator) -> dict[str, int] | None:
    """Return the parent with a few levels switched; None where the budget allows none of them."""
    child = dict(parent)
    switches = int(min(rng.integers(1, _MOST_SWITCHES + 1, 2)))
    given = [name for name in _shuffled(list(child), rng) if child[name] > 0][:switches]
    if not given:
        return None
    for name in given:
        child[name] = max(0, child[name] - int(rng.choice(_STRIDES)))
    if not _pay(problem, child, given, rng):
        return None
    _give_away(problem, child, parent, rng)
    return child


def _pay(problem: Problem, child: dict[str, int], given: Sequence[str], rng: np.random.Generator) -> bool:
    """Narrow other units, one after another, until the child is within the budget; False where that cannot be."""
    while not problem.allows(child):
        narrower = [n for n, i in child.items() if n not in given and i + 1 < len(problem.costs[n])]
        if not narrower:
            return False
        name = narrower[int(rng.integers(len(narrower)))]
        child[name] = min(len(problem.costs[name]) - 1, child[name] + int(rng.choice(_STRIDES)))
    return True


def _give_away(problem: Problem, child: dict[str, int], parent: dict[str, int], rng: np.random.Generator) -> None:
    """Widen units by a level where the budget has room; those that have just paid stay."""
    for name in _shuffled([n for n in child if child[n] <= parent[n]], rng):
        if child[name] > 0:
            child[name] -= 1
            if not problem.allows(child):
                child[name] += 1


def _shuffled(names: Sequence[str], rng: np.random.Generator) -> list[str]:
    return [names[i] for i in rng.permutation(len(names))]
