"""Decoding of hostile files, and pixels equal to timm's evaluation transform."""

from __future__ import annotations

import ast
import io
import math
import os
import struct
import threading
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps

from taco.device import images, resample
from taco.device.images import Preprocessing, UnreadableImage, read_rgb, resize_crop, to_tensor

ROOT = Path(__file__).parent.parent
DATA = Path(os.environ.get("TACO_TEST_DATA", ROOT / "../shared/data"))
needs_data = pytest.mark.skipif(not (DATA / "camera_traps").is_dir(), reason=f"no real pictures in {DATA}")
IMAGENET = Preprocessing((3, 32, 32), "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 0.875, "center")


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def timm_pixels(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    from timm.data import create_transform

    return np.asarray(create_transform(**preprocessing._asdict())(image))


def ours(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    return to_tensor(resize_crop(image, preprocessing), preprocessing)[0]


# --- equal to timm -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    id: str
    height: int
    width: int


SHAPES = [
    Shape("landscape", 90, 160),
    Shape("portrait", 160, 90),
    Shape("tall-y-first", 299, 84),
    Shape("square", 57, 57),
    Shape("already-right", 36, 36),
    Shape("one-pixel", 1, 1),
    Shape("row", 1, 7),
    Shape("long-thin", 3, 20000),
    Shape("tall-thin", 20000, 3),
]
# Of thin pictures in border mode, timm asks Pillow for a side of 0 and fails.
GOLDEN = [(s, m) for s in SHAPES for m in images.CROP_MODES if m != "border" or "thin" not in s.id]


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize(("shape", "crop_mode"), GOLDEN, ids=lambda v: v if isinstance(v, str) else v.id)
def test_pixels_equal_timm(shape: Shape, crop_mode: str, interpolation: str) -> None:
    image = Image.fromarray(noise(shape.height, shape.width))
    for size in ((3, 32, 32), (3, 24, 40)):
        wanted = IMAGENET._replace(crop_mode=crop_mode, interpolation=interpolation, input_size=size)
        np.testing.assert_array_equal(ours(image, wanted), timm_pixels(image, wanted))


@settings(max_examples=60, deadline=None)
@example(182, 7, (3, 17, 33), 1.3, "border")
@given(
    st.integers(1, 200),
    st.integers(1, 200),
    st.sampled_from([(3, 32, 32), (3, 40, 24), (3, 17, 33)]),
    st.sampled_from([0.7, 0.875, 0.9, 0.95, 1.0, 1.3]),
    st.sampled_from(images.CROP_MODES),
)
def test_pixels_equal_timm_for_any_shape(height: int, width: int, size: Any, crop_pct: float, crop_mode: str) -> None:
    whole = [math.floor(side / crop_pct) for side in size[1:]]
    ratio = max(height / whole[0], width / whole[1])
    if crop_mode == "border" and not (round(height / ratio) and round(width / ratio)):
        return  # timm asks Pillow for a side of 0
    wanted = IMAGENET._replace(input_size=size, crop_pct=crop_pct, crop_mode=crop_mode)
    image = Image.fromarray(noise(height, width, seed=height))
    np.testing.assert_array_equal(ours(image, wanted), timm_pixels(image, wanted))


@pytest.mark.parametrize("shape", SHAPES[-2:], ids=lambda s: s.id)
def test_strips_give_the_same_pixels(shape: Shape, monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.fromarray(noise(shape.height, shape.width))
    expected = timm_pixels(image, IMAGENET)
    monkeypatch.setattr(resample, "STRIP_PIXELS", 2500)
    np.testing.assert_array_equal(ours(image, IMAGENET), expected)


def test_thin_picture_needs_no_huge_intermediate() -> None:
    image = Image.fromarray(noise(1, 60000))  # 224 x 13,440,000 pixels if resized at once
    assert resize_crop(image, IMAGENET._replace(input_size=(3, 224, 224))).shape == (224, 224, 3)


def test_border_of_a_thin_picture_is_filled_with_the_mean() -> None:
    pixels = resize_crop(Image.fromarray(noise(3, 20000)), IMAGENET._replace(crop_mode="border", crop_pct=1.0))
    assert pixels[0, 0].tolist() == [124, 116, 104]
    assert pixels[-1, -1].tolist() == [124, 116, 104]


def test_too_thin_picture_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_LINE_PIXELS", 1000)
    with pytest.raises(UnreadableImage, match=r"too long and thin \(500 x 3 pixels\)"):
        resize_crop(Image.fromarray(noise(3, 500)), IMAGENET)


def test_equals_the_transform_of_a_real_model() -> None:
    import timm

    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    config = timm.data.resolve_model_data_config(model)
    image = Image.fromarray(noise(301, 400))
    expected = np.asarray(timm.data.create_transform(**config)(image))
    np.testing.assert_array_equal(ours(image, Preprocessing.from_dict(config)), expected)


def test_to_tensor_takes_batches_and_is_plain_float32() -> None:
    batch = np.stack([noise(5, 7, seed) for seed in range(3)])
    tensor = to_tensor(batch, IMAGENET)
    assert tensor.shape == (3, 3, 5, 7)
    assert tensor.dtype == np.float32
    assert tensor.flags.c_contiguous
    expected = (batch[1, 2, 3, 0] / 255 - 0.485) / 0.229
    assert tensor[1, 0, 2, 3] == pytest.approx(expected, abs=1e-6)
    np.testing.assert_array_equal(to_tensor(batch[1], IMAGENET)[0], tensor[1])


def test_to_tensor_leaves_its_input_alone() -> None:
    pixels = noise(4, 4)
    pixels.flags.writeable = False
    before = pixels.copy()
    to_tensor(pixels, IMAGENET)
    np.testing.assert_array_equal(pixels, before)


# --- preprocessing as data -----------------------------------------------------------------------------------------


def test_preprocessing_survives_json() -> None:
    import json

    assert Preprocessing.from_dict(json.loads(json.dumps(IMAGENET.to_dict()))) == IMAGENET


@dataclass(frozen=True)
class BadPreprocessing:
    id: str
    change: dict[str, Any]
    says: str


@pytest.mark.parametrize(
    "case",
    [
        BadPreprocessing("grey", {"input_size": [1, 32, 32]}, "input_size must be"),
        BadPreprocessing("zero", {"input_size": [3, 0, 32]}, "input_size must be"),
        BadPreprocessing("interpolation", {"interpolation": "random"}, "interpolation 'random' is none of"),
        BadPreprocessing("mode", {"crop_mode": "middle"}, "crop_mode 'middle' is none of"),
        BadPreprocessing("std", {"std": [0.2, 0, 0.2]}, "above 0"),
        BadPreprocessing("pct", {"crop_pct": -1}, "above 0"),
        BadPreprocessing("missing", {"mean": None, "std": None}, "lacks mean, std"),
    ],
    ids=lambda c: c.id,
)
def test_bad_preprocessing_is_refused(case: BadPreprocessing) -> None:
    with pytest.raises(ValueError, match=case.says):
        Preprocessing.from_dict({**IMAGENET.to_dict(), **case.change})


# --- reading -------------------------------------------------------------------------------------------------------

STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", STORED)
def test_exif_rotation_is_undone(orientation: int, suffix: str, tmp_path: Path) -> None:
    upright = noise(6, 9)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a{suffix}"
    options = {"lossless": True, "exact": True} if suffix == ".webp" else {}
    Image.fromarray(np.ascontiguousarray(STORED[orientation](upright))).save(path, exif=exif, **options)
    image = read_rgb(path)
    np.testing.assert_array_equal(np.asarray(image), upright)
    np.testing.assert_array_equal(np.asarray(ImageOps.exif_transpose(image)), upright)  # not turned twice


@dataclass(frozen=True)
class Stored:
    """A picture as stored, and the RGB rows that it means."""

    id: str
    image: Image.Image
    expected: list[list[int]]
    suffix: str = ".png"
    options: dict[str, Any] = field(default_factory=dict)


def grey(values: list[float], dtype: str) -> Image.Image:
    return Image.fromarray(np.array([values], dtype))


def palette() -> Image.Image:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1])
    return image


def pixel(mode: str, *values: tuple[int, ...]) -> Image.Image:
    image = Image.new(mode, (len(values), 1))
    for x, value in enumerate(values):
        image.putpixel((x, 0), value)
    return image


@pytest.mark.parametrize(
    "case",
    [
        Stored("1-bit", Image.new("1", (1, 1), 1), [[255] * 3]),
        Stored("grey", Image.new("L", (1, 1), 7), [[7] * 3]),
        Stored("grey+alpha", pixel("LA", (7, 255), (7, 0)), [[7] * 3, [255] * 3]),
        Stored("rgba", pixel("RGBA", (9, 8, 7, 255), (9, 8, 7, 0), (0, 0, 0, 51)), [[9, 8, 7], [255] * 3, [204] * 3]),
        Stored("palette", palette(), [[10, 20, 30], [200, 100, 50]]),
        Stored("palette, transparent", palette(), [[255] * 3, [200, 100, 50]], options={"transparency": 0}),
        Stored("palette, alpha bytes", palette(), [[10, 20, 30], [255] * 3], options={"transparency": b"\xff\x00"}),
        Stored("palette gif", palette(), [[255] * 3, [200, 100, 50]], ".gif", {"transparency": 0}),
        Stored(
            "rgb with a transparent colour", pixel("RGB", (1, 2, 3)), [[255] * 3], options={"transparency": (1, 2, 3)}
        ),
        Stored("16-bit png", grey([0, 257, 32768, 65535], "u2"), [[0] * 3, [1] * 3, [128] * 3, [255] * 3]),
        Stored("16-bit tiff", grey([0, 257, 65535], "u2"), [[0] * 3, [1] * 3, [255] * 3], ".tif"),
        Stored("16-bit big-endian tiff", grey([0, 65535], ">u2"), [[0] * 3, [255] * 3], ".tif"),
        Stored("32-bit tiff", grey([-5, 0, 250], "i4"), [[0] * 3, [5] * 3, [255] * 3], ".tif"),
        Stored("float tiff", grey([-1.0, 0.0, 1.0], "f4"), [[0] * 3, [128] * 3, [255] * 3], ".tif"),
        Stored("float, nan, inf", grey([np.nan, 2, 4, np.inf], "f4"), [[0] * 3, [0] * 3, [255] * 3, [255] * 3], ".tif"),
        Stored("float, constant", grey([3.0, 3.0], "f4"), [[0] * 3, [0] * 3], ".tif"),
        Stored("cmyk tiff", pixel("CMYK", (0, 255, 255, 0)), [[255, 0, 0]], ".tif"),
    ],
    ids=lambda c: c.id,
)
def test_every_kind_of_pixel(case: Stored, tmp_path: Path) -> None:
    path = tmp_path / f"a{case.suffix}"
    case.image.save(path, **case.options)
    image = read_rgb(path)
    assert image.mode == "RGB"
    assert np.asarray(image)[0].tolist() == case.expected


def test_16_bit_png_as_older_pillow_opens_it() -> None:
    image = Image.fromarray(np.array([[0, 257, 300]], np.int32))  # mode I, darker than its range
    assert np.asarray(images._to_rgb(image))[0, :, 0].tolist() == [0, 1, 1]


def test_cmyk_jpeg_is_not_inverted(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), (250, 10, 10)).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    red, green, blue = read_rgb(tmp_path / "a.jpg").getpixel((8, 8))  # type: ignore[misc]
    assert red > 230
    assert max(green, blue) < 30


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".tif"])
def test_first_frame_of_many(suffix: str, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:])
    red, _, blue = read_rgb(tmp_path / f"a{suffix}").getpixel((4, 4))  # type: ignore[misc]
    assert (red, blue) == (pytest.approx(255, abs=3), pytest.approx(0, abs=3))


def test_format_is_told_by_content_not_by_name(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert read_rgb(tmp_path / "a.jpg").size == (2, 2)


def encoded(kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(noise(40, 60)).save(stream, kind, **options)
    return stream.getvalue()


def png_claiming(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + header
        + struct.pack(">I", zlib.crc32(header))
        + b"\0\0\0\x0aIDAT"
    )


@dataclass(frozen=True)
class Unreadable:
    id: str
    content: bytes
    says: str


@pytest.mark.parametrize(
    "case",
    [
        Unreadable("empty", b"", r"empty \(0 bytes\)"),
        Unreadable("text", b"not a picture, only its name says so", "not a picture of a known format"),
        Unreadable("short text", b"x", "not a picture of a known format"),
        Unreadable("postscript", b"%!PS-Adobe-3.0 EPSF-3.0\n", "not a picture of a known format"),
        Unreadable("truncated jpeg", encoded("JPEG")[:-200], "cut short"),
        Unreadable("truncated png", encoded("PNG")[:-200], "cut short"),
        Unreadable("truncated gif", encoded("GIF")[:-200], "cut short"),
        Unreadable("truncated bmp", encoded("BMP")[:-200], "cut short"),
        Unreadable("truncated webp", encoded("WEBP")[:-200], "damaged|cut short"),
        Unreadable("truncated tiff", encoded("TIFF")[:40], "damaged|cut short"),
        Unreadable("jpeg head only", b"\xff\xd8\xff\xe0", "damaged|cut short"),
        Unreadable("bomb", png_claiming(20000, 9001), "20000 x 9001 pixels are more than the allowed 180 megapixels"),
        Unreadable("huge bomb", png_claiming(2**31 - 1, 2**31 - 1), "more than the allowed 180 megapixels"),
    ],
    ids=lambda c: c.id,
)
def test_unreadable_content_is_told_in_words(case: Unreadable, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(case.content)
    with pytest.raises(UnreadableImage, match=case.says) as caught:
        read_rgb(tmp_path / "a.jpg")
    assert str(tmp_path) not in caught.value.reason


def test_unreadable_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnreadableImage, match="no such file"):
        read_rgb(tmp_path / "absent.jpg")
    with pytest.raises(UnreadableImage, match="is a folder"):
        read_rgb(tmp_path)
    with pytest.raises(UnreadableImage, match="damaged"):
        read_rgb("a\0b.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(UnreadableImage, match="not a regular file"):
        read_rgb(tmp_path / "pipe.jpg")

    def forbidden(path: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(images.os, "stat", forbidden)
    with pytest.raises(UnreadableImage, match="no permission"):
        read_rgb(tmp_path / "pipe.jpg")


def test_large_but_allowed_picture_does_not_warn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)  # Pillow would warn between 500 and 1000 pixels
    with pytest.warns(Image.DecompressionBombWarning):
        Image.open(tmp_path / "a.png").close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_rgb(tmp_path / "a.png").size == (30, 20)


def test_reading_changes_no_settings(tmp_path: Path) -> None:
    (tmp_path / "cut.jpg").write_bytes(encoded("JPEG")[:-200])
    (tmp_path / "good.jpg").write_bytes(encoded("JPEG"))

    def state() -> tuple[object, ...]:
        return ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS, list(warnings.filters), threading.active_count()

    before = state()
    with pytest.raises(UnreadableImage):
        read_rgb(tmp_path / "cut.jpg")
    read_rgb(tmp_path / "good.jpg")
    assert state() == before


def test_broken_rotation_tag_does_not_lose_the_picture(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded("PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0"))
    np.testing.assert_array_equal(np.asarray(read_rgb(tmp_path / "a.png")), noise(40, 60))


SEEDS = [
    encoded("JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"),
    encoded("PNG"),
    encoded("TIFF", compression="tiff_lzw"),
    encoded("GIF"),
    encoded("BMP"),
    encoded("WEBP"),
]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6),
    st.integers(0, 2000),
)
def test_damage_gives_a_picture_or_a_reason(tmp_path: Path, seed: bytes, hits: list[tuple[int, int]], cut: int) -> None:
    content = bytearray(seed)
    for place, value in hits:
        content[place % len(content)] = value
    (tmp_path / "a").write_bytes(content[: len(content) - cut if cut < 1000 else None])
    try:
        mode, reason = read_rgb(tmp_path / "a").mode, ""
    except UnreadableImage as error:
        mode, reason = "", error.reason
    assert mode == "RGB" or len(reason) > 10


# --- on the device -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [images, resample], ids=lambda m: m.__name__)
def test_stays_within_python_38_and_the_device_package(module: Any) -> None:
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"), feature_version=(3, 8))
    imported = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert [name for name in imported if name.startswith("taco") and not name.startswith("taco.device")] == []


# --- real pictures -------------------------------------------------------------------------------------------------


@needs_data
def test_camera_trap_frames() -> None:
    folder = DATA / "camera_traps/speciesnet_test_data"
    reasons = {}
    for path in sorted(folder.glob("*.jpg")):
        try:
            image = read_rgb(path)
        except UnreadableImage as error:
            reasons[path.name] = error.reason
            continue
        np.testing.assert_array_equal(ours(image, IMAGENET), timm_pixels(image, IMAGENET))
    assert list(reasons) == ["african_elephants_truncated_file.jpg"]
    assert "cut short" in reasons["african_elephants_truncated_file.jpg"]


@needs_data
@pytest.mark.parametrize("variant", ["cmyk", "with_exif_orientation"])
def test_variants_of_one_frame_look_alike(variant: str) -> None:
    folder = DATA / "camera_traps/speciesnet_test_data"
    plain, other = (
        np.asarray(read_rgb(folder / f"african_elephants{end}.jpg").resize((64, 48)), np.float32)
        for end in ("", f"_{variant}")
    )
    assert np.abs(plain - other).mean() < 8
