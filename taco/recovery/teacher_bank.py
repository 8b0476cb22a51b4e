"""A fixed bank of views with the teacher's answers: asked once, read by every epoch of recovery, mapped from a file.

A frozen teacher gives the same answer to the same view, so that asking it again in every step is wasted time. Features
are kept as float16 after division by their own root mean square: then none can overflow, and the mean squared error
against them is the relative error ||s - t||^2 / ||t||^2 of METHOD.md 6.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from taco.compute import CPU, device_of
from taco.device.images import Preprocessing
from taco.errors import TaskError
from taco.recovery.bfloat16 import autocast
from taco.recovery.taps import Answer, answer
from taco.recovery.views import Pixels, as_inputs

Index = npt.NDArray[np.int64]
Labels = npt.NDArray[np.int64]
#: Label of a view whose class nobody told.
UNLABELLED = -1
_BATCH = 32
_ALIGNMENT = 64
_LEAST_SCALE = 1e-12


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """One block's features of every view.

    Attributes:
        values: (n, ...) float16, each view divided by its own root mean square.
        scale: (n,) float32, these root mean squares.
    """

    values: npt.NDArray[np.float16]
    scale: npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class TeacherBank:
    """Views and what the teacher says about them.

    Attributes:
        pixels: (n, H, W, 3) uint8.
        labels: (n,) int64, `UNLABELLED` where nobody told.
        logits: (n, classes) float32.
        features: Block -> targets, with the last feature map among them (`taco.recovery.taps.LAST`).
        preprocessing: Turns pixels into inputs.
    """

    pixels: Pixels
    labels: Labels
    logits: npt.NDArray[np.float32]
    features: Mapping[str, Targets]
    preprocessing: Preprocessing

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def size_bytes(self) -> int:
        """Of all arrays."""
        parts = [part for t in self.features.values() for part in (t.values, t.scale)]
        return sum(array.nbytes for array in (self.pixels, self.labels, self.logits, *parts))

    def inputs(self, index: Index, device: torch.device = CPU) -> torch.Tensor:
        """Return the views `index` as (n, 3, H, W) float32 in channels_last."""
        return as_inputs(self.pixels[index], self.preprocessing).to(device)


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """Shapes of a bank's arrays.

    Attributes:
        n: Views.
        input_size: (3, H, W).
        classes: Of the teacher.
        features: Block -> shape of one view's features.
    """

    n: int
    input_size: tuple[int, int, int]
    classes: int
    features: Mapping[str, tuple[int, ...]]

    @classmethod
    def of(cls, teacher: nn.Module, input_size: tuple[int, int, int], ends: Sequence[str], n: int = 1) -> Layout:
        """Ask the teacher about a black picture to learn the shapes."""
        with torch.no_grad():
            found = answer(teacher, torch.zeros(1, *input_size, device=device_of(teacher)), ends)
        shapes = {name: tuple(f.shape[1:]) for name, f in found.features.items()}
        return cls(n, input_size, int(found.logits.shape[1]), shapes)

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Layout:
        """Read `dataclasses.asdict` of a layout back from JSON."""
        shapes = {name: tuple(shape) for name, shape in facts["features"].items()}
        return cls(facts["n"], tuple(facts["input_size"]), facts["classes"], shapes)

    @property
    def view_bytes(self) -> int:
        """Bytes of one view."""
        return sum(math.prod(shape[1:]) * kind.itemsize for shape, kind in self._arrays().values())

    def allocate(self, file: Path | None, preprocessing: Preprocessing) -> TeacherBank:
        """Return an empty bank, in memory or in a new file.

        Raises:
            TaskError: The disk has no room for it.
        """
        if file is None:
            arrays = {name: np.zeros(shape, kind) for name, (shape, kind) in self._arrays().items()}
            return self._bank(arrays, preprocessing)
        try:
            with file.open("wb") as stream:
                # Blocks are reserved now: writing through a map to a disk that fills up would kill the process.
                os.posix_fallocate(stream.fileno(), 0, max(1, self._size()))
        except OSError as error:
            file.unlink(missing_ok=True)
            raise TaskError(
                f"the teacher's answers need {self._size() / 1024**2:.0f} MiB in {file.parent}: {error.strerror}",
                "Free some space, choose another --out, or ask for fewer --recover-minutes",
            ) from error
        return self.open(file, preprocessing, "r+")

    def open(self, file: Path, preprocessing: Preprocessing, mode: Literal["r", "r+"] = "r") -> TeacherBank:
        """Map a bank's file."""
        raw = np.memmap(file, np.uint8, mode)
        arrays, begin = {}, 0
        for name, (shape, kind) in self._arrays().items():
            end = begin + math.prod(shape) * kind.itemsize
            arrays[name] = raw[begin:end].view(kind).reshape(shape)
            begin = _aligned(end)
        return self._bank(arrays, preprocessing)

    def _arrays(self) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        channels, height, width = self.input_size
        arrays: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {
            "pixels": ((self.n, height, width, channels), np.dtype(np.uint8)),
            "labels": ((self.n,), np.dtype(np.int64)),
            "logits": ((self.n, self.classes), np.dtype(np.float32)),
        }
        for name, shape in self.features.items():
            arrays[f"values|{name}"] = ((self.n, *shape), np.dtype(np.float16))
            arrays[f"scale|{name}"] = ((self.n,), np.dtype(np.float32))
        return arrays

    def _size(self) -> int:
        return sum(_aligned(math.prod(shape) * kind.itemsize) for shape, kind in self._arrays().values())

    def _bank(self, arrays: Mapping[str, npt.NDArray[Any]], preprocessing: Preprocessing) -> TeacherBank:
        features = {name: Targets(arrays[f"values|{name}"], arrays[f"scale|{name}"]) for name in self.features}
        return TeacherBank(arrays["pixels"], arrays["labels"], arrays["logits"], features, preprocessing)


class BankWriter:
    """Fills a bank, some views at a time.

    Args:
        teacher: The dense specialist, eval mode, channels_last; computes where it lies.
        layout: Of the bank.
        preprocessing: Turns pixels into inputs.
        file: Where the bank lies; None keeps it in memory.
        bfloat16: Let the teacher answer in bfloat16.

    Raises:
        TaskError: The disk has no room.
    """

    def __init__(
        self,
        teacher: nn.Module,
        layout: Layout,
        preprocessing: Preprocessing,
        file: Path | None = None,
        *,
        bfloat16: bool = False,
    ) -> None:
        self.bank = layout.allocate(file, preprocessing)
        self._teacher, self._bfloat16, self._row = teacher, bfloat16, 0

    def add(self, pixels: Pixels, labels: Labels, progress: Callable[[int], None] | None = None) -> None:
        """Ask about (n, H, W, 3) uint8 views with (n,) labels and keep the answers."""
        for start in range(0, len(pixels), _BATCH):
            chunk = slice(start, start + _BATCH)
            device = device_of(self._teacher)
            with torch.no_grad(), autocast(device, enabled=self._bfloat16):
                x = as_inputs(pixels[chunk], self.bank.preprocessing).to(device)
                found = answer(self._teacher, x, tuple(self.bank.features))
            self._keep(pixels[chunk], labels[chunk], found)
            if progress is not None:
                progress(len(pixels[chunk]))

    def _keep(self, pixels: Pixels, labels: Labels, found: Answer) -> None:
        rows = slice(self._row, self._row + len(pixels))
        bank = self.bank
        bank.pixels[rows], bank.labels[rows], bank.logits[rows] = pixels, labels, found.logits.float().cpu().numpy()
        for name, targets in bank.features.items():
            features = found.features[name].float()
            scale = features.flatten(1).square().mean(1).sqrt().clamp_min(_LEAST_SCALE)
            targets.scale[rows] = scale.cpu().numpy()
            targets.values[rows] = (features / scale.view(-1, *[1] * (features.ndim - 1))).half().cpu().numpy()
        self._row = rows.stop


def ask_teacher(
    teacher: nn.Module,
    pixels: Pixels,
    preprocessing: Preprocessing,
    *,
    ends: Sequence[str] = (),
    labels: Labels | None = None,
) -> TeacherBank:
    """Run the teacher once over views that fit in memory, in float32.

    Args:
        teacher: The dense specialist, eval mode, channels_last; computes where it lies.
        pixels: (n, H, W, 3) uint8.
        preprocessing: Turns pixels into inputs.
        ends: Blocks whose features are kept, from `taco.recovery.taps.block_ends`.
        labels: (n,) int64; None knows none.

    Raises:
        TaskError: There is no view.
    """
    if not len(pixels):
        raise TaskError("there is no picture to ask the teacher about", "Give more pictures a class")
    layout = Layout.of(teacher, preprocessing.input_size, ends, len(pixels))
    writer = BankWriter(teacher, layout, preprocessing)
    writer.add(pixels, np.full(len(pixels), UNLABELLED, np.int64) if labels is None else labels)
    return writer.bank


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
