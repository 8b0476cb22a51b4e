"""One level for every unit within a budget, judged by a function of all levels together, which need not be a sum.

`Problem` is what every search is given; `Tally` asks the judge, counts, and remembers. Searches are seeded and draw
nothing from what they are told but the values, so one that is begun again with the values of a killed one takes the
same way at once and goes on where that one stopped. No torch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, MutableMapping, Sequence

from taco.allocation.distribute import BUCKETS, distribute

#: Unit -> index of its level.
Levels = Mapping[str, int]
#: Levels -> how bad the whole model is; less is better.
Fitness = Callable[[Levels], float]

_ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """What may be chosen.

    Attributes:
        losses: Unit -> loss of each level, the dense one first.
        costs: Unit -> cost of each level, at least 0, falling with the index.
        budget: What all levels together may cost.
        buckets: Resolution of the dynamic programme.
        fits: Whether levels hold whatever else is limited; narrower levels must never use more.
    """

    losses: Mapping[str, Sequence[float]]
    costs: Mapping[str, Sequence[float]]
    budget: float
    buckets: int = BUCKETS
    fits: Callable[[Levels], bool] | None = None

    def cost(self, levels: Levels) -> float:
        """Return what levels cost together."""
        return math.fsum(self.costs[name][index] for name, index in levels.items())

    def allows(self, levels: Levels) -> bool:
        """Whether levels are within the budget and all limits."""
        if self.cost(levels) > self.budget * (1 + _ROUNDING) + _ROUNDING:
            return False
        return self.fits is None or self.fits(levels)

    def additive(self, weights: Mapping[str, float] | None = None) -> dict[str, int]:
        """Return the levels with the least sum of losses in the budget, each unit's multiplied by its weight.

        What else is limited does not count here: ask `allows`.

        Raises:
            BudgetInfeasibleError: Even the cheapest levels cost more.
        """
        losses = self.losses
        if weights is not None:
            losses = {name: [weights[name] * loss for loss in found] for name, found in losses.items()}
        return distribute(losses, self.costs, self.budget, self.buckets)


class Tally:
    """Asks for fitness, each combination of levels once.

    Args:
        fitness: The judge.
        limit: Most combinations that are asked for.
        known: Values of an earlier, interrupted search; new ones are added as soon as they are there. They count when
            they are asked for, so that the search that goes on ends like one that was never interrupted.
    """

    def __init__(self, fitness: Fitness, limit: int, known: MutableMapping[str, float] | None = None) -> None:
        self._fitness, self._limit = fitness, limit
        self._known: MutableMapping[str, float] = {} if known is None else known
        self._asked: set[str] = set()

    @property
    def evaluations(self) -> int:
        """How many different combinations were asked for."""
        return len(self._asked)

    @property
    def left(self) -> int:
        """How many more may be asked for."""
        return self._limit - self.evaluations

    def knows(self, levels: Levels) -> bool:
        """Whether this search has asked for a combination before."""
        return _name(levels) in self._asked

    def value(self, levels: Levels) -> float:
        """Return the fitness of a combination; one that is not finite counts as the worst of all."""
        name = _name(levels)
        if name not in self._known:
            found = self._fitness(levels)
            self._known[name] = found if math.isfinite(found) else math.inf
        self._asked.add(name)
        return self._known[name]


def _name(levels: Levels) -> str:
    return ",".join(str(levels[unit]) for unit in sorted(levels))
