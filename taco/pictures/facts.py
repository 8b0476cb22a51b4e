"""What is known of a picture beyond its pixels: a perceptual hash, whether it is infrared, and when it was taken.

The hash is ImageHash's pHash (256 bits): re-encoded, resized and slightly shifted copies differ in a few bits.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import imagehash
import numpy as np
import numpy.typing as npt
from PIL import Image

from taco.device.images import DECODE_ERRORS, FORMATS
from taco.formats.dates import clock, exif_date

HASH_SIDE = 16
_DATE_TAGS = (0x9003, 0x9004, 0x0132)  # DateTimeOriginal, DateTimeDigitized, DateTime
_EXIF_FOLDER = 0x8769
#: A frame is infrared when hardly a pixel's colour departs from the frame's tint by more than this (of 255).
#: Measured on 53 camera-trap frames: the 21 grey ones have no such pixel, a coloured banner leaves its own share of the
#: frame, tints of 15 % leave from 3 to 10 %, daylight frames have from 14 % (snow under trees), mostly over 30 %.
_TINT = 14
_COLOURED_SHARE = 0.07
_LIT, _FULL = 32, 250


class Facts(NamedTuple):
    """What is known of one view.

    Attributes:
        phash: 32 bytes.
        infrared: A grey picture (of a night flash), possibly with an even tint.
        taken: Seconds since 1970 on the camera's own clock, from EXIF; None without.
    """

    phash: bytes
    infrared: bool
    taken: float | None


def facts_of(pixels: npt.NDArray[np.uint8], path: Path) -> Facts:
    """Gather the facts of one view.

    Args:
        pixels: (H, W, 3) uint8, the view at the model's input size.
        path: Its file, for the time in its EXIF.
    """
    bits = imagehash.phash(Image.fromarray(pixels), HASH_SIDE).hash
    return Facts(np.packbits(bits).tobytes(), is_infrared(pixels), taken_at(path))


def is_infrared(pixels: npt.NDArray[np.uint8]) -> bool:
    """Tell whether a picture is grey up to a tint, as infrared flash photographs are.

    The tint may be the same everywhere, or grow with brightness; then it is another one where a channel is full.

    Args:
        pixels: (H, W, 3) uint8.
    """
    channels = pixels.reshape(-1, 3).astype(np.float32)
    colours = channels[:, [0, 2]] - channels[:, [1]]
    even = _coloured(colours - np.median(colours, axis=0))
    brightness = channels.mean(1, keepdims=True)
    lit = brightness[:, 0] > _LIT
    if even < _COLOURED_SHARE or not lit.any():
        return even < _COLOURED_SHARE
    growing = colours - brightness * np.median(colours[lit] / brightness[lit], axis=0)
    full = channels.max(1) >= _FULL  # there the tint fades
    if full.any():
        growing[full] = colours[full] - np.median(colours[full], axis=0)
    return _coloured(growing) < _COLOURED_SHARE


def _coloured(departures: npt.NDArray[np.float32]) -> float:
    """Return the share of pixels, of (n, 2) departures, that are not of the tint."""
    return float((np.abs(departures).sum(1) > _TINT).mean())


def taken_at(path: Path) -> float | None:
    """Return when a picture was taken (`Facts.taken`); None where EXIF does not say."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            exif = image.getexif()
            texts = [exif.get_ifd(_EXIF_FOLDER).get(tag) or exif.get(tag) for tag in _DATE_TAGS]
    except DECODE_ERRORS:  # damaged EXIF raises as damaged pictures do; the picture itself is read elsewhere
        return None
    return next((t for text in texts if (t := _seconds(text)) is not None), None)


def _seconds(text: object) -> float | None:
    moment = exif_date(text.strip("\0 ")) if isinstance(text, str) else None
    return None if moment is None else clock(moment)
