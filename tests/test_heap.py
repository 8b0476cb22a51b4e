"""Memory that is kept between passes: fewer page faults, given back at the end, and never in anybody's way."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

from taco import heap
from taco.heap import kept_heap

pytestmark = pytest.mark.skipif(sys.platform != "linux" or heap._glibc() is None, reason="malloc is not plain glibc's")
BYTES = 96 * 1024**2


def touch() -> None:
    np.ones(BYTES, np.uint8)


def faults(work: Callable[[], object]) -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    work()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_the_second_time_no_page_is_asked_for() -> None:
    touch()
    plain = faults(touch)
    with kept_heap():
        touch()
        kept = faults(touch)
    assert kept < plain / 10
    assert faults(touch) > plain / 2, "afterwards malloc does what it did"


def test_what_is_free_goes_back_when_the_outermost_block_ends() -> None:
    """In a process of its own: what other tests have freed would be taken again, and nothing would grow."""
    lines = (
        "import numpy as np, psutil",
        "from taco.heap import kept_heap",
        "here = psutil.Process()",
        "held = [here.memory_info().rss]",
        "with kept_heap():",
        "    with kept_heap():",
        f"        np.ones({BYTES}, np.uint8)",
        "    held.append(here.memory_info().rss)",
        "held.append(here.memory_info().rss)",
        "print(*held)",
    )
    ran = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    before, inside, after = map(int, ran.stdout.split())
    assert inside > before + BYTES / 2, "an inner block ends nothing"
    assert after < before + BYTES / 2


def test_an_error_ends_it_too_and_it_decorates() -> None:
    @kept_heap()
    def fails() -> None:
        assert heap._inside == 1
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            fails()
        assert heap._inside == 0


@pytest.mark.parametrize("variable", ["MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"])
def test_who_tunes_malloc_is_left_alone(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "glibc.malloc.trim_threshold=128")
    heap._glibc.cache_clear()
    try:
        assert heap._glibc() is None
        with kept_heap():
            assert heap._inside == 0
    finally:
        monkeypatch.undo()
        heap._glibc.cache_clear()


def test_another_c_library_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str | None) -> object:
        raise OSError(name)

    monkeypatch.setattr(heap.ctypes, "CDLL", nothing)
    heap._glibc.cache_clear()
    try:
        with kept_heap():
            assert heap._inside == 0
        assert heap._glibc() is None
    finally:
        monkeypatch.undo()
        heap._glibc.cache_clear()
