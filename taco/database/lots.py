"""Which layers are solved together: what is in memory at a time is bounded, and the cores should not wait."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def lots_of(layers: Sequence[str], size: Mapping[str, int], cost: Mapping[str, float], budget: int) -> list[list[str]]:
    """Divide layers into lots of a bounded size, the first lot that has room for each, the costliest layers first.

    So the longest jobs begin first, and the lot that holds them is filled up with shorter ones, which keep the other
    cores busy while the last of the long ones ends (first-fit decreasing; Johnson 1973).

    Args:
        layers: Names.
        size: Bytes of each.
        cost: How long each takes beside the others, in any unit.
        budget: Bytes of a lot. A layer beyond it has a lot of its own.

    Returns:
        The lots, none empty; each is in descending order of cost.
    """
    lots: list[list[str]] = []
    room: list[int] = []
    for layer in sorted(layers, key=lambda name: (-cost[name], layers.index(name))):
        for number, left in enumerate(room):
            if size[layer] <= left:
                lots[number].append(layer)
                room[number] -= size[layer]
                break
        else:
            lots.append([layer])
            room.append(budget - size[layer])
    return lots
