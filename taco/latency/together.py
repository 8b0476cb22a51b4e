"""Units of one block that share a layer: what their block takes is a product of shares, not a sum.

The table times a block with one of its units cut and all else dense. Of a layer that lies between two units (the 3x3
convolution of a bottleneck reads the channels of one and writes those of the other) each cell holds what that unit
alone saves, so the sum counts the layer's time twice, and what both save together is less. Work in such a layer goes
with the product of the widths; so the block is taken to keep, of its dense time, the product of the shares that it
keeps under each cut (docs/adr/0012: ResNet-50's rounds are predicted 3 instead of 10 % off). No torch.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from taco.allocation.distribute import BUCKETS
from taco.latency.problem import Problem

#: (loss, milliseconds) of every level of a unit, the dense one first.
Priced = Sequence[tuple[float, float]]
#: At most so many combinations of a group's levels are looked at; of more, an even choice by time.
MOST_JOINTS = 128


@dataclass(frozen=True, slots=True)
class Together:
    """Units that share layers, all in one block that the table holds once for each of them.

    Attributes:
        units: At least two.
        dense_ms: Unit -> what the block takes when all is dense, as it was timed beside this unit's cuts.
    """

    units: tuple[str, ...]
    dense_ms: Mapping[str, float]

    @property
    def whole_ms(self) -> float:
        """What the dense block takes."""
        return statistics.fmean(self.dense_ms.values())

    def ms(self, alone_ms: Mapping[str, float]) -> float:
        """Return what the block takes.

        Args:
            alone_ms: Unit -> what it takes with this unit's cut alone; units of other blocks do not matter.
        """
        return self.whole_ms * math.prod(alone_ms[name] / self.dense_ms[name] for name in self.units)


@dataclass(frozen=True, slots=True)
class Joint:
    """One level of every unit of a group.

    Attributes:
        indices: Of the levels, in the order of the group's units.
        loss: Sum of theirs.
        ms: What the block takes.
    """

    indices: tuple[int, ...]
    loss: float
    ms: float


def total_ms(alone_ms: Mapping[str, float], together: Iterable[Together] = ()) -> float:
    """Return what all units' blocks take: units that share layers count once, as a product.

    Args:
        alone_ms: Unit -> what its block takes with this unit's cut alone; without units of left out blocks.
        together: Units that share layers; of a group either all are there or none.
    """
    groups = [group for group in together if group.units[0] in alone_ms]
    shared = {name for group in groups for name in group.units}
    single = (ms for name, ms in alone_ms.items() if name not in shared)
    return math.fsum((*single, *(group.ms(alone_ms) for group in groups)))


def joints_of(levels: Sequence[Priced], group: Together) -> list[Joint]:
    """Return the combinations of a group's levels of which none loses less and takes no longer, the slowest first.

    Args:
        levels: Of every unit, in the order of the group's units.
        group: The units.

    Returns:
        At most `MOST_JOINTS`, the slowest and the fastest among them.
    """
    found = [Joint((), 0.0, group.whole_ms)]
    for name, own in zip(group.units, levels, strict=True):
        dense_ms = group.dense_ms[name]
        longer = [
            Joint((*joint.indices, index), joint.loss + loss, joint.ms * (ms / dense_ms))
            for joint in found
            for index, (loss, ms) in enumerate(own)
        ]
        found = _evenly(_unbeaten(longer))  # what is beaten here is beaten with whatever follows
    return found


@dataclass(frozen=True, eq=False)
class Joined:
    """The levels that a programme over sums may choose from: of units that share layers all together.

    Attributes:
        units: Name of an item -> its units; an item is called after the first of them.
        joints: Item -> what may be chosen.
    """

    units: Mapping[str, tuple[str, ...]]
    joints: Mapping[str, Sequence[Joint]]

    @staticmethod
    def of(options: Mapping[str, Priced], together: Iterable[Together]) -> Joined:
        """Join the levels of groups; every other unit is an item by itself.

        Args:
            options: Unit -> levels.
            together: Units that share layers.
        """
        groups = {group.units[0]: group for group in together if group.units[0] in options}
        within = {name for group in groups.values() for name in group.units}
        units, joints = dict[str, tuple[str, ...]](), dict[str, Sequence[Joint]]()
        for name, own in options.items():
            if name in groups:
                units[name] = groups[name].units
                joints[name] = joints_of([options[unit] for unit in units[name]], groups[name])
            elif name not in within:
                units[name] = (name,)
                joints[name] = [Joint((index,), loss, ms) for index, (loss, ms) in enumerate(own)]
        return Joined(units, joints)

    def problem(self, table_ms: float, buckets: int = BUCKETS) -> Problem:
        """Return the problem of choosing levels whose times by the table sum up to at most `table_ms`.

        Costs start at each item's fastest level, so that the programme's buckets are spent on what can be chosen.
        """
        floor = {name: self.least_ms(name) for name in self.joints}
        losses = {name: [joint.loss for joint in own] for name, own in self.joints.items()}
        costs = {name: [joint.ms - floor[name] for joint in own] for name, own in self.joints.items()}
        return Problem(losses, costs, table_ms - math.fsum(floor.values()), buckets)

    def least_ms(self, name: str) -> float:
        """Return what an item takes at least."""
        return min(joint.ms for joint in self.joints[name])

    def items_of(self, units: Sequence[str]) -> tuple[str, ...]:
        """Return the items that some units are, all of each."""
        return tuple(name for name, own in self.units.items() if own[0] in units)

    def taken(self, chosen: Mapping[str, int]) -> dict[str, int]:
        """Turn items and the indices of their joints into units and the indices of their levels."""
        return {
            unit: index
            for name, own in self.units.items()
            if name in chosen
            for unit, index in zip(own, self.joints[name][chosen[name]].indices, strict=True)
        }


def _unbeaten(joints: Iterable[Joint]) -> list[Joint]:
    """Return those of which none loses less and takes no longer, the slowest first; of equal losses all."""
    best, quickest = list[Joint](), math.inf
    for _, equals in itertools.groupby(sorted(joints, key=lambda joint: joint.loss), key=lambda joint: joint.loss):
        kept = [joint for joint in equals if joint.ms < quickest]
        quickest = min((quickest, *(joint.ms for joint in kept)))
        best += kept
    return sorted(best, key=_slowest_first)


def _slowest_first(joint: Joint) -> tuple[float, float, tuple[int, ...]]:
    return -joint.ms, joint.loss, joint.indices


def _evenly(joints: list[Joint]) -> list[Joint]:
    """Return at most so many, first and last among them."""
    if len(joints) <= MOST_JOINTS:
        return joints
    return [joints[round(i * (len(joints) - 1) / (MOST_JOINTS - 1))] for i in range(MOST_JOINTS)]
