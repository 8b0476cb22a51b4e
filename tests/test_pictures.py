"""The bank of pictures: read once, bounded memory, the same bytes in memory and on disk."""

from __future__ import annotations

import builtins
import errno
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from taco.device.images import Preprocessing, read_rgb, resize_crop, to_tensor
from taco.errors import TaskError, UnreadableImageError
from taco.pictures import bank as module
from taco.pictures.bank import BankOptions, PictureBank, any_readable, read_views
from taco.pictures.listing import Box, Skipped, View

SIZE = Preprocessing((3, 16, 24), "bilinear", (0.5, 0.4, 0.3), (0.2, 0.2, 0.2), 1.0, "center")


def picture(path: Path, height: int = 30, width: int = 40, seed: int = 0) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def views(tmp_path: Path) -> list[View]:
    return [View(picture(tmp_path / f"{n}.png", seed=n)) for n in range(5)]


def test_bank_holds_what_the_device_would_see(views: list[View], tmp_path: Path) -> None:
    bank = PictureBank.read(views, SIZE, BankOptions())
    assert bank.readable == tuple(views)
    expected = np.stack([resize_crop(read_rgb(view.path), SIZE) for view in views])
    np.testing.assert_array_equal(bank.pixels(views), expected)
    np.testing.assert_array_equal(bank.tensor(views), to_tensor(expected, SIZE))


def test_pictures_come_in_the_order_asked(views: list[View], tmp_path: Path) -> None:
    bank = PictureBank.read(views, SIZE, BankOptions())
    asked = [views[3], views[0], views[3]]
    for tensor, view in zip(bank.tensor(asked), asked, strict=True):
        np.testing.assert_array_equal(tensor, to_tensor(resize_crop(read_rgb(view.path), SIZE), SIZE)[0])


def test_batches_cover_everything_once(views: list[View], tmp_path: Path) -> None:
    bank = PictureBank.read(views, SIZE, BankOptions())
    batches = list(bank.batches(views, 2))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    np.testing.assert_array_equal(np.concatenate(batches), bank.tensor(views))
    with pytest.raises(ValueError, match="at least 1"):
        bank.batches(views, 0)


def test_unreadable_pictures_are_skipped_with_reasons(views: list[View], tmp_path: Path) -> None:
    empty, absent = tmp_path / "empty.jpg", tmp_path / "absent.jpg"
    empty.touch()
    bank = PictureBank.read([views[0], View(empty), views[1], View(absent), views[0]], SIZE, BankOptions())
    assert bank.readable == (views[0], views[1])
    assert bank.skipped == (
        Skipped(empty, "the file is empty (0 bytes)"),
        Skipped(absent, "there is no such file", passing=True),
    )
    with pytest.raises(TaskError, match=r"empty\.jpg is not among the pictures that were read"):
        bank.tensor([View(empty)])


def test_bank_in_a_file_opens_again(views: list[View], tmp_path: Path) -> None:
    empty = tmp_path / "empty.jpg"
    empty.touch()
    asked = [views[0], View(empty), View(views[1].path, Box(0.1, 0.2, 0.5, 0.5)), *views[1:]]
    kept = PictureBank.read(asked, SIZE, BankOptions(tmp_path / "bank"))
    again = PictureBank.open(tmp_path / "bank", json.loads(json.dumps(kept.index())), SIZE)
    in_memory = PictureBank.read(asked, SIZE, BankOptions())
    for bank in (kept, again):
        assert bank.skipped == in_memory.skipped
        assert dict(bank.facts) == dict(in_memory.facts)
        np.testing.assert_array_equal(bank.pixels(bank.readable), in_memory.pixels(in_memory.readable))
    with pytest.raises(ValueError, match="read-only"):
        again._pixels[0] = 0


def refuse(path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let every attempt to open a file fail."""
    real = builtins.open

    def opened(file: Any, *more: Any, **named: Any) -> Any:
        if file == path:
            raise error
        return real(file, *more, **named)

    monkeypatch.setattr(builtins, "open", opened)


@pytest.mark.parametrize(
    "error",
    [PermissionError(errno.EACCES, "Permission denied"), OSError(errno.ESTALE, "Stale file handle"), MemoryError()],
    ids=repr,
)
def test_what_failed_for_a_passing_reason_is_marked_and_added_later(
    views: list[View], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    (tmp_path / "bad.png").write_text("no picture")
    asked = [*views, View(tmp_path / "bad.png")]
    with monkeypatch.context() as patch:
        refuse(views[2].path, patch, error)
        first = PictureBank.read(asked, SIZE, BankOptions(tmp_path / "first"))
        assert not any_readable(first.passing)
    bank = PictureBank.open(tmp_path / "first", json.loads(json.dumps(first.index())), SIZE)
    assert bank.skipped == first.skipped
    assert bank.passing == (views[2].path,)
    assert any_readable(bank.passing)
    decoded: list[Path] = []

    def counted(path: Path) -> Image.Image:
        decoded.append(path)
        return read_rgb(path)

    monkeypatch.setattr(module, "read_rgb", counted)
    later = PictureBank.read(asked, SIZE, BankOptions(tmp_path / "later", known=bank))
    assert set(decoded) == {views[2].path, tmp_path / "bad.png"}, "what was read is taken over"
    assert later.passing == ()
    whole = PictureBank.read(asked, SIZE, BankOptions())
    assert later.index() == whole.index()
    np.testing.assert_array_equal(later.pixels(views), whole.pixels(views))


def test_an_older_index_marks_no_reason(views: list[View], tmp_path: Path) -> None:
    absent = tmp_path / "absent.png"
    bank = PictureBank.read([views[0], View(absent)], SIZE, BankOptions(tmp_path / "bank"))
    (readable, (path, box, told)) = bank.index()
    assert told == {"passing": "there is no such file"}
    again = PictureBank.open(tmp_path / "bank", [readable, [path, box, told["passing"]]], SIZE)
    assert again.skipped == (Skipped(absent, "there is no such file"),)
    assert again.passing == ()


def test_box_shows_only_what_it_holds(tmp_path: Path) -> None:
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[40:60, 150:170] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    inside, outside = (View(tmp_path / "a.png", Box(left, 0.4, 0.1, 0.2)) for left in (0.75, 0.1))
    bank = PictureBank.read([inside, outside], SIZE, BankOptions())
    assert bank.pixels([inside]).mean() > 100
    assert bank.pixels([outside]).max() == 0


def test_bank_cannot_be_changed(views: list[View], tmp_path: Path) -> None:
    bank = PictureBank.read(views, SIZE, BankOptions())
    bank.pixels(views)[:] = 0
    assert bank.pixels(views).any()
    with pytest.raises(ValueError, match="read-only"):
        bank._pixels[0] = 0


def test_full_disk_is_told_before_writing(views: list[View], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.os, "posix_fallocate", full)
    with pytest.raises(TaskError, match=r"the pictures need .* No space left on device\. Free some space"):
        PictureBank.read(views, SIZE, BankOptions(tmp_path / "bank"))
    assert not (tmp_path / "bank").exists()


def test_progress_runs_in_the_callers_thread(views: list[View], tmp_path: Path) -> None:
    seen: list[tuple[int, int, bool]] = []

    def progress(done: int, total: int) -> None:
        seen.append((done, total, threading.current_thread() is threading.main_thread()))

    PictureBank.read(views, SIZE, BankOptions(jobs=2, progress=progress))
    assert seen == [(n, 5, True) for n in range(1, 6)]


def test_no_more_pictures_are_open_than_jobs(
    views: list[View], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    more = [View(picture(tmp_path / f"more{n}.png")) for n in range(15)]
    PictureBank.read(more, SIZE, BankOptions(jobs=2))
    assert most[0] == 2


def test_warnings_of_pillow_stay_inside(tmp_path: Path) -> None:
    broken_exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x09\x01\x12"  # nine entries announced, half a one there
    Image.new("RGB", (20, 20)).save(tmp_path / "a.jpg", exif=broken_exif)
    with pytest.warns(UserWarning, match="EXIF"):
        Image.open(tmp_path / "a.jpg").close()
    bank = PictureBank.read([View(tmp_path / "a.jpg")], SIZE, BankOptions())  # warnings are errors here
    assert bank.skipped == ()


def test_no_pictures_at_all(tmp_path: Path) -> None:
    bank = PictureBank.read([], SIZE, BankOptions())
    assert bank.tensor([]).shape == (0, 3, 16, 24)
    assert list(bank.batches([], 4)) == []


def test_views_are_shrunk_never_enlarged(tmp_path: Path) -> None:
    wide, small = picture(tmp_path / "w.png", 60, 121), picture(tmp_path / "s.png", 9, 200)
    read = read_views([View(wide), View(small)], 30)
    assert [view.shape for view in read] == [(30, 60, 3), (9, 200, 3)]
    np.testing.assert_array_equal(read[1], np.asarray(read_rgb(small)))
    read[0][:] = 0  # the caller may work on them


def test_view_of_an_unreadable_picture_names_it(views: list[View], tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_text("no picture here, sorry")
    with pytest.raises(UnreadableImageError, match=r"bad\.jpg was readable when .* no longer is: it is not a picture"):
        read_views([*views, View(tmp_path / "bad.jpg")], 30)
