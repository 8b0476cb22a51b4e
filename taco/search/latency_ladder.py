"""The ladder of `--max-drop` where the device decides: the best levels for every time that the model might take.

Blocks that may be left out compete with widths on every rung. Where some are, the rung is chosen without them too, and
the select pictures decide, as in the loop for a budget.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from taco.latency.levels import Choice, Drops
from taco.latency.levelsearch import Sought
from taco.progress import Progress
from taco.search.ladder import Ladder, Rung
from taco.search.latency_search import LatencySearcher, Offered, levels_as_json, profile_as_json
from taco.search.limiting import Searched
from taco.search.unit_losses import allocation_of
from taco.search.with_or_without import with_or_without

#: Steps from the dense model to the fastest of all, evenly in the logarithm of the table's time.
_RUNGS = 48
#: Points that are lost for each nat of the units' summed losses, after a candidate's recovery: 160 to 240 on one model
#: (docs/adr/0019). Where other models lose otherwise, the first step that is asked about lies further off.
_POINTS_A_NAT = 200.0
#: Of the dense model's time: nothing is faster, though a table from which whole blocks are left out may say so.
LEAST = 0.02


@dataclasses.dataclass(frozen=True, slots=True)
class Settled:
    """The levels for one time by the table.

    Attributes:
        choice: The levels.
        sought: What a search of whole models found; None without one.
        blocks: What the report tells of blocks; None where none could be left out.
    """

    choice: Choice
    sought: Sought | None
    blocks: Mapping[str, Any] | None


def settle(loop: LatencySearcher, offered: Offered, table_ms: float, progress: Progress) -> Settled:
    """Return the levels for a time: with blocks left out or without, then searched where that is asked.

    Args:
        loop: Knows the pictures and what the run holds.
        offered: What may be chosen; nothing is limited but time.
        table_ms: Most milliseconds by the table.
        progress: Told about a search.

    Raises:
        BudgetInfeasibleError: Even the fastest levels take longer.
    """
    space, drops = offered.space, offered.space.drops

    def choose(blocks: Drops) -> Searched:
        return Searched((dataclasses.replace(space, drops=blocks).choose(table_ms),), ())

    found, blocks = with_or_without(choose, drops, loop.harm, offered.probed)
    choice = found.choices[0]
    if loop.how.search == "dp":
        return Settled(choice, None, blocks)
    kept = drops if any(name in choice.levels for name in drops) else {}
    with progress.step("search the levels of whole models"):
        sought = loop.search(dataclasses.replace(space, drops=kept), table_ms)
    return Settled(sought.choice, sought, blocks)


def latency_ladder(loop: LatencySearcher, progress: Progress) -> Ladder:
    """Return the best choices from the dense model down to the fastest of all; searched where that is asked.

    Args:
        loop: Knows the pictures and what the run holds.
        progress: Told about what takes time.
    """
    offered = loop.offered(progress)
    space = offered.space
    choices, times = [space.dense()], [0.0]
    quickest_ms = max(space.fastest().table_ms, LEAST * choices[0].table_ms)
    for table_ms in np.geomspace(choices[0].table_ms, quickest_ms, _RUNGS)[1:]:
        choice = space.choose(float(table_ms) * (1 + 1e-9))
        if choice.widths != choices[-1].widths:
            choices.append(choice)
            times.append(float(table_ms) * (1 + 1e-9))

    @functools.cache
    def rung(index: int) -> Rung:
        settled = settle(loop, offered, times[index], progress) if index else top(offered)
        return rung_of(loop, offered, settled)

    return Ladder([choice.loss for choice in choices], rung, rate=_POINTS_A_NAT)


def as_given(offered: Offered, choice: Choice) -> Settled:
    """Return levels that were not searched here as if they had been settled here."""
    drops = offered.space.drops
    taken = [name for name in drops if name in choice.levels]
    told = {"offered": {name: offered.probed.dropped[name] for name in drops}, "taken": taken}
    return Settled(choice, None, told if drops else None)


def top(offered: Offered) -> Settled:
    """Return the dense model, from which nothing is left out."""
    return as_given(offered, offered.space.dense())


def rung_of(loop: LatencySearcher, offered: Offered, settled: Settled, at: int = 0) -> Rung:
    """Return a step of a ladder with what the report tells of it.

    Args:
        loop: Knows the units.
        offered: What could be chosen.
        settled: What was.
        at: See `Rung`.
    """
    told = {
        "budget_ms": None,
        "rounds": [],
        "limits": [],
        "profile": profile_as_json(offered.table, offered.space.options),
        "currency": dataclasses.asdict(offered.chosen),
        "blocks": settled.blocks,
        "search": loop.told(settled.sought),
        "allocation": levels_as_json(offered.space, settled.choice),
    }
    return Rung(allocation_of(loop.searcher, settled.choice), told, at)
