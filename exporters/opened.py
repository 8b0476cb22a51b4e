"""Sessions of the device's own code, with this side's errors."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from taco.device.session import OrtSession
from taco.device.wire import DeviceError
from taco.errors import MeasurementError
from taco.exporters.layers import Graph
from taco.exporters.mixed import LayerTime
from taco.exporters.protocol import FloatArray, PixelArray


class _DeviceSession(Protocol):
    provider: str
    runtime_version: str

    def run(self, array: Any) -> Any:
        """Run one batch."""


class OpenedModel:
    """A session of the device's code.

    Args:
        construct: Opens it.

    Raises:
        MeasurementError: It cannot be opened.
    """

    def __init__(self, construct: Callable[[], _DeviceSession]) -> None:
        with host_errors():
            self._session = construct()
        self.provider: str = self._session.provider
        self.runtime_version: str = self._session.runtime_version

    def run(self, array: FloatArray | PixelArray) -> FloatArray:
        """Run one batch."""
        with host_errors():
            logits: FloatArray = self._session.run(array)
        return logits


class Simulated:
    """INT8 as the file means it, on floats: for a target that is not this machine."""

    def open(self, file: Path) -> Callable[[FloatArray], FloatArray]:
        """Open a file."""
        return OpenedModel(lambda: OrtSession(str(file), 1, optimise=False)).run

    def profile(self, file: Path, graph: Graph) -> Mapping[str, LayerTime] | None:
        """Nothing can be timed."""
        return None


@contextlib.contextmanager
def host_errors() -> Iterator[None]:
    """Turn the device code's errors into this side's.

    Raises:
        MeasurementError: In place of a DeviceError.
    """
    try:
        yield
    except DeviceError as error:
        raise MeasurementError(error.what, error.todo) from error
