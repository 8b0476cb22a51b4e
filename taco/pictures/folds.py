"""Shots in parts that are held out in turn, so that every one of them tells something of what was cut without it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from taco.pictures.facts import Facts
from taco.pictures.groups import find_copies, groups_at
from taco.pictures.listing import View
from taco.pictures.split import Task

Positions = NDArray[np.int64]


def shot_groups(task: Task, facts: Mapping[View, Facts]) -> Positions:
    """Return labels of what has one role among a task's shots, (n,), those to fit on first.

    Args:
        task: Divided into shots and evaluation.
        facts: Of every shot.
    """
    shots = (*task.fit, *task.select)
    return groups_at(task.split_by, shots, facts, find_copies(shots, facts)).astype(np.int64)


def fold_shots(task: Task, facts: Mapping[View, Facts], most: int, seed: int) -> tuple[Positions, ...]:
    """Divide a task's shots, what has one role (a place, a burst, copies) kept together, classes spread evenly.

    Args:
        task: Divided into shots and evaluation.
        facts: Of every shot.
        most: Parts at most.
        seed: Draws which group comes first among equals.

    Returns:
        Places among the shots (those to fit on first), ascending; as many parts as there are groups where these are
        fewer than `most`, so one part where all shots are of one group.
    """
    groups = shot_groups(task, facts)
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    drawn = [members[i] for i in np.random.default_rng(seed).permutation(len(members))]
    parts: list[list[int]] = [[] for _ in range(min(most, len(members)))]
    held = np.zeros((len(parts), len(task.classes)), np.int64)
    labels = np.array([shot.label_index for shot in (*task.fit, *task.select)])
    for group in sorted(drawn, key=len, reverse=True):
        own = np.bincount(labels[group], minlength=len(task.classes))
        part = min(range(len(parts)), key=lambda at: (int(held[at] @ own), int(held[at].sum()), at))
        parts[part] += group.tolist()
        held[part] += own
    return tuple(np.sort(np.array(part, np.int64)) for part in parts)
