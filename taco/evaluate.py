"""The accuracy of a bundle on labelled pictures, on the machine and with the runtime that will use it; no torch."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taco.bundle import Bundle
from taco.device.images import UnreadableImage, resize_crop, to_tensor
from taco.device.opening import open_session
from taco.device.wire import DeviceError
from taco.errors import InputError, MeasurementError, TaskError
from taco.formats.names import canonical
from taco.metrics.abstain import confidences, softmax
from taco.metrics.accuracy import Proportion, Score, wilson
from taco.metrics.quality import Paired, Quality, compare_paired, quality
from taco.pictures.bank import open_view
from taco.pictures.listing import Listing
from taco.task import ListOptions, list_pictures


@dataclasses.dataclass(frozen=True, slots=True)
class Sure:
    """What a bundle's own threshold does.

    Attributes:
        threshold: Least probability of a sure answer.
        sure: Share of sure answers.
        right: Share of right ones among them; None where none is sure.
    """

    threshold: float
    sure: Proportion
    right: Proportion | None


@dataclasses.dataclass(frozen=True, slots=True)
class Evaluation:
    """What came out.

    Attributes:
        score: Accuracy, and the recall of every class.
        quality: Precision, confusions, the worst class, calibration error, accuracy against coverage.
        sure: What the bundle's own threshold does on these pictures; None where it has none.
        paired: The other bundle (first) against this one (second); None without another.
        other: Accuracy of the other bundle; None without another.
        skipped: Pictures that could not be used, each `path: reason`.
    """

    score: Score
    quality: Quality
    sure: Sure | None
    paired: Paired | None
    other: Score | None
    skipped: tuple[str, ...]


def list_for(bundle: Bundle, task: Path, options: ListOptions | None = None) -> Listing:
    """List labelled pictures for a bundle, whole frames or boxes as it learned from.

    Raises:
        TaskError: Nothing usable was found.
        InputError: A class is none of the bundle's, or boxes are missing.
    """
    listing = list_pictures(task, options or ListOptions(crop=None if bundle.manifest.crop_margin else False))
    known = _known(bundle)
    foreign = [name for name in listing.classes if name not in known]
    if foreign:
        raise InputError(
            f"{task} has pictures of {foreign[0]!r}, which {bundle.path} does not know",
            f"Its classes are: {', '.join(bundle.manifest.classes)}. Choose among them with --classes",
        )
    if bundle.manifest.crop_margin is not None and not any(p.box for p in listing.pictures):
        raise InputError(f"{bundle.path} learned from boxes around animals, and {task} has none", "Give --boxes")
    return listing


def evaluate(
    bundle: Bundle,
    listing: Listing,
    threads: int | None = None,
    progress: Callable[[int], None] | None = None,
    against: Bundle | None = None,
) -> Evaluation:
    """Ask a bundle about labelled pictures, one after the other.

    Args:
        bundle: From `taco.verify.open_bundle`.
        listing: From `list_for`.
        threads: Threads of the model; None is every core.
        progress: Called with 1 for every picture.
        against: Another bundle with the same classes, such as the dense one, to compare with on the same pictures.

    Raises:
        InputError: The other bundle has other classes, or looks at other things.
        TaskError: No picture can be read.
        MeasurementError: The runtime is missing, or cannot run the model.
    """
    classes = bundle.manifest.classes
    if against is not None:
        _check_comparable(bundle, against)
    asked = [one for one in (bundle, against) if one is not None]
    skipped = [f"{s.path}: {s.reason}" for s in listing.skipped]
    index = {name: i for i, name in enumerate(_known(bundle))}
    labels: list[int] = []
    logits: list[list[Any]] = [[] for _ in asked]
    try:
        sessions = [open_session(str(b.model_path), threads or os.cpu_count() or 1, b.provider) for b in asked]
        for picture in listing.pictures:
            try:
                inputs = [resize_crop(open_view(picture.view), b.preprocessing) for b in asked]
            except UnreadableImage as error:
                skipped.append(f"{picture.path}: {error.reason}")
            else:
                for into, session, pixels, b in zip(logits, sessions, inputs, asked, strict=True):
                    into.append(session.run(to_tensor(pixels, b.preprocessing))[0])
                labels.append(index[listing.classes[picture.label_index]])
            if progress is not None:
                progress(1)
    except DeviceError as error:
        raise MeasurementError(error.what, error.todo) from error
    if not labels:
        raise TaskError("no picture could be read", "Check the pictures")
    truth = np.array(labels)
    shares = [softmax(np.stack(answers)) for answers in logits]
    return _judged(bundle, truth, shares[0], _in_order(against, shares, classes), tuple(skipped))


def _judged(
    bundle: Bundle,
    labels: NDArray[np.int64],
    shares: NDArray[np.float64],
    other: NDArray[np.float64] | None,
    skipped: tuple[str, ...],
) -> Evaluation:
    classes, sure_from = bundle.manifest.classes, bundle.manifest.sure_from
    answers = shares.argmax(1)
    theirs = None if other is None else other.argmax(1)
    return Evaluation(
        score=Score.from_predictions(labels, answers, classes),
        quality=quality(shares, labels, classes),
        sure=None if sure_from is None else _sure(sure_from, shares, labels),
        paired=None if theirs is None else compare_paired(labels, theirs, answers),
        other=None if theirs is None else Score.from_predictions(labels, theirs, classes),
        skipped=skipped,
    )


def _sure(threshold: float, shares: NDArray[np.float64], labels: NDArray[np.int64]) -> Sure:
    confidence, right = confidences(shares, labels)
    sure = confidence >= threshold
    counted = int(sure.sum())
    return Sure(threshold, wilson(counted, len(sure)), wilson(int(right[sure].sum()), counted) if counted else None)


def _known(bundle: Bundle) -> list[str]:
    """Return a bundle's classes, in its order, by the names that listings give; older bundles hold them as found."""
    return list(map(canonical, bundle.manifest.classes))


def _check_comparable(bundle: Bundle, against: Bundle) -> None:
    if set(_known(bundle)) != set(_known(against)):
        todo = "Compare bundles of the same task"
        raise InputError(f"{against.path} has other classes than {bundle.path}", todo)
    if (bundle.manifest.crop_margin is None) != (against.manifest.crop_margin is None):
        todo = "Compare bundles that learned from the same kind of pictures"
        raise InputError(f"only one of {bundle.path} and {against.path} looks at boxes", todo)


def _in_order(
    against: Bundle | None, shares: Sequence[NDArray[np.float64]], classes: Sequence[str]
) -> NDArray[np.float64] | None:
    """Return the other bundle's shares in the order of `classes`."""
    if against is None:
        return None
    theirs = _known(against)
    order = [theirs.index(canonical(name)) for name in classes]
    return shares[1][:, order]
