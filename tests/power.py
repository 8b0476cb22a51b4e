"""A disk that loses its power, or its last free byte, at a system call that a test chooses.

Below one folder every call that changes something is counted: making, writing, syncing, renaming, linking, removing. At
the chosen one the power goes: nothing after it happens, half of a write may. What is on the disk afterwards is then one
of what a file system may leave: all that was written (the program alone was killed), or less of what was not synced.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

_open, _write, _fsync, _replace, _unlink, _symlink, _close = (
    getattr(os, name) for name in ("open", "write", "fsync", "replace", "unlink", "symlink", "close")
)


class PowerCutError(BaseException):
    """The power went; nothing catches that."""


@dataclass(frozen=True)
class Aftermath:
    """What is left of what was not synced.

    Attributes:
        names: Whether new, renamed and removed names are as they were, as they had become, or either.
        tails: What has become of bytes: gone, half of them there, zeros in their place, or all there.
    """

    names: str
    tails: str

    def __str__(self) -> str:
        return f"{self.names} names, {self.tails} bytes"


KILLED = Aftermath("new", "all")
AFTERMATHS = (
    KILLED,
    *(Aftermath("new", tails) for tails in ("none", "half", "zeros")),
    *(Aftermath("old", tails) for tails in ("none", "all")),
    Aftermath("either", "half"),
)


@dataclass
class Disk:
    """One folder's disk.

    Attributes:
        root: The folder; empty at the beginning.
        calls: How many changes there were since the last `on`.
    """

    root: Path
    calls: int = 0
    _cut_at: int | None = None
    _full_at: int | None = None
    _dead: bool = False
    _count: int = 0
    _live: dict[str, int] = field(default_factory=dict)
    _sure: dict[str, int] = field(default_factory=dict)
    _synced: dict[int, bytes] = field(default_factory=dict)
    _gone: dict[int, bytes] = field(default_factory=dict)
    _open: dict[int, str] = field(default_factory=dict)

    @contextlib.contextmanager
    def on(self, cut_at: int | None = None, full_at: int | None = None) -> Iterator[None]:
        """Run with power until a change of this number, or until the disk is full at a write of this or a later one."""
        self.calls, self._cut_at, self._full_at, self._dead = 0, cut_at, full_at, False
        with pytest.MonkeyPatch.context() as patch:
            for name in ("open", "write", "fsync", "replace", "unlink", "symlink", "close"):
                patch.setattr(os, name, getattr(self, f"_{name}_"))
            try:
                yield
            finally:
                for handle in list(self._open):
                    self._close_(handle)

    def restore(self, aftermath: Aftermath, seed: int = 0) -> None:
        """Leave on the disk what the power cut has left."""
        rng = random.Random(seed)
        names = dict(self._live)
        for path in {*self._live, *self._sure}:
            if self._live.get(path) != self._sure.get(path):
                old = aftermath.names == "old" or (aftermath.names == "either" and rng.random() < 0.5)
                names = self._with(names, path, self._sure.get(path) if old else self._live.get(path))
        contents = {path: self._left(number, path, aftermath.tails) for path, number in names.items()}
        for path in self._live:
            Path(path).unlink()
        for path, content in contents.items():
            if content.startswith(_LINK):
                Path(path).symlink_to(os.fsdecode(content[len(_LINK) :]))
            else:
                Path(path).write_bytes(content)
        self._live, self._sure = names, dict(names)
        self._synced = {names[path]: content for path, content in contents.items()}
        self._gone = {}

    @staticmethod
    def _with(names: dict[str, int], path: str, number: int | None) -> dict[str, int]:
        rest = {other: n for other, n in names.items() if other != path}
        return rest if number is None else {**rest, path: number}

    def _left(self, number: int, path: str, tails: str) -> bytes:
        live = self._gone.get(number)
        if live is None:
            live = _content(next((p for p, n in self._live.items() if n == number), path))
        sure = self._synced.get(number, b"")
        more = live[len(sure) :] if live.startswith(sure) else live
        if live.startswith(_LINK) or tails == "all":
            return live
        if tails == "none":
            return sure
        return sure + (more[: len(more) // 2] if tails == "half" else b"\0" * len(more))

    def _inside(self, path: Any) -> bool:
        return os.fsdecode(path).startswith(f"{self.root}{os.sep}")

    def _change(self) -> None:
        if self._dead:
            raise PowerCutError
        self.calls += 1
        if self.calls == self._cut_at:
            self._dead = True
            raise PowerCutError

    def _open_(self, path: Any, flags: int, *rest: Any, **more: Any) -> int:
        name = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
        if not self._inside(name):
            return int(_open(path, flags, *rest, **more)) if name != str(self.root) else self._opened(path, flags)
        new = flags & os.O_CREAT and name not in self._live
        if new or flags & os.O_TRUNC:
            self._change()
            self._count += 1
            if name in self._live:
                self._gone[self._live[name]] = _content(name)
            self._live[name] = self._count
        return self._opened(path, flags, *rest)

    def _opened(self, path: Any, flags: int, *rest: Any) -> int:
        handle = int(_open(path, flags, *rest))
        self._open[handle] = os.fsdecode(path)
        return handle

    def _write_(self, handle: int, content: Any) -> int:
        if handle not in self._open:
            return int(_write(handle, content))
        half = bytes(content)[: len(content) // 2]
        if self._full_at is not None and self.calls + 1 >= self._full_at:
            self.calls += 1
            _write(handle, half)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        try:
            self._change()
        except PowerCutError:
            if self.calls == self._cut_at:
                _write(handle, half)
            raise
        return int(_write(handle, content))

    def _fsync_(self, handle: int) -> None:
        path = self._open.get(handle)
        if path is None:
            return
        self._change()
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            self._sure = dict(self._live)
        else:
            number = self._live.get(path)
            if number is not None:
                self._synced[number] = _content(path)

    def _replace_(self, source: Any, target: Any, **more: Any) -> None:
        if not self._inside(target):
            return _replace(source, target, **more)
        self._change()
        old = self._live.get(os.fsdecode(target))
        if old is not None:
            self._gone[old] = _content(os.fsdecode(target))
        _replace(source, target)
        self._live[os.fsdecode(target)] = self._live.pop(os.fsdecode(source))
        return None

    def _unlink_(self, path: Any, **more: Any) -> None:
        if not self._inside(path) or os.fsdecode(path) not in self._live:
            return _unlink(path, **more)
        self._change()
        self._gone[self._live.pop(os.fsdecode(path))] = _content(os.fsdecode(path))
        return _unlink(path)

    def _symlink_(self, target: Any, path: Any, **more: Any) -> None:
        if not self._inside(path):
            return _symlink(target, path, **more)
        self._change()
        self._count += 1
        self._live[os.fsdecode(path)] = self._count
        return _symlink(target, path)

    def _close_(self, handle: int) -> None:
        self._open.pop(handle, None)
        _close(handle)


_LINK = b"\0a link to "


def _content(path: str) -> bytes:
    """A file's bytes, or what tells a link from them."""
    if Path(path).is_symlink():
        return _LINK + os.fsencode(Path(path).readlink())
    return Path(path).read_bytes()


def until_done(disk: Disk, work: Callable[[], None], cuts: Iterator[tuple[int, Aftermath]]) -> int:
    """Work again and again, with the power cut as told, until it comes to its end; returns how often it was cut."""
    for times, (cut_at, aftermath) in enumerate(cuts):
        try:
            with disk.on(cut_at):
                work()
        except PowerCutError:
            disk.restore(aftermath, times)
        else:
            return times
    raise AssertionError("the power was cut for ever")
