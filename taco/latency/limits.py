"""Limits beside the budget: bytes and multiply-accumulates that the chosen levels may have together.

The budget itself is met exactly (`taco.latency.levels.choose`). Every limit has a price: a level's loss grows by what
it uses at that price, and the price rises until the limit holds (Everett, 1963). A choice so found is the best one for
what it uses; between two prices a better one may be hidden, so single levels are raised at the end while all limits
hold. With one limit a choice is found whenever there is one. No torch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from taco.errors import BudgetInfeasibleError
from taco.latency.levels import Choice, Drop, Drops, Level, choose, dense, fastest
from taco.latency.together import Together

_SWEEPS, _HALVINGS, _RISES = 6, 24, 30


class LimitError(BudgetInfeasibleError):
    """A limit cannot be held within the budget."""


@dataclasses.dataclass(frozen=True, eq=False)
class Limit:
    """What the whole model may use of something that units use in proportion to their width.

    Attributes:
        flag: How a person asked for it.
        cap: At most so much.
        dense: What the dense model uses.
        per_channel: Unit -> what one channel uses.
        blocks: Block -> what all of it uses.
    """

    flag: str
    cap: float
    dense: float
    per_channel: Mapping[str, float]
    blocks: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def used(self, choice: Choice, options: Mapping[str, Sequence[Level]], drops: Drops) -> float:
        """Return what a choice uses."""
        return self.dense + math.fsum(self._saved(choice, options, drops))

    def _saved(self, choice: Choice, options: Mapping[str, Sequence[Level]], drops: Drops) -> list[float]:
        gone = [name for name in drops if name in choice.levels]
        inside = {unit for name in gone for unit in drops[name].units}
        narrowed = [
            self.per_channel[name] * (choice.levels[name].width - own[0].width)
            for name, own in options.items()
            if name not in inside
        ]
        return [*narrowed, *(-self.blocks[name] for name in gone)]


@dataclasses.dataclass(frozen=True, eq=False)
class Space:
    """Everything that may be chosen.

    Attributes:
        options: Unit -> levels, the dense one first.
        drops: Blocks that may be left out.
        limits: What holds beside the budget.
        together: Units that share layers, each in one group at most; all of a group lie in the same blocks.
    """

    options: Mapping[str, Sequence[Level]]
    drops: Drops = dataclasses.field(default_factory=dict)
    limits: tuple[Limit, ...] = ()
    together: tuple[Together, ...] = ()

    def dense(self) -> Choice:
        """Return the dense width of every unit."""
        return dense(self.options, self.together)

    def fastest(self) -> Choice:
        """Return the fastest of all; limits are not looked at."""
        return fastest(self.options, self.drops, self.together)

    def choose(self, table_ms: float) -> Choice:
        """Return the levels with the least loss found within `table_ms` and all limits; exact where none binds.

        Raises:
            BudgetInfeasibleError: Even the fastest levels take longer.
            LimitError: No choice was found that holds a limit; names it.
        """
        prices = [0.0] * len(self.limits)
        choice = self._at(table_ms, prices)
        for _ in range(_SWEEPS):
            broken = [k for k, limit in enumerate(self.limits) if self._over(choice, limit)]
            if not broken:
                return self._raised(choice, table_ms)
            for k in broken:
                prices[k], choice = self._price(table_ms, prices, k)
        names = " and ".join(f"{limit.flag} {limit.cap:g}" for limit in self.limits)
        raise LimitError(f"{names} cannot be held together", "Ask for more of one, or choose a smaller --model")

    def holds(self, choice: Choice) -> bool:
        """Whether a choice is below every limit by the prediction; times are not looked at."""
        return not any(self._over(choice, limit) for limit in self.limits)

    def _price(self, table_ms: float, prices: Sequence[float], k: int) -> tuple[float, Choice]:
        """Return the lowest price of one limit at which it holds, others as they are, and the choice there."""
        limit, low = self.limits[k], prices[k]
        losses = [level.loss for own in self.options.values() for level in own]
        high = max(2.0 * low, (max(losses, default=0.0) or 1.0) / limit.dense)
        for _ in range(_RISES):
            choice = self._at(table_ms, [*prices[:k], high, *prices[k + 1 :]])
            if not self._over(choice, limit):
                break
            low, high = high, 4.0 * high
        else:
            least = limit.used(choice, self.options, self.drops)
            raise LimitError(
                f"{limit.flag} {limit.cap:g} cannot be reached within the budget: the least found is {least:.4g}",
                f"Ask for {limit.flag} {1.01 * least:.3g} or more, or choose a smaller --model",
            )
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            found = self._at(table_ms, [*prices[:k], middle, *prices[k + 1 :]])
            if self._over(found, limit):
                low = middle
            else:
                high, choice = middle, found
        return high, choice

    def _at(self, table_ms: float, prices: Sequence[float]) -> Choice:
        """Return the best choice at some prices, with its own losses."""
        if not any(prices):
            return choose(self.options, table_ms, drops=self.drops, together=self.together)
        pairs = list(zip(prices, self.limits, strict=True))

        def dearer(name: str, level: Level) -> Level:
            return dataclasses.replace(
                level, loss=level.loss + math.fsum(p * x.per_channel[name] * level.width for p, x in pairs)
            )

        def emptied(name: str, drop: Drop) -> Drop:
            dense = {unit: self.options[unit][0].width for unit in drop.units}
            left = [p * (math.fsum(x.per_channel[u] * w for u, w in dense.items()) - x.blocks[name]) for p, x in pairs]
            return dataclasses.replace(drop, loss=drop.loss + math.fsum(left))

        options = {name: [dearer(name, level) for level in own] for name, own in self.options.items()}
        drops = {name: emptied(name, drop) for name, drop in self.drops.items()}
        return self.own(choose(options, table_ms, drops=drops, together=self.together))

    def own(self, choice: Choice) -> Choice:
        """Return a choice with the losses that its levels have here, where another space priced them otherwise."""
        levels = {}
        for name, level in choice.levels.items():
            if name in self.drops:
                levels[name] = dataclasses.replace(level, loss=self.drops[name].loss)
            else:
                levels[name] = next((own for own in self.options[name] if own.width == level.width), level)
        return dataclasses.replace(choice, levels=levels)

    def _raised(self, choice: Choice, table_ms: float) -> Choice:
        """Exchange single levels for ones that lose less while everything holds, the largest gain first."""
        if not self.limits:
            return choice
        while True:
            better: list[tuple[float, Choice]] = []
            for name, own in self.options.items():
                now = choice.levels[name]
                for level in own if now.width else ():
                    if level.loss < now.loss:
                        other = dataclasses.replace(choice, levels={**choice.levels, name: level})
                        if other.table_ms <= table_ms and self.holds(other):
                            better.append((now.loss - level.loss, other))
            if not better:
                return choice
            choice = max(better, key=lambda pair: pair[0])[1]

    def _over(self, choice: Choice, limit: Limit) -> bool:
        return limit.used(choice, self.options, self.drops) > limit.cap
