"""A run's pictures: found, decoded once, divided."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt
import torch

from taco.errors import TaskError
from taco.files import stamp
from taco.options import ExportOptions
from taco.pictures.bank import PictureBank
from taco.pictures.listing import LabelledPicture, Listing, View
from taco.pictures.split import SplitOptions, Task, split
from taco.pictures.thin import thin
from taco.task import ListOptions, list_pictures

_BATCH = 32
#: Pictures for comparisons that are made many times.
PROBED = 64


@dataclasses.dataclass(frozen=True, slots=True)
class Material:
    """The task's pictures, decoded once."""

    task: Task
    bank: PictureBank

    def batches(self, pictures: Iterable[LabelledPicture]) -> Iterator[torch.Tensor]:
        """Yield float32 inputs, (at most 32, 3, H, W)."""
        return (torch.from_numpy(b) for b in self.bank.batches([p.view for p in pictures], _BATCH))

    @property
    def shots(self) -> tuple[LabelledPicture, ...]:
        """Fit and select pictures together."""
        return (*self.task.fit, *self.task.select)

    @property
    def probed_every(self) -> int:
        """Of so many select pictures one is probed."""
        return max(1, math.ceil(len(self.task.select) / PROBED))

    @property
    def probed(self) -> tuple[LabelledPicture, ...]:
        """Select pictures of every class, at most about `PROBED`, for comparisons that are made many times."""
        return self.task.select[:: self.probed_every]

    @property
    def judged(self) -> tuple[LabelledPicture, ...]:
        """The pictures that accuracies are computed on: evaluation, or select where none are left."""
        return self.task.evaluation or self.task.select


def labels_of(pictures: Iterable[LabelledPicture]) -> npt.NDArray[np.int64]:
    """Return the places of the pictures' classes, (n,)."""
    return np.array([picture.label_index for picture in pictures], np.int64)


@dataclasses.dataclass(frozen=True, slots=True)
class Listings:
    """What was found before anything was decoded."""

    task: Listing
    evaluation: Listing | None

    @property
    def views(self) -> list[View]:
        """Everything to read."""
        own = [p.view for p in self.task.pictures]
        return own + ([p.view for p in self.evaluation.pictures] if self.evaluation else [])

    @property
    def cropped(self) -> bool:
        """Whether any picture is looked at through a box."""
        return any(view.box is not None for view in self.views)

    def fingerprint(self) -> list[list[tuple[object, ...]]]:
        """Identify the task's and the evaluation's pictures by what is listed, size and time, without reading them."""
        return [_fingerprint(listing) for listing in (self.task, self.evaluation) if listing is not None]


def _fingerprint(listing: Listing) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    names = listing.written or listing.classes  # `--head keep` depends on how they are written
    for p in listing.pictures:
        rows.append((names[p.label_index], str(p.path), *stamp(p.path), p.box, p.location, p.sequence, p.taken))
    return rows


def find_pictures(options: ExportOptions) -> Listings:
    """List the task's pictures and, with `--eval`, the evaluation pictures.

    Raises:
        TaskError: Nothing usable was found.
    """
    how = ListOptions(options.classes, options.images, options.boxes, options.crop, options.min_confidence)
    task = list_pictures(options.task, how)
    evaluation = None if options.evaluation is None else list_pictures(options.evaluation, how)
    listings = Listings(
        thin(task, options.max_images, options.seed),
        None if evaluation is None else thin(evaluation, options.max_images, options.seed),
    )
    if evaluation is not None and listings.cropped:
        _check_boxes(listings)
    return listings


def _check_boxes(listings: Listings) -> None:
    """Refuse to learn from crops and to judge on whole frames, or the other way round."""
    sides = (listings.task, listings.evaluation)
    if any(listing is not None and not any(p.box for p in listing.pictures) for listing in sides):
        raise TaskError(
            "only one of TASK and --eval has boxes, so one would be looked at in crops and the other in whole frames",
            "Give --boxes with the detections of both, or --no-crop",
        )


def divide(listings: Listings, bank: PictureBank, options: ExportOptions) -> Material:
    """Divide what could be read.

    Args:
        listings: From `find_pictures`.
        bank: Of `listings.views`.
        options: Shots, seed, what may not straddle the split.
    """
    how = SplitOptions(options.shots, options.seed, options.split_by, listings.evaluation)
    skipped = (*listings.task.skipped, *(listings.evaluation.skipped if listings.evaluation else ()), *bank.skipped)
    return Material(split(listings.task, bank.facts, how, skipped), bank)
