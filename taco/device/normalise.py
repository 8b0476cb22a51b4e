"""Pixels to what a network reads; numpy only, for devices without Pillow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Sequence

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt


def normalised(
    pixels: "npt.NDArray[np.uint8]", mean: Sequence[float], std: Sequence[float]
) -> "npt.NDArray[np.float32]":
    """Normalise pictures.

    Args:
        pixels: uint8 (n, height, width, 3).
        mean: Of each channel, in units of the pixel range 0-1.
        std: Of each channel, likewise.

    Returns:
        Contiguous float32 (n, 3, height, width).
    """
    n, height, width, channels = pixels.shape
    middle = np.asarray(mean, np.float32).reshape(-1, 1, 1)
    spread = np.asarray(std, np.float32).reshape(-1, 1, 1)
    tensor = np.empty((n, channels, height, width), np.float32)
    for index in range(n):  # one at a time stays in the cache
        np.divide(pixels[index].transpose(2, 0, 1), np.float32(255), out=tensor[index], dtype=np.float32)
        tensor[index] -= middle
        tensor[index] /= spread
    return tensor
