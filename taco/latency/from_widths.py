"""Given widths as a choice of levels, so that they can be weighed against what was found unit by unit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from taco.errors import InputError
from taco.latency.levels import Choice, Level
from taco.latency.limits import Space
from taco.latency.table import LatencyTable


def choice_of(
    widths: Mapping[str, int], table: LatencyTable, space: Space, lost: Callable[[str, int], float]
) -> Choice | None:
    """Return given widths as levels, with what they take and lose.

    Args:
        widths: Unit -> width; a block -> 0 is left out. What is not named stays dense.
        table: Times of every unit.
        space: Only its units are cut, and only its blocks are left out.
        lost: Unit and width -> loss.

    Returns:
        None where the table does not reach down so far.
    """
    gone = {name: drop for name, drop in space.drops.items() if widths.get(name) == 0}
    inside = {unit: drop for drop in gone.values() for unit in drop.units}
    levels = {}
    for name, own in space.options.items():
        if name in inside:
            levels[name] = Level(0, 0.0, 0.0, inside[name].source)
            continue
        width = widths.get(name, own[0].width)
        try:
            cell = table.units[name].at(width)
        except InputError:
            return None
        levels[name] = Level(width, lost(name, width), cell.p50_ms, cell.source)
    levels |= {name: Level(0, drop.loss, 0.0, drop.source) for name, drop in gone.items()}
    return Choice(levels, math.fsum(drop.left_ms for drop in gone.values()), space.together)
