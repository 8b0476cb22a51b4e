"""Pictures on the device: decode any file, resize and crop as the model was trained, normalise.

`resize_crop` and `to_tensor` give the pixels of timm's evaluation transform (`timm.data.create_transform` on
`resolve_model_data_config`), without torch: host and device must see the same picture.

Python 3.8 syntax; numpy and Pillow >= 9 only. No Pillow or warning settings are changed, so threads may share it.
"""

from __future__ import annotations

import math
import os
import stat
import struct
import zlib
from typing import IO, TYPE_CHECKING, Any, Dict, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import numpy as np
from PIL import BmpImagePlugin, GifImagePlugin, Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin

from taco.device.normalise import normalised
from taco.device.resample import FILTERS, MAX_LINE_PIXELS, Pass, resample

if TYPE_CHECKING:
    import numpy.typing as npt
    from PIL import ImageFile

MAX_PIXELS = 180_000_000
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF")
CROP_MODES = ("center", "squash", "border")

# Importing a plug-in is what registers its format with Pillow.
_PLUGINS = (BmpImagePlugin, GifImagePlugin, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin)
_ORIENTATION_TAG = 0x0112
_BITS_PER_SAMPLE_TAG = 258
_UPRIGHT = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # EXIF orientation -> Pillow transpose method
# What Pillow's plug-ins raise on damaged files, gathered by feeding them damaged files.
DECODE_ERRORS = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError),
    *(SyntaxError, TypeError, ValueError, Warning, struct.error, zlib.error, Image.DecompressionBombError),
)


class UnreadableImage(Exception):  # noqa: N818 - an outcome that callers list, not a failure of the program
    """A file that cannot be used as a picture.

    Args:
        reason: Why, in words that a person understands; it does not repeat the path.
        passing: The fault is the machine's rather than the file's, so that another try may succeed.
    """

    def __init__(self, reason: str, passing: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.passing = passing


class Preprocessing(NamedTuple):
    """How a model wants its pictures: the fields of timm's data configuration.

    `input_size` is (channels, height, width); `mean` and `std` are in units of the pixel range 0-1.
    """

    input_size: Tuple[int, int, int]
    interpolation: str
    mean: Tuple[float, float, float]
    std: Tuple[float, float, float]
    crop_pct: float
    crop_mode: str

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Preprocessing":
        """Build from timm's data configuration or from `to_dict`; further keys are ignored.

        Raises:
            ValueError: If a field is missing or has a value that cannot be used.
        """
        missing = [name for name in cls._fields if values.get(name) is None]
        if missing:
            raise ValueError("preprocessing lacks " + ", ".join(missing))
        channels, height, width = (int(n) for n in values["input_size"])
        mean, std = _three(values["mean"]), _three(values["std"])
        interpolation, crop_mode = str(values["interpolation"]), str(values["crop_mode"])
        made = cls((channels, height, width), interpolation, mean, std, float(values["crop_pct"]), crop_mode)
        made._check()
        return made

    def to_dict(self) -> Dict[str, Any]:
        """Return a dictionary that JSON can hold and `from_dict` reads."""
        fields = self._asdict()
        return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}

    def _check(self) -> None:
        if self.input_size[0] != 3 or min(self.input_size) < 1:
            raise ValueError("input_size must be (3, height, width), not {}".format(self.input_size))
        if self.interpolation not in FILTERS:
            raise ValueError("interpolation {!r} is none of {}".format(self.interpolation, ", ".join(FILTERS)))
        if self.crop_mode not in CROP_MODES:
            raise ValueError("crop_mode {!r} is none of {}".format(self.crop_mode, ", ".join(CROP_MODES)))
        if not self.crop_pct > 0 or not min(self.std) > 0:
            raise ValueError("crop_pct and std must be above 0")


def read_rgb(path: Union[str, "os.PathLike[str]"]) -> Image.Image:
    """Decode a picture fully, upright, as 8-bit RGB.

    Transparent pixels are laid on white. 16-bit grey is scaled by the range of its type; 32-bit integers and floats,
    which hardly ever fill theirs, from their smallest to their largest value. Of an animation, the first frame.

    Raises:
        UnreadableImage: If the file is missing, damaged, too large, or not a picture.
    """
    try:
        _check_is_file(path)
        with open(path, "rb") as stream:
            image = _open(stream, os.fspath(path))
            _check_size(image.size)
            image.load()
            upright = _upright(_to_rgb(image), _orientation(image))
    except DECODE_ERRORS as error:
        raise UnreadableImage(_in_words(error), _is_passing(error)) from error
    upright.info = {}  # the rotation is done: nobody must find the tag and do it again
    return upright


def crop_box(image: Image.Image, box: Sequence[float], margin: float) -> Image.Image:
    """Cut out the square around a box, so that later resizing keeps the animal's proportions.

    Args:
        image: An upright picture.
        box: (left, top, width, height) as fractions of the picture.
        margin: Added on every side, as a fraction of the box's longer side.

    Returns:
        The square, moved inside the picture where it would leave it, and cut where it is larger than the picture.
    """
    left, top, width, height = (f * side for f, side in zip(box, image.size * 2))  # noqa: B905 - Python 3.8
    side = max(1.0, max(width, height) * (1 + 2 * margin))
    edges = []
    for start, length, whole in ((left, width, image.size[0]), (top, height, image.size[1])):
        span = min(side, whole)
        begin = min(max(0.0, start + length / 2 - span / 2), whole - span)
        first = min(round(begin), whole - 1)
        edges.append((first, min(whole, max(first + 1, round(begin + span)))))
    (x0, x1), (y0, y1) = edges
    return image.crop((x0, y0, x1, y1))


def resize_crop(image: Image.Image, preprocessing: Preprocessing) -> "npt.NDArray[np.uint8]":
    """Resize and crop an RGB picture as timm's evaluation transform does.

    Returns:
        uint8 array (height, width, 3) of the model's input size.

    Raises:
        UnreadableImage: If the picture is too long and thin to be resized.
    """
    height, width = preprocessing.input_size[1:]
    new_height, new_width = _resized(image.size[1], image.size[0], preprocessing)
    if max(new_height, new_width) > MAX_LINE_PIXELS:
        raise UnreadableImage("the picture is too long and thin ({} x {} pixels)".format(*image.size))
    left, top = _crop_start(new_width, width), _crop_start(new_height, height)
    passes = (
        Pass(0, new_width, max(0, left), min(new_width, left + width)),
        Pass(1, new_height, max(0, top), min(new_height, top + height)),
    )
    part = np.array(resample(image, passes, preprocessing.interpolation))
    if part.shape[:2] == (height, width):
        return part
    canvas = np.zeros((height, width, 3), np.uint8)
    if preprocessing.crop_mode == "border":
        canvas[:] = [round(255 * v) for v in preprocessing.mean]
    y, x = max(0, -top), max(0, -left)
    canvas[y : y + part.shape[0], x : x + part.shape[1]] = part
    return canvas


def to_tensor(pixels: "npt.NDArray[np.uint8]", preprocessing: Preprocessing) -> "npt.NDArray[np.float32]":
    """Normalise pictures for the model.

    Args:
        pixels: uint8 array (n, height, width, 3), or one picture (height, width, 3).
        preprocessing: Gives `mean` and `std`.

    Returns:
        Contiguous float32 array (n, 3, height, width).
    """
    return normalised(pixels[np.newaxis] if pixels.ndim == 3 else pixels, preprocessing.mean, preprocessing.std)


def _three(values: Sequence[float]) -> Tuple[float, float, float]:
    red, green, blue = (float(v) for v in values)
    return red, green, blue


def _check_is_file(path: Union[str, "os.PathLike[str]"]) -> None:
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise UnreadableImage("it is a folder")
    if not stat.S_ISREG(mode):
        raise UnreadableImage("it is not a regular file")  # opening a pipe would wait for ever


def _open(stream: IO[bytes], path: str) -> "ImageFile.ImageFile":
    # Not Image.open: it warns about sizes that we allow, and silencing warnings is not safe in threads.
    prefix = stream.read(16)
    if not prefix:
        raise UnreadableImage("the file is empty (0 bytes)")
    for name in FORMATS:
        factory, accept = Image.OPEN[name]
        accepted = accept(prefix) if accept else True
        if isinstance(accepted, str):
            raise UnreadableImage("this Pillow cannot read {} files".format(name))
        if accepted:
            stream.seek(0)
            return factory(stream, path)
    raise UnreadableImage("it is not a picture of a known format ({})".format(", ".join(FORMATS)))


def _check_size(size: Tuple[int, int]) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        limit = MAX_PIXELS // 1_000_000
        raise UnreadableImage("{} x {} pixels are more than the allowed {} megapixels".format(*size, limit))


def _is_passing(error: BaseException) -> bool:
    # Pillow raises OSError for damaged files, too, without a number.
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None)


def _in_words(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, PermissionError):
        return "there is no permission to read it"
    if isinstance(error, Image.DecompressionBombError):
        return "its frames are larger than allowed"
    if isinstance(error, MemoryError):
        return "there is not enough memory to decode it"
    text = str(error)
    if isinstance(error, (EOFError, struct.error)):
        return "the file is cut short"
    if "truncated" in text.lower():
        return "the file is cut short ({})".format(text)
    return "the file is damaged ({})".format(text or type(error).__name__)


def _orientation(image: Image.Image) -> int:
    # Asked after load(): PNG may carry the tag behind the pixels, and TIFF has been turned by Pillow itself.
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except DECODE_ERRORS:
        return 1  # a damaged tag is no reason to lose a good picture
    return value if isinstance(value, int) else 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    method = _UPRIGHT.get(orientation)
    return image if method is None else image.transpose(method)  # type: ignore[arg-type]


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_to_bytes(image)).convert("RGB")
    if _has_transparency(image):
        straight = image.convert("LA") if image.mode == "La" else image
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, straight.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _has_transparency(image: Image.Image) -> bool:
    palette = image.palette.mode if image.mode == "P" and image.palette is not None else ""
    return image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info or palette.endswith("A")


def _to_bytes(image: Image.Image) -> "npt.NDArray[np.uint8]":
    values: npt.NDArray[np.float64] = np.asarray(image).astype(np.float64)
    finite = values[np.isfinite(values)]
    if not finite.size:
        raise UnreadableImage("it holds no finite pixel")
    smallest, largest, bits = float(finite.min()), float(finite.max()), _integer_bits(image)
    low, high = (min(0.0, smallest), 2.0**bits - 1.0) if bits else (smallest, largest)  # signed ones start below 0
    if low == high:
        return np.zeros(values.shape, np.uint8)
    known = np.clip(np.where(np.isnan(values), low, values), low, high)  # infinities become the ends
    return ((known - low) * (255.0 / (high - low)) + 0.5).astype(np.uint8)


def _integer_bits(image: Image.Image) -> Optional[int]:
    # Pillow's modes are containers: old releases open 16-bit PNG as 32-bit "I", TIFF keeps 12 bits in "I;16".
    tags = getattr(image, "tag_v2", None)
    if image.mode == "F":
        return None
    if tags is None:
        return 16
    bits = int(tags.get(_BITS_PER_SAMPLE_TAG, (16,))[0])
    return bits if bits <= 16 else None


def _resized(height: int, width: int, preprocessing: Preprocessing) -> Tuple[int, int]:
    _, crop_height, crop_width = preprocessing.input_size
    target_height = math.floor(crop_height / preprocessing.crop_pct)
    target_width = math.floor(crop_width / preprocessing.crop_pct)
    if preprocessing.crop_mode == "squash":
        return target_height, target_width
    if preprocessing.crop_mode == "center" and target_height == target_width:
        short, long = min(height, width), max(height, width)
        new_long = int(target_width * long / short)
        return (new_long, target_width) if width <= height else (target_width, new_long)
    choose = max if preprocessing.crop_mode == "border" else min
    ratio = choose(height / target_height, width / target_width)
    return max(1, round(height / ratio)), max(1, round(width / ratio))


def _crop_start(length: int, crop: int) -> int:
    if crop > length:
        return -((crop - length) // 2)
    return round((length - crop) / 2.0)
