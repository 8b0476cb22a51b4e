"""torch lists the operators that it can export anew for every export, from the sources of some 500 functions.

The list never changes within a process, and making it takes about a second, a third of the export of a small model; a
profile exports dozens of those. Between the two ends of `remembered_operators` torch is given the first list again.
The place where it asks is private to torch: where that is not as expected, nothing is changed and nothing is gained.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable, Iterator
from typing import Any

_ASKED = "get_torchlib_ops"


class _Remembering:
    """Stands for onnxscript's interface to torch, and makes one answer once."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self.get_torchlib_ops: Callable[[], Any] = functools.cache(getattr(real, _ASKED))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@contextlib.contextmanager
def remembered_operators() -> Iterator[None]:
    """Let exports share one list of operators."""
    try:
        asking: Any = importlib.import_module("torch.onnx._internal.exporter._registration")
        real = asking.onnxscript_apis
        remembering = _remembering(real)
    except (ImportError, AttributeError):
        yield
        return
    asking.onnxscript_apis = remembering
    try:
        yield
    finally:
        asking.onnxscript_apis = real


@functools.cache
def _remembering(real: Any) -> _Remembering:
    return _Remembering(real)
