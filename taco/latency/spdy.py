"""Weights of the units' losses, searched until the dynamic programme's answer is best as a whole model.

E. Frantar and D. Alistarh, "SPDY: Accurate pruning with speedup guarantees", ICML 2022: a unit's loss says how units
compare badly, so it is multiplied by a coefficient; coefficients are drawn at random, then the best ones are changed in
fewer and fewer places. Unlike there, plain losses (all coefficients 1) are the first candidate, so that the result is
never worse than the plain optimum of the sum.
"""

from __future__ import annotations

import numpy as np

from taco.latency.problem import Problem, Tally

#: Share of the evaluations that goes to coefficients drawn anew.
_RANDOM = 1 / 3
#: Share of the coefficients that is drawn again at first; at last it is one.
_CHANGED = 0.3
#: Dynamic programmes for each evaluation: many coefficients give the same levels.
_TRIES = 10


def spdy(problem: Problem, tally: Tally, seed: int, start: dict[str, int] | None = None) -> dict[str, int]:
    """Search coefficients until the evaluations are used up or nothing new is found.

    Args:
        problem: What may be chosen.
        tally: Judges levels; at least one evaluation must be left.
        seed: Draws coefficients.
        start: Levels that are allowed; None takes those with the least sum of losses.

    Returns:
        Unit -> index of its level, allowed; never worse than `start`.

    Raises:
        BudgetInfeasibleError: Even the cheapest levels cost more.
    """
    names, rng = list(problem.losses), np.random.default_rng(seed)
    best = np.ones(len(names))
    chosen = problem.additive() if start is None else dict(start)
    least, limit = tally.value(chosen), tally.left
    for _ in range(_TRIES * limit):
        used = 1 - tally.left / limit
        if used >= 1:
            break
        drawn = rng.uniform(0.0, 1.0, len(names))
        if used >= _RANDOM:
            share = _CHANGED * (1 - (used - _RANDOM) / (1 - _RANDOM))
            places = rng.permutation(len(names))[: max(1, round(share * len(names)))]
            kept = np.ones(len(names), bool)
            kept[places] = False
            drawn[kept] = best[kept]
        levels = problem.additive(dict(zip(names, drawn.tolist(), strict=True)))
        if tally.knows(levels) or not problem.allows(levels):
            continue
        value = tally.value(levels)
        if value < least:
            best, chosen, least = drawn, levels, value
    return chosen
