"""Boxes from numbers: checked, turned into fractions, and cut at the picture's edge."""

from __future__ import annotations

import math

from taco.errors import TaskError
from taco.pictures.listing import Box

#: Detectors and people round: a box may reach out of its picture by this fraction without anybody hearing of it.
_ROUNDING = 0.01
#: Fractions beyond this are no rounding: they are pixels.
_PIXELS = 2.0
_NUMBERS = (float, int)  # bool is no number here


class BoxReader:
    """Makes boxes, and counts those that had to be changed, for one warning at the end."""

    def __init__(self) -> None:
        self._cut = 0
        self._empty = 0

    def read(self, values: object, where: str, size: tuple[float, float] | None = None) -> Box | None:
        """Make one box.

        Args:
            values: [left, top, width, height].
            where: Names the entry in messages.
            size: (width, height) of the upright picture in pixels where `values` are pixels; None for fractions.

        Returns:
            The box in fractions, cut at the edge; None where nothing of it is inside the picture.

        Raises:
            TaskError: Not four finite numbers, a negative size, or pixels where fractions belong.
        """
        numbers = _four(values)
        if numbers is None:
            shown = "not a list" if not isinstance(values, list | tuple) else f"{values}"[:80]
            raise TaskError(f"{where}: the box is {shown}", "Give four finite numbers: left, top, width, height")
        if min(numbers[2:]) < 0:
            raise TaskError(f"{where}: the box {numbers} has a negative size", "Give left, top, width, height")
        if size is None and max(map(abs, numbers)) > _PIXELS:
            raise TaskError(f"{where}: the box {numbers} is not in fractions", "Divide it by the picture's size")
        across, down = size or (1.0, 1.0)
        left, top, right, bottom = (
            *(numbers[0] / across, numbers[1] / down),
            *((numbers[0] + numbers[2]) / across, (numbers[1] + numbers[3]) / down),
        )
        x0, y0, x1, y1 = max(0.0, left), max(0.0, top), min(1.0, right), min(1.0, bottom)
        if x1 <= x0 or y1 <= y0:
            self._empty += 1
            return None
        if (x0, y0, x1, y1) == (left, top, right, bottom):
            return Box(left, top, numbers[2] / across, numbers[3] / down)  # exactly as given
        self._cut += max(-left, -top, right - 1, bottom - 1) > _ROUNDING
        return Box(x0, y0, x1 - x0, y1 - y0)

    def warnings(self) -> list[str]:
        """Say how many boxes were changed."""
        found = []
        if self._cut:
            found.append(f"{self._cut} boxes reach out of their picture and are cut at its edge")
        if self._empty:
            found.append(f"{self._empty} boxes without area, or outside of their picture, are not used")
        return found


def _four(values: object) -> tuple[float, float, float, float] | None:
    if not isinstance(values, list | tuple) or len(values) != 4:
        return None
    numbers = [float(v) for v in values if type(v) in _NUMBERS and math.isfinite(v)]
    return (numbers[0], numbers[1], numbers[2], numbers[3]) if len(numbers) == 4 else None
