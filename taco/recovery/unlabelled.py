"""The site's own frames without labels (`--unlabelled DIR`): more to recover on, never to judge on.

Recovery imitates the dense specialist, so that it needs no labels; camera traps have thousands of frames without any.
Frames that show evaluation or select pictures again, as copies or in the same burst, are left out, or the result would
look better than it is; where shots judge in turn, those that show them again are left out with them.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from taco.errors import TaskError
from taco.files import stamp
from taco.formats.folder import files_of, told_foreign
from taco.formats.megadetector import ANIMAL, read_boxes
from taco.material import Material
from taco.options import ExportOptions
from taco.pictures.bank import BankOptions, PictureBank
from taco.pictures.duplicates import together
from taco.pictures.facts import Facts
from taco.pictures.groups import find_copies, sequences
from taco.pictures.listing import Box, LabelledPicture, View

log = logging.getLogger(__name__)
_NO_LABEL = -1


@dataclasses.dataclass(frozen=True, slots=True)
class Unlabelled:
    """Frames without labels.

    Attributes:
        views: What is looked at.
        copies: Frames that were left out: they show evaluation or select pictures or one another again.
        skipped: Frames that could not be used, each `path: reason`.
        shows: View -> places of the shots that it shows again; views that show none are not there.
    """

    views: tuple[View, ...] = ()
    copies: int = 0
    skipped: tuple[str, ...] = ()
    shows: Mapping[View, tuple[int, ...]] = dataclasses.field(default_factory=dict)

    def without(self, held: Collection[int]) -> Unlabelled:
        """Return the same without the frames that show some of the shots, given by their places."""
        again = {view for view, places in self.shows.items() if not set(held).isdisjoint(places)}
        views = tuple(view for view in self.views if view not in again)
        return dataclasses.replace(self, views=views, copies=self.copies + len(self.views) - len(views))

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; `from_json` reads them."""
        return {
            "views": [[str(view.path), view.box] for view in self.views],
            "copies": self.copies,
            "skipped": list(self.skipped),
            "shows": [list(self.shows.get(view, ())) for view in self.views],
        }

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Unlabelled:
        """Read what `to_json` gave."""
        views = [View(Path(path), None if box is None else Box(*box)) for path, box in found["views"]]
        shows = {view: tuple(places) for view, places in zip(views, found["shows"], strict=True) if places}
        return cls(tuple(views), found["copies"], tuple(found["skipped"]), shows)


@dataclasses.dataclass(frozen=True, slots=True)
class Frames:
    """Frames that were listed and not opened.

    Attributes:
        views: Whole frames, or the boxes of the animals in them.
        skipped: Frames that are not looked at, each `path: reason`.
    """

    views: tuple[View, ...]
    skipped: tuple[str, ...]

    def fingerprint(self) -> list[tuple[object, ...]]:
        """Identify them by name, size and time, without reading them."""
        return [(str(v.path), *stamp(v.path), v.box) for v in self.views]


def list_frames(options: ExportOptions, *, cropped: bool) -> Frames:
    """List the frames of `--unlabelled`, at most `--max-images`, drawn with the seed.

    Args:
        options: `unlabelled`, `boxes`, `min_confidence`, `max_images`, `seed`.
        cropped: The task is looked at through boxes, so these frames must be, too.

    Raises:
        TaskError: There is no such folder, no picture in it, or there are no boxes for it.
    """
    folder = options.unlabelled
    if folder is None:
        return Frames((), ())
    if not folder.is_dir():
        raise TaskError(f"--unlabelled {folder}: there is no such folder", "Name a folder of pictures")
    try:
        files = files_of(folder)
    except OSError as error:
        raise TaskError(f"cannot read {folder}: {error.strerror}", "Check its permissions") from error
    for warning in told_foreign(files.foreign):
        log.warning("--unlabelled %s: %s", folder, warning)
    paths = sorted(path.absolute() for path in files.pictures)
    if not paths:
        raise TaskError(f"--unlabelled {folder} holds no picture", "Name another folder, or leave the flag out")
    if options.max_images and len(paths) > options.max_images:
        order = np.random.default_rng(options.seed).permutation(len(paths))[: options.max_images]
        paths = [paths[i] for i in sorted(order.tolist())]
    if not cropped:
        return Frames(tuple(View(path) for path in paths), ())
    return _in_boxes(paths, folder, options)


def _in_boxes(paths: Sequence[Path], folder: Path, options: ExportOptions) -> Frames:
    if options.boxes is None:
        raise TaskError(
            f"the task is looked at through boxes, and there are none for --unlabelled {folder}",
            "Give --boxes with the detections of these frames too, or --no-crop",
        )
    detector = read_boxes(options.boxes, [folder])
    views, skipped = [], []
    for path in paths:
        boxes = [
            d.box
            for d in detector.detections(path) or ()
            if d.category == ANIMAL and d.confidence >= options.min_confidence
        ]
        views += [View(path, box) for box in boxes]
        if not boxes:
            skipped.append(f"{path}: no box of an animal in {options.boxes.name}")
    if not views:
        raise TaskError(
            f"{options.boxes} has no box of an animal for any of the {len(paths)} frames in {folder}",
            "Give the detections of these frames too, or --no-crop",
        )
    return Frames(tuple(views), tuple(skipped))


def read_frames(
    frames: Frames, material: Material, file: Path, progress: Callable[[int, int], None] | None = None
) -> Unlabelled:
    """Decode frames and keep those that are readable and no copies.

    Args:
        frames: From `list_frames`.
        material: The task's pictures; frames may not be copies of its evaluation or select pictures.
        file: Where pixels lie meanwhile; gone afterwards.
        progress: Called with (done, total).
    """
    if not frames.views:
        return Unlabelled()
    try:
        bank = PictureBank.read(frames.views, material.bank.preprocessing, BankOptions(file, progress=progress))
        facts, skipped = dict(bank.facts), [f"{s.path}: {s.reason}" for s in bank.skipped]
    finally:
        file.unlink(missing_ok=True)
    kept = _that_show_others(facts, material)
    copies = len(facts) - len(kept)
    if copies:
        log.info("%d unlabelled frames show evaluation or select pictures again, or one another", copies)
    shows = {view: places for view, places in kept.items() if places}
    return Unlabelled(tuple(kept), copies, tuple(dict.fromkeys([*frames.skipped, *skipped])), shows)


def _that_show_others(facts: Mapping[View, Facts], material: Material) -> dict[View, tuple[int, ...]]:
    """Return the frames that show nothing of what judges, each with the places of the fit pictures that it shows."""
    task, every = material.task, {**material.bank.facts, **facts}
    own = [LabelledPicture(view.path, _NO_LABEL, view.box) for view in facts]
    pictures = [*task.fit, *task.select, *task.evaluation, *own]
    copies = find_copies(pictures, every)
    groups = together(copies.exact, copies.near, sequences(pictures, every)).tolist()
    fit, others = len(task.fit), len(pictures) - len(own)
    forbidden, shown = set(groups[fit:others]), defaultdict(list)
    for place, group in enumerate(groups[:fit]):
        shown[group].append(place)
    kept, seen = {}, set()
    for frame, group, content in zip(own, groups[others:], copies.exact[others:].tolist(), strict=True):
        if group not in forbidden and (content, frame.box) not in seen:
            seen.add((content, frame.box))
            kept[frame.view] = tuple(shown.get(group, ()))
    return kept
