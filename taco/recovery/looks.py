"""Several looks at every select picture: as it is, and cut out a little differently, mirrored or not.

With four select pictures a class, one answer is points of accuracy, and whether it is right hangs on a few pixels. A
model that barely names a picture right fails in some of its looks, so what is lost shows before a whole picture is.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np
import torch

from taco.device.images import Preprocessing, to_tensor
from taco.material import Material
from taco.pictures.bank import read_views
from taco.recovery.views import MILD, Pixels, as_inputs, augmented_views

#: Looks at each picture at most, and at all pictures together about.
_EACH, _MOST = 8, 512
#: Pictures that are decoded at a time.
_CHUNK = 32
_BATCH = 32


def looks_each(pictures: int) -> int:
    """Return how often each of so many pictures is looked at; once is enough where there are many."""
    return max(1, min(_EACH, _MOST // max(1, pictures)))


@dataclasses.dataclass(frozen=True, eq=False)
class Looks:
    """Looks at a task's select pictures, drawn once.

    Attributes:
        material: The pictures.
        seed: Draws the crops.
        each: Looks at every picture, from `looks_each`; 1 is the picture itself.
    """

    material: Material
    seed: int
    each: int

    def batches(self) -> Iterator[torch.Tensor]:
        """Yield channels_last float32 inputs (at most 32, 3, H, W): all looks at the first picture, at the second..."""
        for start in range(0, len(self._pixels), _BATCH):
            yield as_inputs(self._pixels[start : start + _BATCH], self._preprocessing)

    def singly(self) -> Iterator[np.ndarray[tuple[int, int, int, int], np.dtype[np.float32]]]:
        """Yield the same one at a time, (1, 3, H, W), as a runtime takes them."""
        return (to_tensor(self._pixels[row : row + 1], self._preprocessing) for row in range(len(self._pixels)))

    @property
    def _preprocessing(self) -> Preprocessing:
        return self.material.bank.preprocessing

    @functools.cached_property
    def _pixels(self) -> Pixels:
        """(n * each, H, W, 3) uint8."""
        select, more = self.material.task.select, self.each - 1
        own = self.material.bank.pixels([picture.view for picture in select])
        if not more:
            return own
        short_side = round(1.3 * max(self._preprocessing.input_size[1:]))
        parts = []
        for start in range(0, len(select), _CHUNK):
            numbers = range(start, min(start + _CHUNK, len(select)))
            pictures = read_views([select[number].view for number in numbers], short_side)
            counts = [more] * len(pictures)
            drawn = augmented_views(pictures, counts, self._preprocessing, self.seed, numbers, MILD)
            shown = drawn.reshape(len(pictures), more, *drawn.shape[1:])
            parts.append(np.concatenate([own[start : start + len(pictures), None], shown], axis=1))
        return np.concatenate(parts).reshape(-1, *own.shape[1:])
