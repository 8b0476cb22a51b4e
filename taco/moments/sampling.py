"""Which positions of a picture a layer's moments are taken from, where not all are needed.

The positions are cut into equal stretches, one is drawn from each, and the whole is turned by a random amount, so that
every position is as likely as any other and neighbours, which say the same, are seldom taken together. What is drawn
depends on the seed and on the picture itself: neither the batch, the order nor the shard in which it comes matters.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch


def keys_of(pictures: torch.Tensor) -> list[int]:
    """Return one number a picture, the same wherever the same pixels come again.

    Args:
        pictures: (N, ...) float32.
    """
    return [zlib.crc32(picture.contiguous().numpy()) for picture in pictures.detach().float().cpu()]


def draw_positions(total: int, count: int, keys: list[int], seed: int) -> torch.Tensor:
    """Draw `count` different positions for each picture.

    Args:
        total: Positions there are in a picture; more than `count`.
        count: Positions to draw.
        keys: From `keys_of`.
        seed: Another seed draws others.

    Returns:
        (pictures, count) int64, in [0, total).
    """
    edges = np.arange(count + 1) * total // count
    drawn = np.empty((len(keys), count), np.int64)
    for row, key in zip(drawn, keys, strict=True):
        generator = np.random.default_rng((seed, total, key))
        row[:] = edges[:-1] + generator.integers(np.diff(edges)) + generator.integers(total)
    return torch.from_numpy(np.sort(drawn % total, 1))
