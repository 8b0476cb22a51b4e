"""Which pictures may not straddle a split: those of one place, of one burst, and copies.

A model learns the background with the animal. Frames of one camera, and still more of one burst, in the shots and in
the evaluation make it look better than it will be at a new place.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from taco.errors import TaskError
from taco.options import SplitBy
from taco.pictures.duplicates import HASH_BYTES, Labels, exact_copies, labels_of, near_copies, sets_of, together
from taco.pictures.facts import Facts
from taco.pictures.listing import LabelledPicture, View

Level = Literal["location", "sequence", "image"]
#: How a level is called in messages.
PLACE: Mapping[Level, str] = {"location": "place", "sequence": "burst", "image": "picture"}
#: A frame that follows the one before it by no more than this belongs to its burst.
BURST_S = 60.0
#: Locations are known when at least this share of the pictures has one.
_NEARLY_ALL = 0.9
#: Pictures alike at more places than this are not one picture that got about, they are all dark, foggy or white.
_MOST_PLACES = 3


@dataclass(frozen=True, slots=True, eq=False)
class Copies:
    """Copies among pictures.

    Attributes:
        exact: Labels of files with the same bytes.
        near: Labels of pictures of nearly the same look.
    """

    exact: Labels
    near: Labels


def find_copies(pictures: Sequence[LabelledPicture], facts: Mapping[View, Facts]) -> Copies:
    """Compare all pictures with each other.

    Raises:
        TaskError: A file is no longer there.
    """
    hashes = np.array([list(facts[p.view].phash) for p in pictures], np.uint8).reshape(len(pictures), HASH_BYTES)
    return Copies(exact_copies([p.path for p in pictures]), near_copies(hashes))


def sequences(pictures: Sequence[LabelledPicture], facts: Mapping[View, Facts]) -> Labels:
    """Label pictures by the sequence that the source names, else by bursts of one folder, else by file."""
    keys: list[object] = [("file", p.path) for p in pictures]
    timed: dict[object, list[tuple[float, int]]] = defaultdict(list)
    for position, p in enumerate(pictures):
        taken = p.taken if p.taken is not None else facts[p.view].taken
        if p.sequence is not None:
            keys[position] = ("sequence", p.location, p.sequence)
        elif taken is not None:
            timed[p.location, p.path.parent].append((taken, position))
    for place, moments in timed.items():
        burst, before = 0, -np.inf
        for taken, position in sorted(moments):
            burst += taken - before > BURST_S
            before = taken
            keys[position] = ("burst", place, burst)
    return labels_of(keys)


def groups_at(level: Level, pictures: Sequence[LabelledPicture], facts: Mapping[View, Facts], copies: Copies) -> Labels:
    """Label pictures by what has one role: a place, burst or file with all copies of its pictures."""
    files = labels_of([p.path for p in pictures])
    if level == "image":
        return together(files, copies.exact, copies.near)
    bursts = sequences(pictures, facts)
    if level == "sequence":
        return together(files, bursts, copies.exact, copies.near)
    places = labels_of([p.location or burst for p, burst in zip(pictures, bursts.tolist(), strict=True)])
    near = copies.near.copy()
    for members in sets_of(copies.near).values():
        if len(set(places[members].tolist())) > _MOST_PLACES:
            near[members] = copies.near.max() + 1 + np.array(members)  # labels that nothing else has
    return together(files, places, copies.exact, near)


def levels_told(pictures: Sequence[LabelledPicture], facts: Mapping[View, Facts]) -> tuple[Level, ...]:
    """Return the levels at which the task can be divided, from the coarsest."""
    located = [p.location for p in pictures if p.location is not None]
    told: list[Level] = []
    if len(set(located)) > 1 and len(located) >= _NEARLY_ALL * len(pictures):
        told.append("location")
    bursts = len(np.unique(sequences(pictures, facts)))
    if any(p.sequence is not None for p in pictures) or bursts < len({p.path for p in pictures}):
        told.append("sequence")
    return (*told, "image")


def choose_level(
    pictures: Sequence[LabelledPicture], facts: Mapping[View, Facts], copies: Copies, asked: SplitBy, evaluated: bool
) -> tuple[Level, Labels, list[str]]:
    """Choose what may not straddle the split.

    Args:
        pictures: The task's.
        facts: Of each of them.
        copies: Among them.
        asked: By the person; auto takes the coarsest level that leaves most classes something to be evaluated on.
        evaluated: Whether the evaluation comes from elsewhere, so that nothing has to be left for it.

    Returns:
        The level, the group of each picture, and warnings.

    Raises:
        TaskError: Locations are asked for and none is known.
    """
    if asked == "location" and all(p.location is None for p in pictures):
        what = "--split-by location: the task does not tell where its pictures were taken"
        raise TaskError(what, "Give a CSV with a column location, a COCO-CameraTraps JSON, or use --split-by sequence")
    warnings: list[str] = []
    levels: Iterable[Level] = levels_told(pictures, facts) if asked == "auto" else (asked,)
    for level in levels:
        groups = groups_at(level, pictures, facts, copies)
        places: dict[int, set[int]] = defaultdict(set)
        for picture, group in zip(pictures, groups.tolist(), strict=True):
            places[picture.label_index].add(group)
        single = sum(len(of_class) == 1 for of_class in places.values())
        if asked != "auto" or level == "image" or evaluated or 2 * single < len(places):
            break
        warnings.append(
            f"not split by {level}: {single} of {len(places)} classes have pictures of one {PLACE[level]} only, which "
            "leaves none to evaluate them on"
        )
    return level, groups, warnings
