"""Freed memory stays with the process while the same large maps are allocated again and again.

glibc hands every block above some 32 MiB back to the system when it is freed, and takes the next one from there page by
page: a forward pass over a batch of pictures then spends up to half of its time on page faults. Between the two ends of
`kept_heap` blocks come from the heap and freed ones wait there for the next pass; after it, what is free goes back. The
most memory in use at a time stays about the same, because the maps are the same ones.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Iterator
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # malloc.h
_NEVER = 2**31 - 1
#: Where glibc's own adaptation of its thresholds ends, and its default number of mapped blocks.
_USUAL = {_TRIM_THRESHOLD: 64 * 1024**2, _MMAP_THRESHOLD: 32 * 1024**2, _MMAP_MAX: 65536}
_KEPT = {_MMAP_MAX: 0, _TRIM_THRESHOLD: _NEVER}
#: A person who tunes malloc knows better.
_THEIRS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TOP_PAD_")

_lock = threading.Lock()
_inside = 0


@contextlib.contextmanager
def kept_heap() -> Iterator[None]:
    """Keep freed memory until the outermost of such blocks is left; does nothing where malloc is not glibc's.

    Of the whole process, so that it belongs around a job and not around a call. Usable as a decorator.
    """
    global _inside  # malloc has one setting a process
    libc = _glibc()
    if libc is None:
        yield
        return
    with _lock:
        _inside += 1
        if _inside == 1:
            _set(libc, _KEPT)
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _set(libc, _USUAL)
                libc.malloc_trim(0)


def give_back() -> None:
    """Return to the system what is free now, between blocks in use too: malloc by itself looks at the end alone."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    """Return glibc where it is this process's C library and nobody has tuned its malloc."""
    if "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "") or any(name in os.environ for name in _THEIRS):
        return None
    try:
        found = ctypes.CDLL(None)
        found.gnu_get_libc_version  # noqa: B018  # other C libraries lack it
        found.mallopt.argtypes, found.malloc_trim.argtypes = [ctypes.c_int, ctypes.c_int], [ctypes.c_size_t]
    except (OSError, AttributeError, TypeError):  # TypeError: Windows opens nothing without a name
        return None
    return found


def _set(libc: ctypes.CDLL, values: dict[int, int]) -> None:
    for option, value in values.items():
        libc.mallopt(option, value)
