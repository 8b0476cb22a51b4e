"""TensorRT: ships the ONNX interchange; the engine is built ON the device, because it belongs to one TensorRT and GPU.

Nothing here has run on hardware: no Jetson and no TensorRT library was at hand (docs/adr/0004). The command that a
person runs there stands in the target file.
"""

from __future__ import annotations

from pathlib import Path

from taco.errors import MeasurementError
from taco.exporters.graph import write_onnx
from taco.exporters.protocol import Artifact, Compressed, Exporter, RunOptions, Session
from taco.targets.loading import Target


class TrtExporter:
    """Exports for TensorRT."""

    def check(self, target: Target) -> list[str]:
        """Say what is missing to run the artifact here: always the device itself."""
        return [f"a TensorRT engine for {target.name} can only be built and run on that device"]

    def export(self, model: Compressed, target: Target, out: Path) -> Artifact:
        """Write the fp32 ONNX interchange that trtexec builds the engine from."""
        del target
        return write_onnx(model, out)

    def open(self, path: Path, options: RunOptions) -> Session:
        """Refuse: engines are opened on the device."""
        raise MeasurementError(
            f"{path.name} can run under TensorRT only on the device", "Run the command printed at the end of the export"
        )


EXPORTER: Exporter = TrtExporter()
