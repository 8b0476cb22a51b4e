"""Augmented views of few pictures: many crops of each, because few pictures over-fit fast (METHOD.md 6)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torchvision.transforms import v2

from taco.device.images import Preprocessing, to_tensor

Pixels = npt.NDArray[np.uint8]

#: Least share of a picture that a crop shows: of views to learn from, and of those that stand for the picture itself.
STRONG, MILD = 0.35, 0.6


def as_inputs(pixels: Pixels, preprocessing: Preprocessing) -> torch.Tensor:
    """Normalise (n, H, W, 3) uint8 pixels into a channels_last float32 batch (n, 3, H, W)."""
    return torch.from_numpy(to_tensor(pixels, preprocessing)).contiguous(memory_format=torch.channels_last)


def augmented_views(
    pictures: Sequence[Pixels],
    views: Sequence[int],
    preprocessing: Preprocessing,
    seed: int,
    numbers: Sequence[int] | None = None,
    least: float = STRONG,
) -> Pixels:
    """Return random resized crops, half of them mirrored, of every picture; the first picture's come first.

    What is drawn of a picture depends on the seed and its number alone, not on the pictures before it.

    Args:
        pictures: (h, w, 3) uint8 each, any size.
        views: Crops of each.
        preprocessing: Gives the size and the interpolation (bicubic, else bilinear).
        seed: Draws the crops.
        numbers: Of the pictures; None numbers them from 0.
        least: Share of a picture's area that a crop shows at least.
    """
    _, height, width = preprocessing.input_size
    bicubic = preprocessing.interpolation == "bicubic"
    how = v2.InterpolationMode.BICUBIC if bicubic else v2.InterpolationMode.BILINEAR
    crop = v2.Compose(
        [
            v2.RandomResizedCrop(
                (height, width), scale=(least, 1.0), ratio=(0.75, 4 / 3), interpolation=how, antialias=True
            ),
            v2.RandomHorizontalFlip(),
        ]
    )
    drawn = np.empty((sum(views), height, width, 3), np.uint8)
    row = 0
    with torch.random.fork_rng(devices=[]):
        for picture, count, number in zip(pictures, views, numbers or range(len(pictures)), strict=True):
            torch.manual_seed(int(np.random.SeedSequence([seed, number]).generate_state(1)[0]))
            tensor = torch.from_numpy(picture.copy()).permute(2, 0, 1)
            for _ in range(count):
                drawn[row] = crop(tensor).permute(1, 2, 0).numpy()
                row += 1
    return drawn
