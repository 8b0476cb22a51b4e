"""What every unit may become: its widths with what each loses and what each takes on a device, or gone with its block.

A width that buys no measured time is not offered: between two neighbours on one stair of the staircase only the wider
one counts, and a width in between is interpolated only where the step down is larger than what measuring can tell.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

from taco.allocation.distribute import BUCKETS, Instead, distribute
from taco.latency.table import Cell, Source, UnitCells
from taco.latency.together import Joined, Together, total_ms

#: At most so many levels a unit.
MOST_LEVELS = 32
#: A step down must be larger than this share of the time, however narrow the intervals are.
_LEAST_GAIN = 0.005
#: Fastest runs of interleaved models repeat within 1 % (RUNTIMES.md, Measuring).
_LEAST_GAIN_OF_FASTEST = 0.02
#: Of a time, what sums and differences of its parts may be off by.
_ROUNDING = 1e-12


@dataclasses.dataclass(frozen=True, slots=True)
class Level:
    """One width of one unit.

    Attributes:
        width: Channels or heads kept; 0 where the block that holds them is left out.
        loss: What it costs, see `taco.latency.losses`; 0 at the dense width.
        ms: What the block that holds the unit takes. Where multiply-accumulates are the budget, millions of them.
        source: Where `ms` comes from.
    """

    width: int
    loss: float
    ms: float
    source: Source


@dataclasses.dataclass(frozen=True, slots=True)
class Drop:
    """A residual block that may be left out, with all units in it.

    Attributes:
        units: Those whose levels it stands in place of.
        loss: What it costs.
        dense_ms: What the block takes.
        source: Where `dense_ms` comes from.
        left_ms: What still counts when it is gone: the table holds the block's time once for every unit in it, or for
            all that share layers, and leaving it out saves a share of it, once (`taco.latency.wholes.saved_share`).
    """

    units: tuple[str, ...]
    loss: float
    dense_ms: float
    source: Source
    left_ms: float = 0.0


#: Block -> what leaving it out means.
Drops = Mapping[str, Drop]


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """One level for every unit.

    Attributes:
        levels: Unit -> its level; block that is left out -> a level of width 0, as its units have.
        left_ms: What the blocks that are left out still count, see `Drop`.
        together: Units that share layers.
    """

    levels: Mapping[str, Level]
    left_ms: float = 0.0
    together: tuple[Together, ...] = ()

    @property
    def widths(self) -> dict[str, int]:
        """Unit -> width."""
        return {name: level.width for name, level in self.levels.items()}

    @property
    def table_ms(self) -> float:
        """Sum of what the table says; of units that share layers the product of shares."""
        alone_ms = {name: level.ms for name, level in self.levels.items() if level.width}
        return total_ms(alone_ms, self.together) + self.left_ms

    @property
    def loss(self) -> float:
        """Sum of the losses."""
        return math.fsum(level.loss for level in self.levels.values())


def levels_of(unit: UnitCells, losses: Mapping[int, float], step: int) -> list[Level]:
    """Return the levels of a unit, the widest first; each is faster than the one before.

    Args:
        unit: Its cells.
        losses: Width -> loss, for all widths that may be kept.
        step: Kept widths are multiples of this; the dense width may be another.
    """
    dense = unit.cells[0]
    levels = [Level(dense.width, losses[dense.width], dense.p50_ms, dense.source)]
    for wide, narrow in _stairs(unit.cells):
        for width in _between(narrow.width, wide.width, step, losses):
            cell = unit.at(width)
            levels.append(Level(width, losses[width], cell.p50_ms, cell.source))
    return _thinned(levels)


def choose(
    options: Mapping[str, Sequence[Level]],
    table_ms: float,
    buckets: int = BUCKETS,
    drops: Drops | None = None,
    together: tuple[Together, ...] = (),
) -> Choice:
    """Return the levels with the least loss whose times by the table sum up to at most `table_ms`.

    That is the exact optimum, but for groups with more than `MOST_JOINTS` combinations that are worth taking.

    Args:
        options: Unit -> levels.
        table_ms: What they may take together.
        buckets: Resolution.
        drops: Blocks that may be left out.
        together: Units that share layers.

    Raises:
        BudgetInfeasibleError: Even the fastest levels take longer.
    """
    joined = Joined.of({name: [(x.loss, x.ms) for x in own] for name, own in options.items()}, together)
    drops = drops or {}
    problem = joined.problem(table_ms, buckets)
    # what is left of a time after differences of others is uncertain by their rounding
    costs, budget, instead = dict(problem.costs), problem.budget + _ROUNDING * table_ms, {}
    for name, drop in drops.items():
        items = joined.items_of(drop.units)
        saved = math.fsum(joined.least_ms(item) for item in items) - drop.left_ms
        if saved > 0:  # it takes less than its narrowest units: costs count from there
            budget += saved
            costs[items[0]] = [cost + saved for cost in costs[items[0]]]
        instead[name] = Instead(items, drop.loss, max(0.0, -saved))
    chosen = distribute(problem.losses, costs, budget, buckets, instead)
    gone = {name: 0 for name in drops if name in chosen}
    return _choice(options, drops, joined.taken(chosen) | gone, together)


def fastest(
    options: Mapping[str, Sequence[Level]], drops: Drops | None = None, together: tuple[Together, ...] = ()
) -> Choice:
    """Return the fastest level of every unit; a block that takes less when it is left out is."""
    chosen = {name: min(range(len(own)), key=lambda i: own[i].ms) for name, own in options.items()}
    for name, drop in (drops or {}).items():
        alone_ms = {unit: options[unit][chosen[unit]].ms for unit in drop.units}
        if drop.left_ms < total_ms(alone_ms, together):
            chosen = {unit: index for unit, index in chosen.items() if unit not in drop.units} | {name: 0}
    return _choice(options, drops or {}, chosen, together)


def _choice(
    options: Mapping[str, Sequence[Level]], drops: Drops, chosen: Mapping[str, int], together: tuple[Together, ...]
) -> Choice:
    """Turn indices into levels; of a block that is left out its units are there too, with width 0."""
    gone = {name: drop for name, drop in drops.items() if name in chosen}
    levels: dict[str, Level] = {}
    for name, own in options.items():
        block = next((drop for drop in gone.values() if name in drop.units), None)
        levels[name] = own[chosen[name]] if block is None else Level(0, 0.0, 0.0, block.source)
    levels |= {name: Level(0, drop.loss, 0.0, drop.source) for name, drop in gone.items()}
    return Choice(levels, math.fsum(drop.left_ms for drop in gone.values()), together)


def dense(options: Mapping[str, Sequence[Level]], together: tuple[Together, ...] = ()) -> Choice:
    """Return the dense width of every unit."""
    return Choice({name: levels[0] for name, levels in options.items()}, together=together)


def _stairs(cells: Sequence[Cell]) -> Iterator[tuple[Cell, Cell]]:
    """Yield (last width of a stair, first width of the next one down), in falling widths."""
    held, last = cells[0], cells[0]
    for cell in cells[1:]:
        if _faster(cell, held):
            yield last, cell
            held = cell
        last = cell


def _faster(cell: Cell, held: Cell) -> bool:
    """Return whether a cell is surely faster: by its interval, or by its fastest run, which bursts cannot touch."""
    noise = max(_LEAST_GAIN, (held.spread + cell.spread) / 4)
    if cell.p50_ms < held.p50_ms * (1 - noise):
        return True
    lower = cell.min_ms < held.min_ms * (1 - _LEAST_GAIN_OF_FASTEST)
    return lower and cell.p50_ms < held.p50_ms * (1 - _LEAST_GAIN)


def _between(narrow: int, wide: int, step: int, losses: Mapping[int, float]) -> Iterator[int]:
    """Yield the widths from below `wide` down to `narrow`."""
    inner = range((wide - 1) // step * step, narrow, -step)
    yield from (width for width in inner if width in losses)
    yield narrow


def _thinned(levels: Sequence[Level]) -> list[Level]:
    """Keep what is faster than all before it, and of too many those that were timed first, then an even choice."""
    faster: list[Level] = []
    for level in levels:
        if not faster or level.ms < faster[-1].ms:
            faster.append(level)
    spare = MOST_LEVELS - sum(level.source == "measured" for level in faster)
    between = [level for level in faster if level.source != "measured"]
    if len(between) <= spare:
        return faster
    kept = {between[int((i + 0.5) * len(between) / spare)].width for i in range(spare)}
    return [level for level in faster if level.source == "measured" or level.width in kept]
