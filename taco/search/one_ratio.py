"""One ratio for all units as a choice of levels, to be compared with widths that were found unit by unit."""

from __future__ import annotations

from collections.abc import Callable

from taco.latency.from_widths import choice_of
from taco.latency.levels import Choice
from taco.latency.limits import Space
from taco.latency.table import LatencyTable
from taco.search.uniform import Searcher


def widest_of_one_ratio(
    searcher: Searcher,
    table: LatencyTable,
    space: Space,
    lost: Callable[[str, int], float],
    fits: Callable[[float], bool],
) -> Choice | None:
    """Return the widest choice of one ratio for all units whose time by the table fits.

    Args:
        searcher: Knows the ratios.
        table: Times of every unit.
        space: Only its units are cut.
        lost: Unit and width -> loss.
        fits: Sum of the table's milliseconds -> whether that is little enough.

    Returns:
        None where none is, or the table does not reach down so far.
    """
    for allocation in searcher.uniform[1:]:
        choice = choice_of(allocation.widths, table, space, lost)
        if choice is None:
            return None
        if fits(choice.table_ms):
            return choice
    return None
