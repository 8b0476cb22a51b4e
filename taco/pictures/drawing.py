"""Draw shots from groups of pictures, seeded, so that no group is on two sides.

A group (`taco.pictures.groups`) has one role over all classes. Ranks are hashes of the seed, the class's name and a
picture's position in its class: a generator's stream may change with the Python release, a hash does not.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

SELECT_SHARE = 0.25
#: Shots of a class come from so many groups where it has twice as many.
_SPREAD = 4


@dataclass(frozen=True, slots=True)
class Lots:
    """The pictures of a class in their groups; groups and pictures in seeded order."""

    name: str
    groups: Mapping[int, Sequence[int]]


@dataclass(frozen=True, slots=True)
class Drawn:
    """Positions of the shots, class by class, in the order drawn.

    Attributes:
        fit: To learn from.
        select: To choose on.
        inside: Names of the classes whose fit and select pictures share groups.
    """

    fit: tuple[tuple[int, ...], ...]
    select: tuple[tuple[int, ...], ...]
    inside: tuple[str, ...]


def lots_of(name: str, positions: Sequence[int], group_of: Sequence[int], seed: int) -> Lots:
    """Put the pictures of a class into seeded order.

    Args:
        name: Of the class.
        positions: Of its pictures, in an order that depends on nothing but the pictures.
        group_of: Group of the picture at each position.
        seed: Any whole number.
    """
    members: dict[int, list[tuple[bytes, int]]] = defaultdict(list)
    for number, position in enumerate(positions):
        rank = hashlib.sha256(f"{seed}\0{name}\0{number}".encode()).digest()
        members[group_of[position]].append((rank, position))
    order = sorted(members, key=lambda group: members[group][0])  # by its first picture: size gives no advantage
    return Lots(name, {group: [position for _, position in sorted(members[group])] for group in order})


def draw(classes: Sequence[Lots], shots: int, spare: bool, whole: bool) -> Drawn:
    """Draw at most `shots` pictures of each class and divide them.

    Args:
        classes: In any order; the draw does not depend on it.
        shots: Pictures a class.
        spare: Leave a group of every class that has two.
        whole: Take few groups whole; otherwise groups are a picture and its copies, and all are drawn from in turn.
    """
    taken = _take(classes, shots, spare) if whole else {group for lots in classes for group in lots.groups}
    drawn = [_in_turn([members for g, members in lots.groups.items() if g in taken])[:shots] for lots in classes]
    return _divide(classes, drawn)


def _in_turn(queues: Sequence[Sequence[int]]) -> list[int]:
    return [position for position in chain.from_iterable(zip_longest(*queues)) if position is not None]


def _by_groups(classes: Sequence[Lots]) -> list[Lots]:
    """Those with the fewest groups choose first: they have the least choice."""
    return sorted(classes, key=lambda lots: (len(lots.groups), lots.name))


def _take(classes: Sequence[Lots], shots: int, spare: bool) -> set[int]:
    """Choose the groups that shots are drawn from."""
    taken: set[int] = set()
    holders: dict[int, list[str]] = defaultdict(list)
    for lots in classes:
        for group in lots.groups:
            if len(lots.groups) > 1:
                holders[group].append(lots.name)
    left = {lots.name: len(lots.groups) for lots in classes}

    def take(group: int) -> None:
        taken.add(group)
        for name in holders[group]:
            left[name] -= 1

    for lots in _by_groups(classes):
        most = -(-shots // max(1, min(_SPREAD, len(lots.groups) // 2)))
        # One of two groups is left: not the one that has two pictures, as one to fit and one to select are needed.
        small_last = len(lots.groups) == 2
        order = sorted(lots.groups.items(), key=lambda item: small_last and len(item[1]) == 1)
        have = sum(min(most, len(members)) for group, members in order if group in taken)
        for group, members in order:
            if have >= shots:
                break
            if group not in taken and (not spare or all(left[name] > 1 for name in holders[group])):
                take(group)
                have += min(most, len(members))
        pictures = sum(len(members) for group, members in order if group in taken)
        for group, members in order:  # two shots come before the evaluation
            if pictures < 2 and group not in taken:
                take(group)
                pictures += len(members)
    return taken


def _divide(classes: Sequence[Lots], drawn: Sequence[Sequence[int]]) -> Drawn:
    group_of = {p: group for lots in classes for group, members in lots.groups.items() for p in members}
    counts = {lots.name: Counter(group_of[p] for p in shots) for lots, shots in zip(classes, drawn, strict=True)}
    chosen = _choose(counts)
    fit, select, inside = [], [], []
    for lots, shots in zip(classes, drawn, strict=True):
        apart = [p for p in shots if group_of[p] in chosen]
        if len(counts[lots.name]) == 1 or not 0 < len(apart) < len(shots):
            apart = list(shots[len(shots) - _wanted(len(shots)) :])
            inside.append(lots.name)
        select.append(tuple(apart))
        fit.append(tuple(p for p in shots if p not in set(apart)))
    return Drawn(tuple(fit), tuple(select), tuple(inside))


def _wanted(shots: int) -> int:
    return max(1, round(shots * SELECT_SHARE))


def _choose(counts: Mapping[str, Counter[int]]) -> set[int]:
    """Choose the groups whose shots are selected on; of every class in several groups, one stays to fit."""
    chosen: set[int] = set()
    several = {name: groups for name, groups in counts.items() if len(groups) > 1}
    holders: dict[int, list[str]] = defaultdict(list)
    for name, groups in several.items():
        for group in groups:
            holders[group].append(name)
    left = {name: groups.total() for name, groups in several.items()}

    def can_go(group: int, share: float) -> bool:
        """Tell whether every class keeps this share of its shots, and one, to fit."""
        return group not in chosen and all(
            left[name] - several[name][group] >= max(1, share * several[name].total()) for name in holders[group]
        )

    def choose(group: int) -> None:
        chosen.add(group)
        for name in holders[group]:
            left[name] -= several[name][group]

    for name, groups in sorted(several.items(), key=lambda item: (len(item[1]), item[0])):
        wanted = _wanted(groups.total())
        for share in (0.5, 0.0):
            for group in reversed(groups):  # the last drawn
                if groups[group] <= wanted - (groups.total() - left[name]) and can_go(group, share):
                    choose(group)
        if left[name] == groups.total() and (free := [g for g in reversed(groups) if can_go(g, 0.0)]):
            choose(min(free, key=lambda group: groups[group]))
    return chosen
