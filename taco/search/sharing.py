"""Which units of one block share a layer, so that what they save does not add up (`taco.latency.together`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from taco.latency.levels import Level
from taco.latency.table import LatencyTable
from taco.latency.together import Together
from taco.units import Unit


def together_of(
    options: Mapping[str, Sequence[Level]], table: LatencyTable, layers: Mapping[str, set[str]], model: nn.Module
) -> tuple[Together, ...]:
    """Return the groups of units that share layers and are timed with the same block around them.

    A stretch of a chain is timed for each of its units by itself, between other layers each time; those stay alone.

    Args:
        options: Unit -> levels.
        table: Says what was timed for each.
        layers: Unit -> names of the layers that shrink with it.
        model: Holds the blocks.
    """
    groups: list[list[str]] = []
    for name in options:
        holder = table.units[name].holder
        if isinstance(model.get_submodule(holder), nn.Sequential):
            continue
        near = [g for g in groups if any(_share(name, other, table, layers) for other in g)]
        groups = [g for g in groups if g not in near] + [[*(n for g in near for n in g), name]]
    return tuple(
        Together(tuple(group), {name: options[name][0].ms for name in group}) for group in groups if len(group) > 1
    )


def layers_of(unit: Unit) -> set[str]:
    """Return the names of the layers that shrink with a unit."""
    return {member.module for member in unit.members}


def _share(one: str, other: str, table: LatencyTable, layers: Mapping[str, set[str]]) -> bool:
    return table.units[one].holder == table.units[other].holder and not layers[one].isdisjoint(layers[other])
