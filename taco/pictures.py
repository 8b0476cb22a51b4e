"""Many pictures read once: decoded in threads, kept as bytes at the model's input size, handed out as tensors.

Only as many full-size pictures are in memory as there are cores: each thread decodes one, shrinks it and writes it into
its row of the bank. A large bank lies in an unnamed temporary file, which disappears with the process.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import joblib
import numpy as np
import numpy.typing as npt

from taco.device.images import Preprocessing, UnreadableImage, read_rgb, resize_crop, to_tensor
from taco.device.resample import FILTERS
from taco.errors import TaskError, UnreadableImageError
from taco.task import Skipped

Pixels = npt.NDArray[np.uint8]
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class BankOptions:
    """How to read: `jobs` pictures at a time (-1 is one for each core), in `folder` above `memory_limit_bytes`.

    `progress(done, total)` runs in the caller's thread.
    """

    folder: Path
    jobs: int = -1
    progress: Callable[[int, int], None] | None = None
    memory_limit_bytes: int = 512 * 1024**2


@dataclass(frozen=True, slots=True, eq=False)
class PictureBank:
    """Pictures at a model's input size; build it with `PictureBank.read`.

    Attributes:
        preprocessing: What the pictures were resized and cropped for.
        readable: Paths of the pictures in the bank, in the order asked.
        skipped: The others, with reasons.
    """

    preprocessing: Preprocessing
    readable: tuple[Path, ...]
    skipped: tuple[Skipped, ...]
    _pixels: Pixels
    _row_of: Mapping[Path, int]

    @classmethod
    def read(cls, paths: Iterable[Path], preprocessing: Preprocessing, options: BankOptions) -> PictureBank:
        """Decode each picture once.

        Args:
            paths: Pictures; a path that comes twice is read once.
            preprocessing: The model's input size, crop and interpolation.
            options: Where to keep them, how many threads, whom to tell.

        Raises:
            TaskError: If the folder has no room for the bank.
        """
        unique = tuple(dict.fromkeys(paths))
        _, height, width = preprocessing.input_size
        pixels = _allocate((len(unique), height, width, 3), options)

        def fill(row: int) -> str | None:
            try:
                pixels[row] = resize_crop(read_rgb(unique[row]), preprocessing)
            except UnreadableImage as error:
                return error.reason
            return None

        reasons = _in_threads(fill, range(len(unique)), options)
        pixels.flags.writeable = False
        row_of = {path: row for row, path in enumerate(unique) if reasons[row] is None}
        skipped = tuple(Skipped(path, why) for path, why in zip(unique, reasons, strict=True) if why is not None)
        return cls(preprocessing, tuple(row_of), skipped, pixels, row_of)

    def pixels(self, paths: Sequence[Path]) -> Pixels:
        """Return the pictures as uint8 (n, height, width, 3).

        Raises:
            TaskError: If a picture is not in the bank.
        """
        missing = [path for path in paths if path not in self._row_of]
        if missing:
            raise TaskError(f"{missing[0]} is not among the pictures that were read", "Use paths of bank.readable")
        pixels: Pixels = self._pixels[[self._row_of[path] for path in paths]]
        return pixels

    def tensor(self, paths: Sequence[Path]) -> npt.NDArray[np.float32]:
        """Return the pictures normalised for the model, float32 (n, 3, height, width).

        Raises:
            TaskError: If a picture is not in the bank.
        """
        return to_tensor(self.pixels(paths), self.preprocessing)

    def batches(self, paths: Sequence[Path], size: int) -> Iterator[npt.NDArray[np.float32]]:
        """Yield `tensor` of at most `size` pictures at a time, in order.

        Raises:
            ValueError: If `size` is below 1.
            TaskError: If a picture is not in the bank.
        """
        if size < 1:
            raise ValueError(f"a batch holds at least 1 picture, not {size}")
        return (self.tensor(paths[start : start + size]) for start in range(0, len(paths), size))


def read_views(paths: Sequence[Path], short_side: int) -> list[Pixels]:
    """Read pictures whole for augmentation, shrunk so that the shorter side is at most `short_side` pixels.

    Returns:
        One uint8 array (height, width, 3) a path, in order; smaller pictures keep their size.

    Raises:
        UnreadableImageError: If one cannot be decoded; read a bank first to know which can.
    """

    def view(row: int) -> Pixels:
        try:
            image = read_rgb(paths[row])
        except UnreadableImage as error:
            raise UnreadableImageError(f"{paths[row]}: {error.reason}", "Remove it from the task") from error
        scale = short_side / min(image.size)
        if scale >= 1:
            return np.array(image)
        width, height = (max(1, round(side * scale)) for side in image.size)
        return np.array(image.resize((width, height), FILTERS["bicubic"]))

    return _in_threads(view, range(len(paths)), BankOptions(Path()))


def _allocate(shape: tuple[int, int, int, int], options: BankOptions) -> Pixels:
    size_bytes = int(np.prod(shape))
    if size_bytes <= options.memory_limit_bytes:
        return np.zeros(shape, np.uint8)
    try:
        options.folder.mkdir(parents=True, exist_ok=True)
        free_bytes = shutil.disk_usage(options.folder).free
        if free_bytes < size_bytes:  # writing past the end of a full disk would kill the process
            raise TaskError(
                f"the pictures need {size_bytes >> 20} MiB in {options.folder}, {free_bytes >> 20} MiB are free",
                "Free some space, choose another folder, or give fewer pictures",
            )
        with tempfile.TemporaryFile(dir=options.folder) as stream:
            return np.memmap(stream, np.uint8, "w+", shape=shape)
    except OSError as error:
        raise TaskError(f"cannot write to {options.folder}: {error.strerror}", "Choose another folder") from error


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
