"""Symmetric matrices without their upper triangle: half of the memory, bit for bit the same when unpacked."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def lower_triangle(matrix: Array) -> Array:
    """Return the lower triangle, row after row.

    Args:
        matrix: (groups, cols, cols), symmetric to the bit; not modified.

    Returns:
        (groups, cols * (cols + 1) / 2) of the same dtype.
    """
    groups, cols, _ = matrix.shape
    packed = np.empty((groups, cols * (cols + 1) // 2), matrix.dtype)
    begin = 0
    for row in range(cols):
        packed[:, begin : begin + row + 1] = matrix[:, row, : row + 1]
        begin += row + 1
    return packed


def from_lower_triangle(packed: Array, cols: int) -> Array:
    """Return the matrix whose lower triangle `lower_triangle` gave, (groups, cols, cols)."""
    matrix = np.empty((len(packed), cols, cols), packed.dtype)
    begin = 0
    for row in range(cols):
        part = packed[:, begin : begin + row + 1]
        matrix[:, row, : row + 1] = part
        matrix[:, : row + 1, row] = part
        begin += row + 1
    return matrix
