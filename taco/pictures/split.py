"""A task: pictures divided into those to learn from, those to choose on, and those to evaluate on.

Every choice is made on the select shots, the evaluation pictures serve the report only (ARCHITECTURE section 8).
Pictures of one place (or burst, where places are not known) and copies have one role. Which pictures become shots
depends on the seed and the pictures, never on the order of a list or on where the folder lies. Where nothing but copies
holds pictures together, a class's shots do not depend on the other classes, and asking for more keeps the earlier ones.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from taco.errors import TaskError
from taco.options import SplitBy
from taco.pictures.drawing import Drawn, draw, lots_of
from taco.pictures.duplicates import Labels, labels_of, sets_of, together
from taco.pictures.facts import Facts
from taco.pictures.groups import PLACE, Copies, Level, choose_level, find_copies, groups_at, sequences
from taco.pictures.listing import LabelledPicture, Listing, Skipped, View
from taco.wording import nearest, some

_Pictures = tuple[LabelledPicture, ...]
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SplitOptions:
    """How to divide.

    Attributes:
        shots: Pictures a class.
        seed: Draws them.
        split_by: What may not straddle the split; auto is the coarsest that the task tells.
        evaluation: What to evaluate on; None takes what the shots leave.
    """

    shots: int = 16
    seed: int = 0
    split_by: SplitBy = "auto"
    evaluation: Listing | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """Readable pictures divided into fit, select and evaluation.

    Attributes:
        name: Of the source.
        classes: In the order of their indices.
        fit: To learn from.
        select: To choose on.
        evaluation: To report on.
        skipped: What could not be used, and why.
        warnings: What a person should know.
        split_by: What has one role.
        held_back: Pictures used for nothing, because their place, burst or copy is among the shots.
        duplicates: Files that are copies or near copies of another one.
        written: The classes as the source writes them (`Empty` for `blank`); nothing where just so.
    """

    name: str
    classes: tuple[str, ...]
    fit: _Pictures
    select: _Pictures
    evaluation: _Pictures
    skipped: tuple[Skipped, ...] = ()
    warnings: tuple[str, ...] = ()
    split_by: Level = "image"
    held_back: int = 0
    duplicates: int = 0
    written: tuple[str, ...] = ()


def split(
    listing: Listing, facts: Mapping[View, Facts], options: SplitOptions, skipped: Iterable[Skipped] = ()
) -> Task:
    """Divide the readable pictures of a listing, seeded.

    Args:
        listing: All pictures.
        facts: Of every view, of `listing` and of `options.evaluation`, that can be decoded.
        options: Shots, seed, what may not straddle, and where the evaluation pictures come from.
        skipped: Why the others cannot; passed on, with those that have the bytes of a picture of another class.

    Raises:
        TaskError: If a class has fewer than two readable pictures, an evaluation label is unknown, a file is gone, or
            locations are asked for and not known.
    """
    if options.shots < 2:
        raise TaskError(f"{options.shots} shots a class are too few", "Ask for at least 2: one to fit, one to select")
    classes, elsewhere = listing.classes, options.evaluation
    pictures, copies, contradicting = _usable(listing.pictures, classes, facts)
    _check_counts(pictures, classes)
    level, groups, warnings = choose_level(pictures, facts, copies, options.split_by, elsewhere is not None)
    drawn = _draw(pictures, groups, level, classes, options)
    fit, select = (tuple(pictures[p] for of_class in part for p in of_class) for part in (drawn.fit, drawn.select))
    if elsewhere is None:
        evaluation, held_back = _left(pictures, groups, drawn, level)
        warnings += _straddling((*fit, *select), evaluation, facts, level, options.split_by)
    else:
        candidates, _, more = _usable(_relabel(elsewhere, classes), classes, facts)
        contradicting += more
        evaluation = _without_shots(candidates, pictures, (*fit, *select), facts)
        held_back = len(candidates) - len(evaluation)
        warnings += _elsewhere((*fit, *select), evaluation, held_back)
    duplicates, told = _told_copies(pictures, copies)
    task = Task(listing.name, classes, fit, select, evaluation, (*skipped, *contradicting), (), level, held_back)
    warnings = [*listing.warnings, *(elsewhere.warnings if elsewhere else ()), *warnings, *told]
    warnings += _shortages(task, Counter(p.label_index for p in pictures), options.shots, drawn.inside)
    return dataclasses.replace(task, warnings=tuple(warnings), duplicates=duplicates, written=listing.written)


def _usable(
    listed: Iterable[LabelledPicture], classes: Sequence[str], facts: Mapping[View, Facts]
) -> tuple[_Pictures, Copies, list[Skipped]]:
    """Keep what is readable and has one label, in an order that depends on nothing but the pictures."""
    readable = sorted((p for p in listed if p.view in facts), key=lambda p: (p.label_index, p.path, p.box or ()))
    copies = find_copies(readable, facts)
    against: dict[int, LabelledPicture] = {}
    same = labels_of([(content, p.box) for content, p in zip(copies.exact.tolist(), readable, strict=True)])
    for members in sets_of(same).values():
        one_of = {readable[member].label_index: readable[member] for member in reversed(members)}
        if len(one_of) > 1:
            for position in members:
                label = readable[position].label_index
                against[position] = next(other for index, other in sorted(one_of.items()) if index != label)
    skipped = [
        Skipped(
            readable[position].path,
            f"the same picture as {other.path}, which has the label {classes[other.label_index]!r}: one must be wrong",
        )
        for position, other in sorted(against.items())
    ]
    kept = [position for position in range(len(readable)) if position not in against]
    return tuple(readable[p] for p in kept), Copies(copies.exact[kept], copies.near[kept]), skipped


def _check_counts(pictures: _Pictures, classes: Sequence[str]) -> None:
    counts = Counter(p.label_index for p in pictures)
    for index, name in enumerate(classes):
        if counts[index] < 2:
            what = f"class {name!r} has {counts[index]} readable pictures, at least 2 are needed"
            raise TaskError(what, "Add pictures to it, or leave it out with --classes")


def _draw(pictures: _Pictures, groups: Labels, level: Level, classes: Sequence[str], options: SplitOptions) -> Drawn:
    group_of = groups.tolist()
    positions: list[list[int]] = [[] for _ in classes]
    for position, picture in enumerate(pictures):
        positions[picture.label_index].append(position)
    lots = [lots_of(name, of, group_of, options.seed) for name, of in zip(classes, positions, strict=True)]
    return draw(lots, options.shots, spare=options.evaluation is None, whole=level != "image")


def _left(pictures: _Pictures, groups: Labels, drawn: Drawn, level: Level) -> tuple[_Pictures, int]:
    """Return the pictures of untouched groups, and how many are of neither side."""
    shots = [position for part in (*drawn.fit, *drawn.select) for position in part]
    untouched = np.flatnonzero(~np.isin(groups, groups[shots]))
    # Where nothing but copies holds pictures together, the pictures are counted and not their groups.
    counts = [len(side if level == "image" else np.unique(groups[side])) for side in (shots, untouched)]
    _log.info("split by %s: %d %ss for the shots, %d for the evaluation", level, counts[0], PLACE[level], counts[1])
    return tuple(pictures[p] for p in untouched), len(pictures) - len(shots) - len(untouched)


def _relabel(evaluation: Listing, classes: Sequence[str]) -> _Pictures:
    for name in evaluation.classes:
        if name not in classes:
            raise TaskError(f"evaluation class {name!r} is not a class of the task", nearest(name, classes))
    index_of = [classes.index(name) for name in evaluation.classes]
    return tuple(dataclasses.replace(p, label_index=index_of[p.label_index]) for p in evaluation.pictures)


def _without_shots(
    candidates: _Pictures, pictures: _Pictures, shots: _Pictures, facts: Mapping[View, Facts]
) -> _Pictures:
    """Leave out what is a copy of a shot, or of the sequence of one, be it over other pictures of the task."""
    both = (*pictures, *candidates)
    groups = groups_at("sequence", both, facts, find_copies(both, facts))
    views = {shot.view for shot in shots}
    taken = groups[[position for position, p in enumerate(pictures) if p.view in views]]
    apart = ~np.isin(groups[len(pictures) :], taken)
    return tuple(p for p, stays in zip(candidates, apart, strict=True) if stays)


def _elsewhere(shots: _Pictures, evaluation: _Pictures, left_out: int) -> Iterable[str]:
    if left_out:
        yield (
            f"{left_out} evaluation pictures are copies of shots, or of their bursts, "
            "and were left out of the evaluation"
        )
    yield from _straddling_places(shots, evaluation)


def _straddling_places(shots: _Pictures, evaluation: _Pictures) -> Iterable[str]:
    places = {p.location for p in shots} - {None}
    if same := sum(p.location in places for p in evaluation):
        yield (
            "pictures of the same place are both among the shots and in the evaluation "
            f"({same} of {len(evaluation)} evaluation pictures): the accuracy may be that of recognising the place"
        )


def _straddling(
    shots: _Pictures, evaluation: _Pictures, facts: Mapping[View, Facts], level: Level, asked: SplitBy
) -> Iterable[str]:
    """Say what a finer split than the task allows lets through."""
    if level == "location":
        return
    if places := list(_straddling_places(shots, evaluation)):
        yield places[0] + ("" if asked == "auto" else "; use --split-by location")
        return
    if level == "image":
        bursts = sequences((*shots, *evaluation), facts)
        if same := int(np.isin(bursts[len(shots) :], bursts[: len(shots)]).sum()):
            yield (
                "pictures of the same burst are both among the shots and in the evaluation "
                f"({same} of {len(evaluation)} evaluation pictures): the accuracy may be that of recognising the scene"
            ) + ("" if asked == "auto" else "; use --split-by sequence")


def _told_copies(pictures: _Pictures, copies: Copies) -> tuple[int, list[str]]:
    """Count the files that have a copy, and name a few."""
    files = [
        list(dict.fromkeys(pictures[p].path for p in members))
        for members in sets_of(together(copies.exact, copies.near)).values()
    ]
    several = [paths for paths in files if len(paths) > 1]
    if not several:
        return 0, []
    count = sum(map(len, several))
    named = [" = ".join(f"{path.parent.name}/{path.name}" for path in paths[:2]) for paths in several]
    return count, [f"{count} pictures are copies or near copies of another one and stay together: {some(named, 3)}"]


def _shortages(task: Task, usable: Mapping[int, int], shots: int, inside: Sequence[str]) -> Iterable[str]:
    drawn = Counter(p.label_index for p in (*task.fit, *task.select))
    few = [(f"{name} ({drawn[i]})", drawn[i] < usable[i]) for i, name in enumerate(task.classes) if drawn[i] < shots]
    if all_used := [name for name, some_left in few if not some_left]:
        yield f"fewer readable pictures than the {shots} shots asked, all of them used: {some(all_used)}"
    place = PLACE[task.split_by]
    if kept := [name for name, some_left in few if some_left]:
        yield f"fewer than the {shots} shots asked, because a {place} is left for the evaluation: {some(kept)}"
    if inside:
        what = "that are copies of each other" if task.split_by == "image" else f"of one {place} only"
        yield f"shots {what}, so choices are made on pictures like those learnt from: {some(inside)}"
    evaluated = {picture.label_index for picture in task.evaluation}
    if none := [name for index, name in enumerate(task.classes) if index not in evaluated]:
        advice = "" if task.split_by == "image" else f"; give pictures of another {place}, or --eval"
        yield f"no picture left for evaluation: {some(none)}{advice}"
