"""ONNX Runtime: ships the ONNX file as it is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from taco.device.session import OrtSession
from taco.device.wire import DeviceError
from taco.errors import MeasurementError, TargetError
from taco.exporters.graph import write_onnx
from taco.exporters.protocol import Artifact, Compressed, Exporter, FloatArray, RunOptions, Session
from taco.targets.loading import Target


class _OpenedModel:
    """The device's own session, with this side's errors."""

    def __init__(self, path: Path, options: RunOptions) -> None:
        with _host_errors():
            self._session = OrtSession(str(path), options.threads, options.provider)
        self.provider: str = self._session.provider
        self.runtime_version: str = self._session.runtime_version

    def run(self, array: FloatArray) -> FloatArray:
        """Run one batch."""
        with _host_errors():
            logits: FloatArray = self._session.run(array)
        return logits


@contextlib.contextmanager
def _host_errors() -> Iterator[None]:
    try:
        yield
    except DeviceError as error:
        raise MeasurementError(error.what, error.todo) from error


class OrtExporter:
    """Exports for and runs with ONNX Runtime."""

    def check(self, target: Target) -> list[str]:
        """Say what is missing to run the artifact here."""
        missing = [] if find_spec("onnxruntime") else ["onnxruntime is not installed"]
        return missing if target.local else [*missing, f"this machine is not a {target.name}"]

    def export(self, model: Compressed, target: Target, out: Path) -> Artifact:
        """Write an fp32 ONNX file."""
        if target.precision != "fp32":
            raise TargetError(
                f"{target.name} asks ONNX Runtime for {target.precision}; only fp32 is built yet",
                'Set precision = "fp32" in the target file',
            )
        return write_onnx(model, out)

    def open(self, path: Path, options: RunOptions) -> Session:
        """Open with exactly the asked provider."""
        return _OpenedModel(path, options)


EXPORTER: Exporter = OrtExporter()
