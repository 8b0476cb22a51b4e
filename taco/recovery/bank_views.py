"""Which views a teacher bank holds, and filling it: as many of each picture as minutes and a bound on size allow."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from torch import nn

from taco.device.images import Preprocessing
from taco.errors import TaskError
from taco.pictures.bank import read_views
from taco.pictures.listing import View
from taco.recovery.teacher_bank import BankWriter, Layout, TeacherBank
from taco.recovery.views import augmented_views

log = logging.getLogger(__name__)

#: Augmented views of a picture for every minute of recovery, within bounds.
VIEWS_A_MINUTE, VIEWS_LEAST, VIEWS_MOST = 4, 4, 16
#: A bank is never larger than this; fewer views are drawn instead.
BANK_BYTES = 2_000_000_000
#: Pictures that are in memory at a time while a bank is filled.
_CHUNK = 32


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """Pictures of one kind.

    Attributes:
        views: What is looked at.
        labels: The class of each, or `taco.recovery.teacher_bank.UNLABELLED`.
        total: How many augmented views are drawn of them all, as evenly as can be; which picture has one more than
            another is drawn with the seed.
    """

    views: Sequence[View]
    labels: Sequence[int]
    total: int


@dataclasses.dataclass(frozen=True, slots=True)
class DrawOptions:
    """How a bank is drawn.

    Attributes:
        seed: Draws crops.
        file: Where the bank lies; None keeps it in memory.
        bfloat16: Let the teacher answer in bfloat16.
    """

    seed: int
    file: Path | None = None
    bfloat16: bool = False


def plan_views(
    labelled: int, unlabelled: int, minutes: float, view_bytes: int, bank_bytes: int | None = None
) -> tuple[int, int]:
    """Choose how many views are drawn of the labelled pictures and of the frames without labels.

    They follow from minutes and pictures, not from the clock: a repeated run draws the same ones. Where not all that
    are wanted fit into the bank, frames without labels take at most half of the room.

    Args:
        labelled: Pictures to learn from.
        unlabelled: Frames without labels.
        minutes: Of recovery.
        view_bytes: Bytes of one view in the bank.
        bank_bytes: Of a whole bank at most; None is `BANK_BYTES`.
    """
    each = max(VIEWS_LEAST, min(VIEWS_MOST, round(VIEWS_A_MINUTE * minutes)))
    room = max(1, (bank_bytes or BANK_BYTES) // view_bytes)
    own, free = labelled * each, unlabelled * each
    free = min(free, max(room - own, room // 2))
    return min(own, room - free), free


def draw_bank(
    teacher: nn.Module,
    layout: Layout,
    preprocessing: Preprocessing,
    sources: Sequence[Source],
    how: DrawOptions,
    progress: Callable[[int], None] | None = None,
) -> TeacherBank:
    """Draw augmented views and ask the teacher about each, once.

    Args:
        teacher: The dense specialist, eval mode, channels_last.
        layout: Of the bank; its number of views is that of the sources.
        preprocessing: Of the teacher.
        sources: What to draw views of.
        how: Seed, file, arithmetic.
        progress: Called with the number of views of each batch when it is done.

    Raises:
        TaskError: There is no picture, or the disk has no room for the bank.
        UnreadableImageError: A picture is gone.
    """
    total = sum(source.total for source in sources)
    if not total:
        raise TaskError("there is no picture to ask the teacher about", "Give more pictures a class")
    sized = dataclasses.replace(layout, n=total)
    writer = BankWriter(teacher, sized, preprocessing, how.file, bfloat16=how.bfloat16)
    log.info("bank of %d views with the teacher's answers: %.0f MB", total, sized.view_bytes * total / 1e6)
    short_side = round(1.3 * max(preprocessing.input_size[1:]))
    for kind, source in enumerate(sources):
        counts = views_of_each(len(source.views), source.total, how.seed)
        used = np.flatnonzero(counts)
        for start in range(0, len(used), _CHUNK):
            chunk = used[start : start + _CHUNK].tolist()
            pictures = read_views([source.views[i] for i in chunk], short_side)
            wanted = [int(counts[i]) for i in chunk]
            pixels = augmented_views(pictures, wanted, preprocessing, how.seed + kind, chunk)
            writer.add(pixels, np.repeat(np.array([source.labels[i] for i in chunk], np.int64), wanted), progress)
    return writer.bank


def views_of_each(pictures: int, total: int, seed: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Spread `total` views over pictures: all have the same number, or some, drawn with the seed, one more."""
    if not pictures:
        return np.zeros(0, np.int64)
    counts = np.full(pictures, total // pictures, np.int64)
    counts[np.random.default_rng(seed).permutation(pictures)[: total % pictures]] += 1
    return counts
