"""Resampling with Pillow's pixels, one axis at a time.

Pillow resamples one axis after the other, rounding to 8 bits in between. Doing the passes one by one and cropping
between them gives equal pixels, in an order that does not depend on the release of Pillow, and without gigabytes for
long thin pictures. Python 3.8 syntax.
"""

from __future__ import annotations

from typing import NamedTuple, Tuple

from PIL import Image

FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}
MAX_LINE_PIXELS = 16_000_000  # the longest intermediate line: Pillow keeps up to 60 bytes of coefficients a pixel of it
STRIP_PIXELS = 4_000_000  # what is resized at once, 4 bytes a pixel, where one line is not longer


class Pass(NamedTuple):
    """Resize one axis (0 = x, 1 = y) to `length` and keep the pixels from `start` to before `stop`."""

    axis: int
    length: int
    start: int
    stop: int

    def pair(self, along: int, across: int) -> Tuple[int, int]:
        """Return (x, y) of what lies `along` the axis and `across` it."""
        return (along, across) if self.axis == 0 else (across, along)


def resample(image: Image.Image, passes: Tuple[Pass, Pass], kind: str) -> Image.Image:
    """Resize and crop an RGB picture.

    Args:
        image: RGB.
        passes: The pass along x, then the one along y; both within `MAX_LINE_PIXELS`.
        kind: A key of `FILTERS`.
    """
    # Pillow's order, which shows in the last bit: y first if that axis loses more than twice as many pixels. Older
    # releases always begin with x; spelling the order out makes every device agree with the host.
    lost_x, lost_y = (image.size[step.axis] - step.length for step in passes)
    for step in reversed(passes) if lost_y > max(0, 2 * lost_x) else passes:
        image = _resample_axis(image, step, FILTERS[kind])
    return image


def _resample_axis(image: Image.Image, step: Pass, filter_number: int) -> Image.Image:
    """Resize one axis in strips, because the lines along it do not depend on each other."""
    length, lines = image.size[step.axis], image.size[1 - step.axis]
    lines_at_once = max(1, STRIP_PIXELS // step.length)
    joined = Image.new("RGB", step.pair(step.stop - step.start, lines))
    for first in range(0, lines, lines_at_once):
        last = min(lines, first + lines_at_once)
        strip = image if last - first == lines else image.crop(step.pair(0, first) + step.pair(length, last))
        if length != step.length:
            strip = strip.resize(step.pair(step.length, last - first), filter_number)
        kept = strip.crop(step.pair(step.start, 0) + step.pair(step.stop, last - first))
        joined.paste(kept, step.pair(0, first))
    return joined
