"""ONNX Runtime: ships the ONNX file as it is."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from taco.device.session import OrtSession
from taco.device.wire import DeviceError
from taco.errors import MeasurementError
from taco.exporters.graph import write_onnx
from taco.exporters.protocol import Artifact, Compressed, Exporter, RunOptions, Session
from taco.targets.loading import Target


class OrtExporter:
    """Exports for and runs with ONNX Runtime."""

    def check(self, target: Target) -> list[str]:
        """Say what is missing to run the artifact here."""
        missing = [] if find_spec("onnxruntime") else ["onnxruntime is not installed"]
        return missing if target.local else [*missing, f"this machine is not a {target.name}"]

    def export(self, model: Compressed, target: Target, out: Path) -> Artifact:
        """Write an fp32 ONNX file."""
        if target.precision != "fp32":
            raise MeasurementError(f"{target.name} asks ONNX Runtime for {target.precision}; only fp32 is built yet")
        return write_onnx(model, out)

    def open(self, path: Path, options: RunOptions) -> Session:
        """Open with exactly the asked provider."""
        try:
            return OrtSession(str(path), options.threads, options.provider)
        except DeviceError as error:
            raise MeasurementError(str(error)) from error


EXPORTER: Exporter = OrtExporter()
