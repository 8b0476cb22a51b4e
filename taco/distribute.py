"""One level for every unit under a common budget: the exact optimum of a sum of losses (METHOD.md 7; SPDY, ICML 2022).

A dynamic programme over buckets of cost. Costs are rounded up, so that the result never exceeds the budget. No torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from taco.errors import BudgetInfeasibleError

BUCKETS = 10_000


def distribute(
    losses: Mapping[str, Sequence[float]], costs: Mapping[str, Sequence[float]], budget: float, buckets: int = BUCKETS
) -> dict[str, int]:
    """Choose a level for every unit so that the losses' sum is least and the costs' sum within the budget.

    Args:
        losses: Unit -> loss of each of its levels.
        costs: Unit -> cost of each of its levels, at least 0, in the budget's unit.
        budget: What all together may cost.
        buckets: Resolution: costs count in steps of budget / buckets, rounded up.

    Returns:
        Unit -> index of its level. Where rounding up alone makes it infeasible, the cheapest level everywhere.

    Raises:
        BudgetInfeasibleError: Even the cheapest levels cost more.
    """
    least = sum(min(options) for options in costs.values())
    if least > budget * (1 + 1e-12):
        raise BudgetInfeasibleError(f"a budget of {budget:g} cannot be reached: the least is {least:g}", "Ask for more")
    units = list(losses)
    if not units:
        return {}
    step = budget / buckets
    if step <= 0:
        return _cheapest(losses, costs)
    taken = np.zeros((len(units), buckets + 1), np.int32)
    best = np.zeros(buckets + 1)
    for i, name in enumerate(units):
        steps = [math.ceil(cost / step * (1 - 1e-12)) for cost in costs[name]]
        best, taken[i] = _add(best, losses[name], steps)
    if not math.isfinite(best[-1]):
        return _cheapest(losses, costs)
    chosen, left = {}, buckets
    for i in range(len(units) - 1, -1, -1):
        name, level = units[i], int(taken[i, left])
        chosen[name] = level
        left -= math.ceil(costs[name][level] / step * (1 - 1e-12))
    return {name: chosen[name] for name in units}


def _cheapest(losses: Mapping[str, Sequence[float]], costs: Mapping[str, Sequence[float]]) -> dict[str, int]:
    """Return the cheapest level of every unit, of several the one with the least loss."""
    pairs = {name: list(zip(costs[name], losses[name], strict=True)) for name in losses}
    return {name: found.index(min(found)) for name, found in pairs.items()}


def _add(
    best: npt.NDArray[np.float64], losses: Sequence[float], steps: Sequence[int]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int32]]:
    """Add one unit: the least loss within every number of buckets, and the level that gives it."""
    table = np.full((len(losses), len(best)), np.inf)
    for level, (loss, cost) in enumerate(zip(losses, steps, strict=True)):
        if cost < len(best):
            table[level, cost:] = best[: len(best) - cost] + loss
    choice = table.argmin(0).astype(np.int32)
    return table.min(0), choice
