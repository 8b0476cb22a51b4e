"""Files are written whole or not at all, and a failure says what to do."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from taco.errors import TacoError
from taco.files import sha256_of, write_atomically


def test_content_arrives_and_nothing_else_is_left(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a.bin", b"one")
    write_atomically(tmp_path / "a.bin", b"two")
    assert (tmp_path / "a.bin").read_bytes() == b"two"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def _full_disk(_descriptor: int) -> None:
    raise OSError(28, "No space left on device")


def _interrupt(_descriptor: int) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(("failure", "seen"), [(_full_disk, TacoError), (_interrupt, KeyboardInterrupt)])
def test_a_failure_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: object, seen: type[BaseException]
) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", failure)
    with pytest.raises(seen):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", _full_disk)
    with pytest.raises(TacoError, match=r"a\.bin cannot be written: No space left on device\. Free some space"):
        write_atomically(tmp_path / "a.bin", b"new")


@pytest.mark.parametrize("name", ["file/child", "absent/child", "x" * 300, "folder"])
def test_a_place_that_cannot_be_written_is_a_clear_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    with pytest.raises(TacoError, match="cannot be written"):
        write_atomically(tmp_path / name, b"content")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_hash_is_that_of_the_bytes(tmp_path: Path) -> None:
    content = os.urandom(300_000)
    (tmp_path / "a").write_bytes(content)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(content).hexdigest()
