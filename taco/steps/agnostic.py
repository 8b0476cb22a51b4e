"""The pictures to calibrate on: the task's own, or as a control as many of anything (METHOD.md 1).

What task-aware compression is worth shows only beside the same compression calibrated on general pictures.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from taco.device.images import Preprocessing
from taco.errors import TaskError
from taco.files import sha256_of, stamp
from taco.formats.folder import picture_files
from taco.material import Material
from taco.options import ExportOptions
from taco.pictures.bank import BankOptions, PictureBank
from taco.pictures.listing import View
from taco.rundir import content_key
from taco.wording import some

log = logging.getLogger(__name__)
_BATCH = 32


@dataclasses.dataclass(frozen=True, slots=True)
class CalibrationPictures:
    """What second moments are taken on.

    Attributes:
        key: Identifies the pictures where they are not the task's fit pictures, as JSON values; else empty.
        count: How many there are.
        batches: Gives them as (N, 3, H, W) float32, each time the same.
    """

    key: Mapping[str, Any]
    count: int
    batches: Callable[[], Iterator[torch.Tensor]]

    @property
    def kind(self) -> str:
        """In words."""
        return "agnostic" if self.key else "the task's"

    def some(self, most: int) -> Iterator[torch.Tensor]:
        """Give at most so many of them, spread evenly over all."""
        step, first = max(1, -(-self.count // most)), 0
        for batch in self.batches():
            if len(few := batch[-first % step :: step]):
                yield few
            first += len(batch)


def calibration_pictures(material: Material, options: ExportOptions) -> CalibrationPictures:
    """Choose the pictures to calibrate on; agnostic ones are read when they are first asked for.

    Args:
        material: The task's pictures.
        options: `calibration`, `agnostic_images` and `seed`.

    Raises:
        TaskError: There are too few agnostic pictures.
    """
    fit = material.task.fit
    if options.agnostic_images is None:
        return CalibrationPictures({}, len(fit), lambda: material.batches(fit))
    own = (p.path for p in (*material.shots, *material.task.evaluation))
    drawn = Agnostic(options.agnostic_images, len(fit), options.seed).draw(own)
    listed = [(str(path.absolute()), *stamp(path)) for path in drawn]
    read = functools.cache(lambda: agnostic_batches(drawn, len(fit), material.bank.preprocessing))
    return CalibrationPictures({"agnostic": content_key(listed)}, len(fit), lambda: read()())


@dataclasses.dataclass(frozen=True, slots=True)
class Agnostic:
    """Pictures that have nothing to do with the task.

    Attributes:
        folder: Where they are, at any depth.
        count: How many are drawn.
        seed: Draws them.
    """

    folder: Path
    count: int
    seed: int

    def draw(self, taken: Iterable[Path] = ()) -> list[Path]:
        """Draw pictures that are not among the task's own; all of them, the wanted ones first.

        Files that are not there, such as links to nowhere, are left out, which is logged.

        Args:
            taken: The task's pictures; neither they nor exact copies of them are drawn.

        Raises:
            TaskError: There are too few.
        """
        own = {path.resolve() for path in taken}
        sizes = {path.stat().st_size for path in own if path.is_file()}
        hashes: set[str] | None = None
        free, skipped = [], []
        for path in sorted(picture_files(self.folder)):
            try:
                size = path.stat().st_size
                if path.resolve() in own:
                    continue
                if size in sizes:  # perhaps a copy
                    hashes = hashes or {sha256_of(p) for p in own if p.is_file()}
                    if sha256_of(path) in hashes:
                        continue
            except OSError as error:
                skipped.append(f"{path}: {error.strerror}")
                continue
            free.append(path)
        if skipped:
            log.warning("%d agnostic pictures cannot be read and are left out: %s", len(skipped), some(skipped, 3))
        if len(free) < self.count:
            raise TaskError(
                f"--agnostic-images {self.folder} holds {len(free)} pictures that are not the task's own, and "
                f"{self.count} are needed, as many as the task has to fit on",
                "Add pictures, or take fewer --shots",
            )
        order = np.random.default_rng(self.seed).permutation(len(free))
        return [free[i] for i in order]


def agnostic_batches(
    pictures: list[Path], count: int, preprocessing: Preprocessing
) -> Callable[[], Iterator[torch.Tensor]]:
    """Read the first `count` pictures that can be read; each call of the result gives their batches again.

    Args:
        pictures: From `Agnostic.draw`.
        count: How many.
        preprocessing: Of the model.

    Raises:
        TaskError: Too few of them can be read.
    """
    views: list[View] = []
    bank = PictureBank.read([], preprocessing, BankOptions())
    tried = count
    while len(views) < count:
        bank = PictureBank.read([View(path) for path in pictures[:tried]], preprocessing, BankOptions())
        views = list(bank.readable)[:count]
        if len(views) < count and tried >= len(pictures):
            raise TaskError(f"only {len(views)} of the {count} agnostic pictures can be read", "Give others")
        tried = min(len(pictures), tried + max(16, count // 4))
    return lambda: (torch.from_numpy(batch) for batch in bank.batches(views, _BATCH))
