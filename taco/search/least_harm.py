"""What a round of the loop measures: of the ways to spend one time by the table, the one that does least harm.

The ways are the least sum of losses with blocks left out, the same by widths alone, and one ratio for all units. Sums
of losses do not tell which is best (those of neighbouring blocks do not add up as those of widths); the select pictures
do.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

from taco.errors import BudgetInfeasibleError
from taco.latency.levels import Choice
from taco.latency.limits import Space
from taco.latency.midway import midway
from taco.latency.rounds import Within, next_best

WITH_BLOCKS, ALONE, ONE_RATIO = "with blocks left out", "by widths alone", "one ratio"

#: Most milliseconds by the table -> one ratio for all units; None where none fits.
OneRatio = Callable[[float], Choice | None]


@dataclasses.dataclass(eq=False)
class LeastHarm:
    """Chooses, and remembers what it compared.

    Attributes:
        space: What may be chosen unit by unit.
        harm: Choice -> how far it changes the answers, nats; asked only where there is something to compare.
        one_ratio: Another way; None looks at it not at all.
    """

    space: Space
    harm: Callable[[Choice], float]
    one_ratio: OneRatio | None = None
    _compared: list[dict[str, tuple[Choice, float]]] = dataclasses.field(default_factory=list)

    def __call__(self, within: Within, tried: Collection[Mapping[str, int]]) -> tuple[str, Choice] | None:
        """Return the way that does least harm within a time, of those not tried before; None where all were.

        Raises:
            LimitError: A limit beside the budget cannot be held.
        """
        known = (self.space.dense().widths, *tried)
        ways = {name: choice for name, choice in self._ways(within, known).items() if choice.widths not in known}
        if len(ways) < 2:
            return next(iter(ways.items()), None)
        harms = {name: (choice, self.harm(choice)) for name, choice in ways.items()}
        self._compared.append(harms)
        best = min(harms, key=lambda name: harms[name][1])
        return best, ways[best]

    def harms(self, choice: Choice) -> dict[str, float]:
        """Return what a choice was compared with when it was taken: way -> harm; empty where it was the only one."""
        for harms in self._compared:
            if min(harms.values(), key=lambda pair: pair[1])[0].widths == choice.widths:
                return {name: harm for name, (_, harm) in harms.items()}
        return {}

    def told(self, choice: Choice, offered: Mapping[str, float]) -> dict[str, Any]:
        """Return what the report tells: `blocks` (None where none could be left out), and `spread`, of one ratio.

        Args:
            choice: What was taken.
            offered: Blocks that could be left out -> change of the answers when each alone is.
        """
        harms = self.harms(choice)
        blocks: dict[str, Any] = {"offered": dict(offered), "taken": self.left_out(choice)}
        if WITH_BLOCKS in harms:
            blocks |= {"harm_with": harms[WITH_BLOCKS], "harm_without": harms.get(ALONE)}
        by_units = [harms[name] for name in (WITH_BLOCKS, ALONE) if name in harms]
        compared = by_units and ONE_RATIO in harms
        spread = {"unit by unit": min(by_units), ONE_RATIO: harms[ONE_RATIO]} if compared else {}
        return {"blocks": blocks if offered else None, "spread": spread}

    def left_out(self, choice: Choice) -> list[str]:
        """Return the blocks that a choice leaves out."""
        return [name for name in self.space.drops if name in choice.levels]

    def _ways(self, within: Within, known: Collection[Mapping[str, int]]) -> dict[str, Choice]:
        ways, alone = dict[str, Choice](), dataclasses.replace(self.space, drops={})
        if self.space.drops and self.left_out(first := next_best(self.space, within(WITH_BLOCKS), known)):
            ways[WITH_BLOCKS], aim = first, within(ALONE)
            with contextlib.suppress(BudgetInfeasibleError):  # it may be fast enough only without some blocks
                ways[ALONE] = midway(alone, aim, known) or alone.choose(aim.table_ms)
        else:
            ways[ALONE] = next_best(alone, within(ALONE), known)
        single = None if self.one_ratio is None else self.one_ratio(within(ONE_RATIO).table_ms)
        if single is not None and all(single.widths != choice.widths for choice in ways.values()):
            ways[ONE_RATIO] = single
        return ways
