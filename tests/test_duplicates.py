"""Which pictures are told to be copies: drawn ones, real ones, and hashes made up at chosen distances."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageEnhance

from taco.device.images import read_rgb
from taco.errors import TaskError
from taco.pictures.duplicates import (
    DOUBTFUL_BITS,
    MOST_ALIKE,
    NEAR_BITS,
    SAME_BITS,
    exact_copies,
    labels_of,
    near_copies,
    sets_of,
    together,
)
from taco.pictures.facts import facts_of

NOWHERE = Path("/nowhere.jpg")
Hashes = npt.NDArray[np.uint8]


def hash_of(image: Image.Image) -> Hashes:
    pixels = np.asarray(image.convert("RGB").resize((224, 224), Image.Resampling.BICUBIC))
    return np.frombuffer(facts_of(pixels, NOWHERE).phash, np.uint8)


def clusters(hashes: Sequence[Hashes]) -> list[list[int]]:
    return [members for members in sets_of(near_copies(np.array(hashes))).values() if len(members) > 1]


def at_distance(origin: Hashes, bits: int, rng: np.random.Generator) -> Hashes:
    """Swap as many set as unset bits, so that half remain set."""
    unpacked = np.unpackbits(origin)
    for value in (0, 1):
        unpacked[rng.choice(np.flatnonzero(np.unpackbits(origin) == value), bits // 2, replace=False)] = 1 - value
    return np.packbits(unpacked)


def apart(count: int, rng: np.random.Generator) -> list[Hashes]:
    """Hashes of pictures that have nothing to do with each other."""
    return [np.packbits(rng.permutation(256) < 128) for _ in range(count)]


# --- bytes ---------------------------------------------------------------------------------------------------------


def test_files_are_one_by_content_and_by_link(tmp_path: Path) -> None:
    contents = {"a": b"fox", "b": b"hare", "c": b"fox", "d": b"owl"}  # two of one size, one of them different
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "e").symlink_to(tmp_path / "b")
    labels = exact_copies([tmp_path / name for name in "abcde"]).tolist()
    assert labels == [0, 1, 0, 2, 1]


def test_only_files_of_equal_size_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("a", 3), ("b", 4), ("c", 4)):
        (tmp_path / name).write_bytes(b"x" * size)
    read: list[str] = []
    opened = Path.open

    def noting(self: Path, mode: str = "r") -> io.IOBase:
        read.append(self.name)
        return opened(self, mode)  # type: ignore[return-value]

    monkeypatch.setattr(Path, "open", noting)
    assert exact_copies([tmp_path / name for name in "abc"]).tolist() == [0, 1, 1]
    assert sorted(read) == ["b", "c"]


def test_a_file_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"cannot read .*gone: No such file.*Leave the pictures in place"):
        exact_copies([tmp_path / "gone"])


# --- looks ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Near:
    id: str
    make: Callable[[Image.Image], Image.Image]


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream)


def cropped(image: Image.Image, share: float, at: float) -> Image.Image:
    width, height = image.size
    left, top = (int(side * share * at) for side in image.size)
    return image.crop((left, top, left + int(width * (1 - share)), top + int(height * (1 - share))))


def noisy(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image) + np.random.default_rng(0).normal(0, 8, (*image.size[::-1], 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def bannered(image: Image.Image) -> Image.Image:
    copy = image.copy()
    copy.paste((10, 10, 10), (0, image.height - image.height // 14, *image.size))
    return copy


@pytest.mark.parametrize(
    "case",
    [
        Near("jpeg 30", lambda i: jpeg(i, 30)),
        Near("a quarter", lambda i: i.resize((i.width // 4, i.height // 4))),
        Near("brighter", lambda i: ImageEnhance.Brightness(i).enhance(1.3)),
        Near("darker", lambda i: ImageEnhance.Brightness(i).enhance(0.7)),
        Near("contrast", lambda i: ImageEnhance.Contrast(i).enhance(1.3)),
        Near("grey", lambda i: i.convert("L")),
        Near("noise", noisy),
        Near("banner", bannered),
        Near("crop of 4 %", lambda i: cropped(i, 0.04, 0.5)),
        Near("shift by 2 %", lambda i: cropped(i, 0.02, 0.0)),
    ],
    ids=lambda case: case.id,
)
def test_copies_of_real_pictures_are_found_and_nothing_else(case: Near, real_pictures: Path) -> None:
    paths = sorted((real_pictures / "animals").glob("*/*.jpg"))[::29]
    originals = [read_rgb(path) for path in paths]
    found = clusters([hash_of(image) for image in originals] + [hash_of(case.make(image)) for image in originals])
    expected = [[n, n + len(paths)] for n in range(len(paths))]
    assert len(paths) > 100
    assert sum(pair in expected for pair in found) >= 0.97 * len(paths)
    assert all(pair in expected for pair in found)


def test_one_picture_in_four_formats_and_one_scene_two_weeks_apart_stay_together(real_pictures: Path) -> None:
    traps = real_pictures / "camera_traps"
    paths = sorted((traps / "speciesnet_test_data").glob("*.jpg")) + sorted((traps / "zamba_assets").rglob("*.jpg"))
    paths = [path for path in paths if "truncated" not in path.name]
    found = clusters([hash_of(read_rgb(path)) for path in paths])
    forms = ("", "_bw", "_cmyk", "_with_exif_orientation")
    assert [[paths[n].name for n in members] for members in found] == [
        [f"african_elephants{form}.jpg" for form in forms],
        ["352.jpg", "596.jpg"],
    ]


def solid(rng: np.random.Generator) -> Hashes:
    return hash_of(Image.new("RGB", (64, 64), tuple(int(v) for v in rng.integers(0, 255, 3))))


def dark(rng: np.random.Generator) -> Hashes:
    return hash_of(Image.fromarray(rng.normal(6, 3, (224, 224, 3)).clip(0, 255).astype(np.uint8)))


def dark_with_banner(rng: np.random.Generator) -> Hashes:
    image = Image.fromarray(rng.normal(4, 2, (224, 224, 3)).clip(0, 255).astype(np.uint8))
    drawn = ImageDraw.Draw(image)
    drawn.rectangle((0, 208, 224, 224), fill=(230, 230, 230))
    drawn.text((10, 210), f"2021-05-{rng.integers(10, 30)} 0{rng.integers(9)}:{rng.integers(10, 60)}", fill=(0, 0, 0))
    return hash_of(image)


def night_at_one_place(rng: np.random.Generator) -> Hashes:
    y, x = np.mgrid[-1:1:224j, -1:1:224j]
    flash = 60 * np.exp(-1.5 * (x**2 + y**2))[..., None]
    return hash_of(Image.fromarray((flash + rng.normal(0, 4, (224, 224, 3))).clip(0, 255).astype(np.uint8)))


@pytest.mark.parametrize("make", [solid, dark, dark_with_banner, night_at_one_place])
def test_flat_and_dark_pictures_do_not_chain(make: Callable[[np.random.Generator], Hashes]) -> None:
    rng = np.random.default_rng(1)
    hashes = [make(rng) for _ in range(MOST_ALIKE + 30)]
    assert max(map(len, clusters(hashes)), default=1) <= len(hashes) // 8


# --- distances -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "count"), [(0, 1), (SAME_BITS, 1), (NEAR_BITS, 1), (NEAR_BITS + 2, 2), (128, 2)])
def test_the_distance_that_counts(bits: int, count: int) -> None:
    rng = np.random.default_rng(0)
    [origin] = apart(1, rng)
    assert len(set(near_copies(np.array([origin, at_distance(origin, bits, rng)])).tolist())) == count


def test_where_the_gap_is_full_only_re_encodings_count() -> None:
    rng = np.random.default_rng(0)
    [origin] = apart(1, rng)
    near, same = at_distance(origin, NEAR_BITS, rng), at_distance(origin, SAME_BITS, rng)
    kin = [at_distance(origin, DOUBTFUL_BITS, rng) for _ in range(9)]
    assert clusters([origin, near]) == [[0, 1]]
    assert clusters([origin, same, *kin]) == [[0, 1]]
    assert clusters([origin, near, *kin]) == []


def test_a_hash_and_its_opposite_are_not_alike() -> None:
    [origin] = apart(1, np.random.default_rng(0))  # their 256 bits of difference do not fit a byte
    assert clusters([origin, ~origin]) == []


@given(st.integers(0, 2**32), st.lists(st.integers(0, 12), min_size=1, max_size=60))
def test_copies_are_found_among_others_in_any_order(seed: int, of: list[int]) -> None:
    rng = np.random.default_rng(seed)
    origins = apart(13, rng)
    hashes = [at_distance(origins[n], int(rng.choice([0, 10, 20])), rng) for n in of]
    assert labels_of(near_copies(np.array(hashes)).tolist()).tolist() == labels_of(of).tolist()


def test_nothing_has_no_copies() -> None:
    assert near_copies(np.zeros((0, 32), np.uint8)).tolist() == exact_copies([]).tolist() == []


@given(st.integers(1, 12).flatmap(lambda n: st.lists(st.lists(st.integers(0, 6), min_size=n, max_size=n), min_size=1)))
def test_together_is_the_finest_that_holds_all(labellings: list[list[int]]) -> None:
    parts = together(*(np.array(labels, np.intp) for labels in labellings)).tolist()
    positions = range(len(parts))
    linked = {(i, j) for i in positions for j in positions if any(of[i] == of[j] for of in labellings)}
    reached = {0}
    for _ in positions:
        reached |= {j for i, j in linked if i in reached}
    assert {n for n in positions if parts[n] == parts[0]} == reached
    assert all(parts[i] == parts[j] for i, j in linked)
