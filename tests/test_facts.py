"""Infrared frames and times of pictures, drawn and real."""

from __future__ import annotations

import datetime
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from taco.device.images import Preprocessing, read_rgb, resize_crop
from taco.pictures.facts import facts_of, is_infrared, taken_at

Pixels = npt.NDArray[np.uint8]
SIDE = 224
AS_MODEL = Preprocessing((3, SIDE, SIDE), "bicubic", (0, 0, 0), (1, 1, 1), 0.875, "center")


def grey(noise: float = 12) -> npt.NDArray[np.float64]:
    """A frame of a flash at night: bright in the middle, black at the edge."""
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    light = 210 * np.exp(-1.2 * (x**2 + y**2)) + np.random.default_rng(0).normal(0, noise, (SIDE, SIDE))
    return np.repeat(light[..., None], 3, axis=2)


def pixels(values: npt.NDArray[np.float64]) -> Pixels:
    return values.clip(0, 255).astype(np.uint8)


def saved(values: npt.NDArray[np.float64]) -> Pixels:
    """As a camera stores it: its JPEG spills colour over the edges of a banner."""
    stream = io.BytesIO()
    Image.fromarray(pixels(values)).save(stream, "JPEG", quality=90)
    return np.asarray(Image.open(stream))


def bannered() -> Pixels:
    frame = grey()
    frame[-9:] = (20, 90, 200)
    frame[-7:-2, 10:60] = (240, 220, 20)
    return saved(frame)


def meadow() -> Pixels:
    frame = grey()
    frame[SIDE // 2 :, ..., 1] += 60
    return saved(frame)


def fox_in_snow() -> Pixels:
    frame = np.full((SIDE, SIDE, 3), 225.0) + np.random.default_rng(0).normal(0, 4, (SIDE, SIDE, 1))
    frame[60:120, 40:120] = (190, 110, 50)
    return saved(frame)


@dataclass(frozen=True)
class Frame:
    id: str
    make: Callable[[], Pixels]
    infrared: bool


@pytest.mark.parametrize(
    "case",
    [
        Frame("grey", lambda: saved(grey()), True),
        Frame("black", lambda: np.zeros((8, 8, 3), np.uint8), True),
        Frame("pink all over", lambda: saved(grey() + np.array([20, 0, 12])), True),
        Frame("pink by brightness", lambda: saved(grey() * (1.15, 1, 1.1)), True),
        Frame("pink, overexposed", lambda: saved(1.4 * grey() * (1.1, 1, 1.05)), True),
        Frame("coloured banner", bannered, True),
        Frame("meadow", meadow, False),
        Frame("fox in snow", fox_in_snow, False),
        Frame("colour noise", lambda: pixels(np.random.default_rng(0).normal(110, 25, (64, 64, 3))), False),
    ],
    ids=lambda case: case.id,
)
def test_infrared_is_grey_up_to_a_tint(case: Frame) -> None:
    assert is_infrared(case.make()) is case.infrared


#: Looked at one by one.
GREY = {
    *("2021-05-28_SYFR0041_deer", "2021-06-30_SYFR0218_cougar", "2021-07-24_SYFR0655_coyote"),
    *("2021-08-08_RCNX0063_fox", "2021-12-07_12080069_rabbit", "african_elephants_bw", "american_black_bear", "blank3"),
    *("2480", "2573", "2595", "2968", "2999", "3084", "4330", "4383", "4451", "6039", "8200", "8786", "9455"),
}


def test_real_camera_trap_frames_are_told_apart(real_pictures: Path) -> None:
    files = [p for p in (real_pictures / "camera_traps").rglob("*") if p.suffix.lower() in (".jpg", ".jpeg")]
    files = [p for p in files if "truncated" not in p.name and "error" not in p.name]
    found = {p.stem for p in files if is_infrared(resize_crop(read_rgb(p), AS_MODEL))}
    assert len(files) == 53
    assert found == GREY


# --- times ---------------------------------------------------------------------------------------------------------

ORIGINAL, DIGITIZED, CHANGED, EXIF_FOLDER = 0x9003, 0x9004, 0x0132, 0x8769


def seconds(*moment: int) -> float:
    return datetime.datetime(*moment, tzinfo=datetime.UTC).timestamp()  # type: ignore[arg-type,misc]


@dataclass(frozen=True)
class Stamp:
    id: str
    in_folder: dict[int, object]
    outside: dict[int, object]
    expected: float | None


@pytest.mark.parametrize(
    "case",
    [
        Stamp("none", {}, {}, None),
        Stamp(
            "original",
            {ORIGINAL: "2021:05:28 03:04:05"},
            {CHANGED: "2023:01:01 00:00:00"},
            seconds(2021, 5, 28, 3, 4, 5),
        ),
        Stamp("digitized", {DIGITIZED: "2021:05:28 03:04:05"}, {}, seconds(2021, 5, 28, 3, 4, 5)),
        Stamp("changed", {}, {CHANGED: "2021:05:28 03:04:05"}, seconds(2021, 5, 28, 3, 4, 5)),
        Stamp(
            "unset clock",
            {ORIGINAL: "0000:00:00 00:00:00"},
            {CHANGED: "2021:05:28 03:04:05"},
            seconds(2021, 5, 28, 3, 4, 5),
        ),
        Stamp("blank", {ORIGINAL: "    :  :     :  :  "}, {}, None),
        Stamp("padded", {ORIGINAL: "2021:05:28 03:04:05 \0"}, {}, seconds(2021, 5, 28, 3, 4, 5)),
        Stamp("words", {ORIGINAL: "yesterday"}, {}, None),
    ],
    ids=lambda case: case.id,
)
def test_when_a_picture_was_taken(case: Stamp, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.update(case.outside)
    if case.in_folder:
        exif.get_ifd(EXIF_FOLDER).update(case.in_folder)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", exif=exif)
    assert taken_at(tmp_path / "a.jpg") == case.expected


def test_damaged_exif_tells_nothing(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(EXIF_FOLDER)[ORIGINAL] = "2021:05:28 03:04:05"
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", exif=exif)
    whole = (tmp_path / "a.jpg").read_bytes()
    start = whole.index(b"Exif")
    told = set()
    for place in range(start, start + len(exif.tobytes()) - 22, 3):  # the date itself is at the end
        (tmp_path / "b.jpg").write_bytes(whole[:place] + b"\xff\x80\xff" + whole[place + 3 :])
        told.add(taken_at(tmp_path / "b.jpg"))
    assert told <= {None, seconds(2021, 5, 28, 3, 4, 5)}
    assert None in told


def test_a_real_frame_tells_its_time(real_pictures: Path) -> None:
    traps = real_pictures / "camera_traps"
    assert taken_at(traps / "southwest/IMAG0104_wolf.JPG") == seconds(2013, 4, 28, 0, 52, 34)
    assert taken_at(traps / "southwest/error_img.JPG") is None
    assert taken_at(traps / "nowhere.jpg") is None


def test_facts_hold_what_was_asked(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    facts = facts_of(saved(grey()), tmp_path / "a.png")
    assert (len(facts.phash), facts.infrared, facts.taken) == (32, True, None)
