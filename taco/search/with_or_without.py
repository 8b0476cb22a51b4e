"""A choice with blocks left out beside one by widths alone, where nothing is measured: the select pictures decide."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from taco.errors import BudgetInfeasibleError
from taco.latency.levels import Choice, Drops
from taco.search.limiting import Searched
from taco.search.probes import Probed


def with_or_without(
    search: Callable[[Drops], Searched], drops: Drops, harm: Callable[[Choice], float], probed: Probed
) -> tuple[Searched, dict[str, Any] | None]:
    """Search with blocks that may be left out, and where some are, without.

    Args:
        search: Blocks that may be left out -> what is found.
        drops: All of them.
        harm: Choice -> change of the answers.
        probed: What leaving out each block alone did.

    Returns:
        The less harmful, and what the report tells of blocks; None where none could be left out.

    Raises:
        BudgetInfeasibleError: Neither holds the budget.
    """
    first = search(drops)
    taken = [name for name in drops if first.choices[0].widths.get(name) == 0]
    told: dict[str, Any] = {"offered": {n: probed.dropped[n] for n in drops}, "taken": taken}
    if not taken:
        return first, told if drops else None
    told["harm_with"] = own = harm(first.choices[0])
    try:
        second = search({})
    except BudgetInfeasibleError:  # only without some blocks it is fast enough
        return first, told
    told["harm_without"] = other = harm(second.choices[0])
    return (first, told) if own <= other else (second, {**told, "taken": []})
