"""Many pictures read once: decoded in threads, kept as bytes at the model's input size, handed out as tensors.

Only as many full-size pictures are in memory as there are cores: each thread decodes one, shrinks it and writes it into
its row of the bank. A bank can lie in a file, which a later run opens again.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import joblib
import numpy as np
import numpy.typing as npt
from PIL import Image

from taco.device.images import Preprocessing, UnreadableImage, crop_box, read_rgb, resize_crop, to_tensor
from taco.device.resample import FILTERS
from taco.errors import TaskError, UnreadableImageError
from taco.pictures.facts import Facts, facts_of
from taco.pictures.listing import Box, Skipped, View

Pixels = npt.NDArray[np.uint8]
Result = TypeVar("Result")

#: Added around a box on every side, as a fraction of its longer side; a model's own centre crop takes 0.06 away.
CROP_MARGIN = 0.15


@dataclass(frozen=True, slots=True)
class BankOptions:
    """How to read.

    Attributes:
        file: Where the pixels are kept for a later run; None keeps them in memory.
        jobs: Pictures at a time; -1 is one for each core.
        progress: Called with (done, total) in the caller's thread.
        known: A bank for the same preprocessing: what it holds is not decoded again.
    """

    file: Path | None = None
    jobs: int = -1
    progress: Callable[[int, int], None] | None = None
    known: PictureBank | None = None


@dataclass(frozen=True, eq=False)
class PictureBank:
    """Views at a model's input size; build it with `PictureBank.read`.

    Attributes:
        preprocessing: What the pictures were resized and cropped for.
    """

    preprocessing: Preprocessing
    _found: Mapping[View, Facts | Skipped]  # in the order of the rows of _pixels
    _pixels: Pixels

    @functools.cached_property
    def facts(self) -> Mapping[View, Facts]:
        """What is known of every view in the bank, in the order asked."""
        return {view: found for view, found in self._found.items() if isinstance(found, Facts)}

    @property
    def readable(self) -> tuple[View, ...]:
        """Every view in the bank."""
        return tuple(self.facts)

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """The others, with reasons."""
        return tuple(found for found in self._found.values() if isinstance(found, Skipped))

    @property
    def passing(self) -> tuple[Path, ...]:
        """Files of those that could not be read for a passing reason."""
        return tuple(dict.fromkeys(found.path for found in self.skipped if found.passing))

    @functools.cached_property
    def _row_of(self) -> Mapping[View, int]:
        return {view: row for row, view in enumerate(self._found) if view in self.facts}

    @classmethod
    def read(cls, views: Iterable[View], preprocessing: Preprocessing, options: BankOptions) -> PictureBank:
        """Decode each view once.

        Args:
            views: What to read; a view that comes twice is read once.
            preprocessing: The model's input size, crop and interpolation.
            options: Where to keep them, how many threads, whom to tell.

        Raises:
            TaskError: The disk has no room for the bank.
        """
        unique, known = tuple(dict.fromkeys(views)), options.known
        _, height, width = preprocessing.input_size
        pixels = _allocate((len(unique), height, width, 3), options.file)

        def fill(row: int) -> Facts | Skipped:
            view = unique[row]
            if known is not None and view in known.facts:
                pixels[row] = known.pixels([view])[0]
                return known.facts[view]
            try:
                pixels[row] = resize_crop(open_view(view), preprocessing)
            except UnreadableImage as error:
                return Skipped(view.path, error.reason, error.passing)
            return facts_of(pixels[row], view.path)

        found = _in_threads(fill, range(len(unique)), options)
        if isinstance(pixels, np.memmap):
            pixels.flush()
        pixels.flags.writeable = False
        return cls(preprocessing, dict(zip(unique, found, strict=True)), pixels)

    def index(self) -> list[Any]:
        """Return everything but the pixels as JSON values; `open` reads it."""
        return [[str(view.path), view.box, _told(found)] for view, found in self._found.items()]

    @classmethod
    def open(cls, file: Path, index: Sequence[Any], preprocessing: Preprocessing) -> PictureBank:
        """Open a bank that an earlier run left in `file`, described by its `index()`."""
        found: dict[View, Facts | Skipped] = {}
        for path, box, told in index:
            view = View(Path(path), None if box is None else Box(*box))
            found[view] = _found(view.path, told)
        _, height, width = preprocessing.input_size
        shape = (len(found), height, width, 3)
        return cls(preprocessing, found, np.memmap(file, np.uint8, "r", shape=shape))

    def pixels(self, views: Sequence[View]) -> Pixels:
        """Return the views as uint8 (n, height, width, 3).

        Raises:
            TaskError: If a view is not in the bank.
        """
        missing = [view for view in views if view not in self._row_of]
        if missing:
            raise TaskError(f"{missing[0].path} is not among the pictures that were read", "Use views of bank.readable")
        pixels: Pixels = self._pixels[[self._row_of[view] for view in views]]
        return pixels

    def tensor(self, views: Sequence[View]) -> npt.NDArray[np.float32]:
        """Return the views normalised for the model, float32 (n, 3, height, width).

        Raises:
            TaskError: If a view is not in the bank.
        """
        return to_tensor(self.pixels(views), self.preprocessing)

    def batches(self, views: Sequence[View], size: int) -> Iterator[npt.NDArray[np.float32]]:
        """Yield `tensor` of at most `size` views at a time, in order.

        Raises:
            ValueError: If `size` is below 1.
            TaskError: If a view is not in the bank.
        """
        if size < 1:
            raise ValueError(f"a batch holds at least 1 picture, not {size}")
        return (self.tensor(views[start : start + size]) for start in range(0, len(views), size))


def any_readable(pictures: Iterable[Path]) -> bool:
    """Tell whether one of these, which could not be read for a passing reason, can be decoded now."""

    def is_readable(path: Path) -> bool:
        try:
            read_rgb(path)
        except UnreadableImage:
            return False
        return True

    return any(is_readable(path) for path in dict.fromkeys(pictures))


def open_view(view: View) -> Image.Image:
    """Decode a picture and cut out its box, if it has one.

    Raises:
        UnreadableImage: It cannot be decoded.
    """
    image = read_rgb(view.path)
    return image if view.box is None else crop_box(image, view.box, CROP_MARGIN)


def read_views(views: Sequence[View], short_side: int) -> list[Pixels]:
    """Read views whole for augmentation, shrunk so that the shorter side is at most `short_side` pixels.

    Returns:
        One uint8 array (height, width, 3) a view, in order; smaller pictures keep their size.

    Raises:
        UnreadableImageError: If one cannot be decoded; read a bank first to know which can.
    """

    def shrunk(row: int) -> Pixels:
        try:
            image = open_view(views[row])
        except UnreadableImage as error:
            what = f"{views[row].path} was readable when the run began and no longer is: {error.reason}"
            raise UnreadableImageError(what, "Put it back and run the same command again, or leave it out") from error
        scale = short_side / min(image.size)
        if scale >= 1:
            return np.array(image)
        width, height = (max(1, round(side * scale)) for side in image.size)
        return np.array(image.resize((width, height), FILTERS["bicubic"]))

    return _in_threads(shrunk, range(len(views)), BankOptions())


def _told(found: Facts | Skipped) -> Any:
    """Return JSON values: a list of facts, a reason, or a reason that is marked as passing."""
    if isinstance(found, Facts):
        return [found.phash.hex(), *found[1:]]
    return {"passing": found.reason} if found.passing else found.reason


def _found(path: Path, told: Any) -> Facts | Skipped:
    """Read what `_told` gave; older versions marked no reason."""
    if isinstance(told, dict):
        return Skipped(path, told["passing"], passing=True)
    return Skipped(path, told) if isinstance(told, str) else Facts(bytes.fromhex(told[0]), *told[1:])


def _allocate(shape: tuple[int, int, int, int], file: Path | None) -> Pixels:
    size_bytes = int(np.prod(shape))
    if file is None or size_bytes == 0:
        return np.zeros(shape, np.uint8)
    try:
        with file.open("wb") as stream:
            # Blocks are reserved now: writing through a map to a disk that fills up would kill the process.
            os.posix_fallocate(stream.fileno(), 0, size_bytes)
        return np.memmap(file, np.uint8, "r+", shape=shape)
    except OSError as error:
        file.unlink(missing_ok=True)
        raise TaskError(
            f"the pictures need {size_bytes / 1024**2:.0f} MiB in {file.parent}: {error.strerror}",
            "Free some space, choose another --out, or give fewer pictures (--max-images)",
        ) from error


def _in_threads(work: Callable[[int], Result], rows: Sequence[int], options: BankOptions) -> list[Result]:
    results: list[Result] = []
    with warnings.catch_warnings():
        # Pillow warns of damaged EXIF and the like in pictures that it reads well. Set here, in the caller's thread,
        # because filters belong to the process; the threads only read them.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        parallel = joblib.Parallel(n_jobs=options.jobs, prefer="threads", return_as="generator")
        for result in parallel(joblib.delayed(work)(row) for row in rows):
            results.append(result)
            if options.progress is not None:
                options.progress(len(results), len(rows))
    return results
