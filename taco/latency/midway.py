"""Choices that lie between two whole models that were measured, one too slow and one faster than it has to be.

What a choice takes beside what the table says of it differs from choice to choice by some per cent, because cells are
taken alone and whatever seems fast by chance is liked. Between two choices whose time is known only what they differ in
is open: every other level stays, and every unit's width lies between its two. No torch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence

from taco.errors import BudgetInfeasibleError
from taco.latency.levels import Choice, Drop, Level
from taco.latency.limits import Space


@dataclasses.dataclass(frozen=True, slots=True)
class Aim:
    """What a choice should take.

    Attributes:
        table_ms: By the table, at most.
        between: Two choices of the same way that were measured, the slower one first; None where there are none on
            both sides of what is asked.
    """

    table_ms: float
    between: tuple[Choice, Choice] | None = None


def midway(space: Space, aim: Aim, tried: Collection[Mapping[str, int]]) -> Choice | None:
    """Return the choice with the least loss between the two of an aim; None without them or where nothing new is.

    Limits beside the budget are not looked at by these two, so where there are any this is not done.

    Args:
        space: Everything that may be chosen.
        aim: What it may take.
        tried: Widths of what was measured already.
    """
    if aim.between is None or space.limits:
        return None
    try:
        choice = space.own(_between(space, *aim.between).choose(aim.table_ms))
    except BudgetInfeasibleError:
        return None
    return None if choice.widths in tried else choice


def _between(space: Space, slower: Choice, faster: Choice) -> Space:
    """Return what may be chosen between two choices; blocks that both leave out stay out."""
    options = {name: _levels(own, _width(slower, name), _width(faster, name)) for name, own in space.options.items()}
    surely = 1.0 + math.fsum(max(level.loss for level in own) for own in options.values())

    def drop(name: str) -> Drop:
        offered = space.drops[name]
        return dataclasses.replace(offered, loss=-surely) if _gone(slower, name) and _gone(faster, name) else offered

    drops = {name: drop(name) for name in space.drops if _gone(slower, name) or _gone(faster, name)}
    return Space(options, drops, together=space.together)


def _levels(own: Sequence[Level], one: int, other: int) -> Sequence[Level]:
    """Return the levels between two widths; of a unit whose block goes in one choice only that of the other."""
    low, high = sorted((one, other))
    if low == 0 and high > 0:
        low = high
    return [level for level in own if low <= level.width <= high] or own[-1:]


def _width(choice: Choice, name: str) -> int:
    return choice.levels[name].width


def _gone(choice: Choice, block: str) -> bool:
    return block in choice.levels
