"""The bank of pictures: read once, bounded memory, the same bytes in memory and on disk."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from taco import pictures as module
from taco.device.images import Preprocessing, read_rgb, resize_crop, to_tensor
from taco.errors import TaskError, UnreadableImageError
from taco.pictures import BankOptions, PictureBank, read_views
from taco.task import Skipped

SIZE = Preprocessing((3, 16, 24), "bilinear", (0.5, 0.4, 0.3), (0.2, 0.2, 0.2), 1.0, "center")


def picture(path: Path, height: int = 30, width: int = 40, seed: int = 0) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    return [picture(tmp_path / f"{n}.png", seed=n) for n in range(5)]


def test_bank_holds_what_the_device_would_see(paths: list[Path], tmp_path: Path) -> None:
    bank = PictureBank.read(paths, SIZE, BankOptions(tmp_path))
    assert bank.readable == tuple(paths)
    expected = np.stack([resize_crop(read_rgb(path), SIZE) for path in paths])
    np.testing.assert_array_equal(bank.pixels(paths), expected)
    np.testing.assert_array_equal(bank.tensor(paths), to_tensor(expected, SIZE))


def test_pictures_come_in_the_order_asked(paths: list[Path], tmp_path: Path) -> None:
    bank = PictureBank.read(paths, SIZE, BankOptions(tmp_path))
    asked = [paths[3], paths[0], paths[3]]
    for tensor, path in zip(bank.tensor(asked), asked, strict=True):
        np.testing.assert_array_equal(tensor, to_tensor(resize_crop(read_rgb(path), SIZE), SIZE)[0])


def test_batches_cover_everything_once(paths: list[Path], tmp_path: Path) -> None:
    bank = PictureBank.read(paths, SIZE, BankOptions(tmp_path))
    batches = list(bank.batches(paths, 2))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    np.testing.assert_array_equal(np.concatenate(batches), bank.tensor(paths))
    with pytest.raises(ValueError, match="at least 1"):
        bank.batches(paths, 0)


def test_unreadable_pictures_are_skipped_with_reasons(paths: list[Path], tmp_path: Path) -> None:
    empty, absent = tmp_path / "empty.jpg", tmp_path / "absent.jpg"
    empty.touch()
    bank = PictureBank.read([paths[0], empty, paths[1], absent, paths[0]], SIZE, BankOptions(tmp_path))
    assert bank.readable == (paths[0], paths[1])
    assert bank.skipped == (
        Skipped(empty, "the file is empty (0 bytes)"),
        Skipped(absent, "there is no such file"),
    )
    with pytest.raises(TaskError, match=r"empty\.jpg is not among the pictures that were read"):
        bank.tensor([empty])


def test_large_bank_lies_on_disk_and_leaves_nothing(paths: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "run" / "bank"
    bank = PictureBank.read(paths, SIZE, BankOptions(folder, memory_limit_bytes=100))
    assert isinstance(bank._pixels, np.memmap)
    assert list(folder.iterdir()) == []  # the file has no name: it is gone with the process
    in_memory = PictureBank.read(paths, SIZE, BankOptions(folder))
    assert not isinstance(in_memory._pixels, np.memmap)
    np.testing.assert_array_equal(bank.tensor(paths), in_memory.tensor(paths))


def test_bank_cannot_be_changed(paths: list[Path], tmp_path: Path) -> None:
    bank = PictureBank.read(paths, SIZE, BankOptions(tmp_path))
    bank.pixels(paths)[:] = 0
    assert bank.pixels(paths).any()
    with pytest.raises(ValueError, match="read-only"):
        bank._pixels[0] = 0


def test_full_disk_is_told_before_writing(paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = module.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(TaskError, match=r"the pictures need .* are free\. Free some space"):
        PictureBank.read(paths, SIZE, BankOptions(tmp_path, memory_limit_bytes=100))


def test_folder_that_cannot_be_made_is_an_error(paths: list[Path]) -> None:
    with pytest.raises(TaskError, match="cannot write to"):
        PictureBank.read(paths, SIZE, BankOptions(paths[0], memory_limit_bytes=100))


def test_progress_runs_in_the_callers_thread(paths: list[Path], tmp_path: Path) -> None:
    seen: list[tuple[int, int, bool]] = []

    def progress(done: int, total: int) -> None:
        seen.append((done, total, threading.current_thread() is threading.main_thread()))

    PictureBank.read(paths, SIZE, BankOptions(tmp_path, jobs=2, progress=progress))
    assert seen == [(n, 5, True) for n in range(1, 6)]


def test_no_more_pictures_are_open_than_jobs(
    paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, open_now, most = threading.Lock(), [0], [0]

    def counted(path: Path) -> Image.Image:
        with lock:
            open_now[0] += 1
            most[0] = max(most[0], open_now[0])
        image = read_rgb(path)
        threading.Event().wait(0.01)
        with lock:
            open_now[0] -= 1
        return image

    monkeypatch.setattr(module, "read_rgb", counted)
    more = [picture(tmp_path / f"more{n}.png") for n in range(15)]
    PictureBank.read(more, SIZE, BankOptions(tmp_path, jobs=2))
    assert most[0] == 2


def test_warnings_of_pillow_stay_inside(tmp_path: Path) -> None:
    broken_exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x09\x01\x12"  # nine entries announced, half a one there
    Image.new("RGB", (20, 20)).save(tmp_path / "a.jpg", exif=broken_exif)
    with pytest.warns(UserWarning, match="EXIF"):
        Image.open(tmp_path / "a.jpg").close()
    bank = PictureBank.read([tmp_path / "a.jpg"], SIZE, BankOptions(tmp_path))  # warnings are errors here
    assert bank.skipped == ()


def test_no_pictures_at_all(tmp_path: Path) -> None:
    bank = PictureBank.read([], SIZE, BankOptions(tmp_path))
    assert bank.tensor([]).shape == (0, 3, 16, 24)
    assert list(bank.batches([], 4)) == []


def test_views_are_shrunk_never_enlarged(tmp_path: Path) -> None:
    wide, small = picture(tmp_path / "w.png", 60, 121), picture(tmp_path / "s.png", 9, 200)
    views = read_views([wide, small], 30)
    assert [view.shape for view in views] == [(30, 60, 3), (9, 200, 3)]
    np.testing.assert_array_equal(views[1], np.asarray(read_rgb(small)))
    views[0][:] = 0  # the caller may work on them


def test_view_of_an_unreadable_picture_names_it(paths: list[Path], tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_text("no picture here, sorry")
    with pytest.raises(UnreadableImageError, match=r"bad\.jpg: it is not a picture"):
        read_views([*paths, tmp_path / "bad.jpg"], 30)
