"""What every unit may become: its widths with what each loses and what each takes on one device.

A width that buys no measured time is not offered: between two neighbours on one stair of the staircase only the wider
one counts, and a width in between is interpolated only where the step down is larger than what measuring can tell.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

from taco.distribute import BUCKETS
from taco.latency.problem import Problem
from taco.latency.table import Cell, Source, UnitCells

#: At most so many levels a unit.
MOST_LEVELS = 32
#: A step down must be larger than this share of the time, however narrow the intervals are.
_LEAST_GAIN = 0.005
#: Fastest runs of interleaved models repeat within 1 % (RUNTIMES.md, Measuring).
_LEAST_GAIN_OF_FASTEST = 0.02


@dataclasses.dataclass(frozen=True, slots=True)
class Level:
    """One width of one unit.

    Attributes:
        width: Channels or heads kept.
        loss: What it costs, see `taco.latency.losses`; 0 at the dense width.
        ms: What the block that holds the unit takes.
        source: Where `ms` comes from.
    """

    width: int
    loss: float
    ms: float
    source: Source


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """One level for every unit.

    Attributes:
        levels: Unit -> its level.
    """

    levels: Mapping[str, Level]

    @property
    def widths(self) -> dict[str, int]:
        """Unit -> width."""
        return {name: level.width for name, level in self.levels.items()}

    @property
    def table_ms(self) -> float:
        """Sum of what the table says."""
        return math.fsum(level.ms for level in self.levels.values())

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


def choose(options: Mapping[str, Sequence[Level]], table_ms: float, buckets: int = BUCKETS) -> Choice:
    """Return the levels with the least loss whose times by the table sum up to at most `table_ms`: the exact optimum.

    Raises:
        BudgetInfeasibleError: Even the fastest levels take longer.
    """
    chosen = problem_of(options, table_ms, buckets).additive()
    return Choice({name: options[name][index] for name, index in chosen.items()})


def problem_of(options: Mapping[str, Sequence[Level]], table_ms: float, buckets: int = BUCKETS) -> Problem:
    """Return the problem of choosing levels whose times by the table sum up to at most `table_ms`.

    Costs start at each unit's fastest level, so that the programme's buckets are spent on what can be chosen.
    """
    floor = {name: min(level.ms for level in levels) for name, levels in options.items()}
    losses = {name: [level.loss for level in levels] for name, levels in options.items()}
    costs = {name: [level.ms - floor[name] for level in levels] for name, levels in options.items()}
    return Problem(losses, costs, table_ms - math.fsum(floor.values()), buckets)


def fastest(options: Mapping[str, Sequence[Level]]) -> Choice:
    """Return the fastest level of every unit."""
    return Choice({name: min(levels, key=lambda level: level.ms) for name, levels in options.items()})


def dense(options: Mapping[str, Sequence[Level]]) -> Choice:
    """Return the dense width of every unit."""
    return Choice({name: levels[0] for name, levels in options.items()})


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
