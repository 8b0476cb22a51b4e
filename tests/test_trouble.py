"""What the system refuses is told with its file, and never as a fault of ours; a real fault stays one."""

from __future__ import annotations

import dataclasses
import errno
from pathlib import Path

import pytest

from taco.trouble import explain


@dataclasses.dataclass(frozen=True)
class Told:
    name: str
    error: BaseException
    said: tuple[str, ...]


TOLD = (
    Told("full, of a write", OSError(errno.ENOSPC, "x"), ("No space left", "Free some space")),
    Told("full, of a file", OSError(errno.ENOSPC, "x", "/runs/a"), ("/runs/a: No space left", "Free some space")),
    Told("quota", OSError(errno.EDQUOT, "x", "/runs/a"), ("/runs/a", "quota")),
    Told("read-only", OSError(errno.EROFS, "x", b"/runs/a"), ("/runs/a: Read-only", "choose an --out elsewhere")),
    Told("permission", PermissionError(errno.EACCES, "x", Path("/runs/a")), ("/runs/a: Permission denied", "Ask")),
    Told("broken card", OSError(errno.EIO, "x"), ("Input/output error", "failing")),
    Told("gone", FileNotFoundError(errno.ENOENT, "x", "/a.jpg"), ("/a.jpg: No such file", "put it back")),
    Told("renamed", OSError(errno.ENOSPC, "x", "a.tmp", None, "/runs/a"), ("/runs/a: No space left",)),
    Told("any other with a file", OSError(errno.ENAMETOOLONG, "x", "/a"), ("/a: File name too long", "Check the path")),
    Told("from Rust", RuntimeError("I/O error: No space left on device (os error 28)"), ("No space left", "Free")),
    Told("memory", MemoryError(), ("memory", "--max-images")),
)


@pytest.mark.parametrize("case", TOLD, ids=lambda case: case.name)
def test_trouble_of_the_system_is_told_in_one_line(case: Told) -> None:
    told = explain(case.error)
    assert told is not None
    assert told.exit_code == 1
    assert told.todo
    assert "\n" not in str(told)
    for part in case.said:
        assert part in str(told)


@pytest.mark.parametrize(
    "error",
    [
        ZeroDivisionError("by design"),
        FileNotFoundError("no number"),
        OSError(errno.ENOENT, "no file is named"),
        OSError(errno.EBADF, "x", 7),
        RuntimeError("os error 28"),
    ],
    ids=repr,
)
def test_everything_else_stays_a_fault(error: BaseException) -> None:
    assert explain(error) is None
