"""One level for every unit under a common budget: the exact optimum of a sum of losses (METHOD.md 7; SPDY, ICML 2022).

A dynamic programme over buckets of cost. Costs are rounded up, so that the result never exceeds the budget. Units that
can go together (all that lies in a residual block) are one group: their levels, or what stands in place of them all.
That keeps the optimum exact, because groups share no unit. No torch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from taco.errors import BudgetInfeasibleError

BUCKETS = 10_000
#: More buckets than there ever are.
_BEYOND = 2.0**53


@dataclasses.dataclass(frozen=True, slots=True)
class Instead:
    """What can be taken in place of several units together: their block is left out.

    Attributes:
        units: Those that go; each in one such group at most.
        loss: In place of the sum of theirs.
        cost: The same.
    """

    units: tuple[str, ...]
    loss: float
    cost: float


def distribute(
    losses: Mapping[str, Sequence[float]],
    costs: Mapping[str, Sequence[float]],
    budget: float,
    buckets: int = BUCKETS,
    instead: Mapping[str, Instead] | None = None,
) -> dict[str, int]:
    """Choose a level for every unit so that the losses' sum is least and the costs' sum within the budget.

    Args:
        losses: Unit -> loss of each of its levels.
        costs: Unit -> cost of each of its levels, at least 0, in the budget's unit.
        budget: What all together may cost.
        buckets: Resolution: costs count in steps of budget / buckets, rounded up.
        instead: Name -> what may be taken in place of some units.

    Returns:
        Unit -> index of its level; of `instead` the names that were taken -> 0, and their units then are missing. Where
        rounding up alone makes it infeasible, the cheapest choice everywhere.

    Raises:
        BudgetInfeasibleError: Even the cheapest levels cost more.
    """
    instead = instead or {}
    cheapest = _cheapest(losses, costs, instead)
    least = sum(instead[name].cost if name in instead else costs[name][index] for name, index in cheapest.items())
    if least > budget * (1 + 1e-12):
        raise BudgetInfeasibleError(f"a budget of {budget:g} cannot be reached: the least is {least:g}", "Ask for more")
    step = budget / buckets
    if not losses or step <= 0:
        return cheapest
    whole = _Whole(losses, {name: [_steps(c, step) for c in own] for name, own in costs.items()}, buckets)
    groups = _groups(losses, instead)
    for units, name in groups:
        whole.add(units, name, instead[name].loss if name else 0.0, _steps(instead[name].cost, step) if name else 0)
    if not math.isfinite(whole.best[-1]):
        return cheapest
    return whole.trace(groups, {name: _steps(found.cost, step) for name, found in instead.items()})


class _Whole:
    """The least loss within every number of buckets, and how it comes about."""

    def __init__(self, losses: Mapping[str, Sequence[float]], steps: Mapping[str, Sequence[int]], buckets: int) -> None:
        self.losses, self.steps = losses, steps
        self.best = np.zeros(buckets + 1)
        self.taken: dict[str, npt.NDArray[np.int32]] = {}
        self.gone: dict[str, npt.NDArray[np.bool_]] = {}

    def add(self, units: Sequence[str], name: str, loss: float, cost: int) -> None:
        """Add a group: units, and under `name`, unless it is empty, what may be taken in place of them."""
        before = self.best
        for unit in units:
            self.best, self.taken[unit] = _add(self.best, self.losses[unit], self.steps[unit])
        if name:
            other, _ = _add(before, [loss], [cost])
            self.gone[name] = other < self.best
            self.best = np.minimum(self.best, other)

    def trace(self, groups: Sequence[tuple[tuple[str, ...], str]], costs: Mapping[str, int]) -> dict[str, int]:
        """Return the choice behind the last bucket."""
        chosen: dict[str, int] = {}
        left = len(self.best) - 1
        for units, name in reversed(groups):
            if name and self.gone[name][left]:
                chosen[name] = 0
                left -= costs[name]
                continue
            for unit in reversed(units):
                chosen[unit] = int(self.taken[unit][left])
                left -= self.steps[unit][chosen[unit]]
        return {name: chosen[name] for name in (*self.losses, *costs) if name in chosen}


def _groups(losses: Mapping[str, object], instead: Mapping[str, Instead]) -> list[tuple[tuple[str, ...], str]]:
    """Return (units, what may be taken in place of them or ""), every unit once."""
    grouped = {unit for found in instead.values() for unit in found.units}
    alone = [((unit,), "") for unit in losses if unit not in grouped]
    return [*alone, *((found.units, name) for name, found in instead.items())]


def _steps(cost: float, step: float) -> int:
    """Return how many buckets a cost takes; of a tiny budget a division may overflow, which only means too many."""
    return math.ceil(min(cost / step * (1 - 1e-12), _BEYOND))


def _cheapest(
    losses: Mapping[str, Sequence[float]], costs: Mapping[str, Sequence[float]], instead: Mapping[str, Instead]
) -> dict[str, int]:
    """Return the cheapest choice everywhere, of several the one with the least loss."""
    pairs = {name: list(zip(costs[name], losses[name], strict=True)) for name in losses}
    chosen = {name: found.index(min(found)) for name, found in pairs.items()}
    for name, found in instead.items():
        own = [min(pairs[unit]) for unit in found.units]
        if (found.cost, found.loss) < (sum(cost for cost, _ in own), sum(loss for _, loss in own)):
            chosen = {unit: index for unit, index in chosen.items() if unit not in found.units} | {name: 0}
    return chosen


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
