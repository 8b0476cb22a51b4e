"""The upright size of a picture, from its header alone."""

from __future__ import annotations

import warnings
from pathlib import Path

from PIL import Image
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, TiffImageFile

from taco.device.images import DECODE_ERRORS, FORMATS

_ORIENTATION_TAG = 0x0112
_TURNED = frozenset({5, 6, 7, 8})


def upright_size(path: Path) -> tuple[float, float] | None:
    """Return (width, height) in pixels of a picture after its EXIF rotation; None where its header cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large pictures: none is decoded here
            with Image.open(path, formats=FORMATS) as image:
                width, height = _stored_size(image)
                turned = image.getexif().get(_ORIENTATION_TAG) in _TURNED
    except DECODE_ERRORS:  # the picture itself is read, and its damage told, elsewhere
        return None
    return (height, width) if turned else (width, height)


def _stored_size(image: Image.Image) -> tuple[float, float]:
    """Return the size before any rotation; that of a TIFF from its tags, since newer Pillows have turned `size`."""
    width, height = image.size
    if isinstance(image, TiffImageFile):
        width, height = image.tag_v2[IMAGEWIDTH], image.tag_v2[IMAGELENGTH]
    return float(width), float(height)
