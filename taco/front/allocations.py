"""Widths for a few speeds, chosen in three ways from one latency table: ours, one ratio for all, and MACs for time.

All three aim at the same time by the same table, so that what differs is how the time is spent. Where sizes of pictures
compete, ours is there twice for each speed, with the size that seems to harm least and with the model's own, which the
other two keep. Nothing here is measured: the whole models are, afterwards.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

import numpy as np

from taco.allocate import Allocation
from taco.allocation.distribute import distribute
from taco.errors import BudgetInfeasibleError
from taco.latency.rounds import Line
from taco.latency.together import total_ms
from taco.progress import Progress
from taco.search.latency_ladder import settle
from taco.search.latency_search import LatencySearcher, Offered
from taco.search.size_ladder import Competing
from taco.search.size_loop import SizeLoop
from taco.search.unit_losses import allocation_of
from taco.units import Unit, steps_of

#: Shares of the MACs that are tried for one time, evenly in their logarithm.
_SHARES = 48


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """One allocation.

    Attributes:
        kind: The way it was chosen.
        speedup: What it aims at, by the table.
        allocation: The widths.
        at: Which of the sizes of pictures it is for, see `taco.steps.sizes.Sizes.every`.
        words: That size, where several have the same aim.
    """

    kind: Literal["ours", "uniform", "macs"]
    speedup: float
    allocation: Allocation
    at: int = 0
    words: str = ""

    @property
    def name(self) -> str:
        """Of the point."""
        return "-".join(filter(None, (self.kind, f"{self.speedup:g}x", self.words)))


def asked_allocations(
    loop: LatencySearcher,
    units: Sequence[Unit],
    speedups: Iterable[float],
    own_ms: float,
    progress: Progress,
) -> list[Asked]:
    """Return the allocations of all speeds, each set of widths once a way.

    Args:
        loop: Knows what may be chosen.
        units: Of the model, with their MACs.
        speedups: Dense time over the time to aim at.
        own_ms: What that dense model takes: the loop's own, or that for another size of pictures.
        progress: Told about profiling and probing.
    """
    offered = loop.offered(progress)
    line = Line.through(offered.space.dense().table_ms, loop.dense_ms, loop.dense_ms / offered.table.dense_ms)
    by_macs = list(_by_macs(loop, units, offered))
    found: list[Asked] = []
    for speedup in sorted(speedups):
        table_ms = line.invert(own_ms / speedup)
        try:
            choice = settle(loop, offered, table_ms, progress).choice
        except BudgetInfeasibleError:
            choice = offered.space.fastest()
        found += [
            Asked("ours", speedup, allocation_of(loop.searcher, choice)),
            Asked("uniform", speedup, _first_within(loop.searcher.uniform, offered, table_ms)),
            Asked("macs", speedup, _first_within(by_macs, offered, table_ms)),
        ]
    return [asked for asked in _distinct(found) if asked.allocation.ratio < 1]


def over_sizes(loops: Sequence[SizeLoop], speedups: Iterable[float], progress: Progress) -> list[Asked]:
    """Return ours for all speeds where sizes of pictures compete: for each the size and the widths that harm least.

    Args:
        loops: One for each size, the model's own first; a smaller one may be taken without cutting anything.
        speedups: Time of the dense model for its own size over the time to aim at.
        progress: Told about a search of whole models.
    """
    found, competing = [], Competing(loops, progress)
    for speedup in sorted(speedups):
        at, settled = competing.least_harm(loops[0].whole_ms / speedup)
        found.append(Asked("ours", speedup, allocation_of(loops[at].loop.searcher, settled.choice), at))
    return [asked for asked in _distinct(found) if asked.at or asked.allocation.ratio < 1]


def beside_own_size(chosen: Sequence[Asked], own: Sequence[Asked], words: Sequence[str]) -> list[Asked]:
    """Return what was chosen over all sizes, and for the model's own what does not aim at the same.

    Args:
        chosen: From `over_sizes`.
        own: From `asked_allocations`, for the model's own size.
        words: The sizes, for people.
    """
    taken = {one.speedup for one in chosen if one.at == 0}
    every = [*chosen, *(one for one in own if one.kind != "ours" or one.speedup not in taken)]
    named = [dataclasses.replace(one, words=words[one.at]) if one.kind == "ours" else one for one in every]
    return _distinct(named)


def _distinct(found: Iterable[Asked]) -> list[Asked]:
    kept: dict[object, Asked] = {}
    for asked in found:
        kept.setdefault((asked.kind, asked.at, tuple(sorted(asked.allocation.widths.items()))), asked)
    return [*kept.values()]


def table_ms_of(widths: Mapping[str, int], offered: Offered) -> float:
    """Return what the table says of widths, over the units that were timed."""
    alone_ms = {name: offered.table.units[name].at(widths[name]).p50_ms for name in offered.space.options}
    return total_ms(alone_ms, offered.space.together)


def _first_within(rungs: Sequence[Allocation], offered: Offered, table_ms: float) -> Allocation:
    """Return the first allocation within a time, the widest first; the last where there is none."""
    return next((rung for rung in rungs if table_ms_of(rung.widths, offered) <= table_ms), rungs[-1])


def _by_macs(loop: LatencySearcher, units: Sequence[Unit], offered: Offered) -> Iterator[Allocation]:
    """Yield the least losses for falling shares of the MACs: what a person does who has no clock."""
    steps = steps_of(units, loop.searcher.bench.target.channel_multiple)
    widths = {
        u.name: [u.width, *range((u.width - 1) // steps[u.name] * steps[u.name], 0, -steps[u.name])] for u in units
    }
    losses = {
        name: [offered.losses[name].at(width, offered.chosen.currency) for width in kept]
        for name, kept in widths.items()
    }
    macs = {u.name: [float(u.macs * width) for width in widths[u.name]] for u in units}
    whole, least = (math.fsum(pick(costs) for costs in macs.values()) for pick in (max, min))
    dense_width = sum(u.width for u in units)
    for budget in np.geomspace(whole, least, _SHARES):
        chosen = distribute(losses, macs, float(budget) * (1 + 1e-9))
        kept = {name: widths[name][index] for name, index in chosen.items()}
        yield Allocation(sum(kept.values()) / dense_width, kept)
