"""TensorRT: the graph is made here, the engine on the device, because it belongs to one TensorRT, GPU and system.

The precision stands in the graph (RUNTIMES.md): FP16 by halves with float32 at both ends, INT8 by symmetric Q/DQ. One
file of operator set 17 serves TensorRT 8.6 to 11 in fp32 and in FP16. INT8 needs a second one for strongly typed
networks (10.12 and later), in which everything between Q/DQ is FP16: `taco.exporters.editions`.

Nothing here has run on hardware: no Jetson and no TensorRT library was at hand (docs/adr/0014).
"""

from __future__ import annotations

from pathlib import Path

import onnx

from taco.errors import MeasurementError, TargetError
from taco.exporters.graph import export_proto, write_proto
from taco.exporters.half import to_half
from taco.exporters.mixed import quantise
from taco.exporters.opened import Simulated
from taco.exporters.opsets import LOWEST, NATIVE, lowered, opset_of
from taco.exporters.protocol import Artifact, Compressed, Exporter, RunOptions, Session
from taco.exporters.scheme import scheme_for
from taco.exporters.trt_rules import require_rules
from taco.targets.loading import Target


class TrtExporter:
    """Exports for TensorRT."""

    def check(self, target: Target) -> list[str]:
        """Say what is missing to run the artifact here: always the device itself."""
        return [f"a TensorRT engine for {target.name} can only be built and run on that device"]

    def export(self, model: Compressed, target: Target, out: Path) -> Artifact:
        """Write the graph that the device builds its engine from.

        Raises:
            TargetError: INT8 is asked without pictures to calibrate on.
            GateError: The graph breaks a rule of TensorRT; names node and rule.
        """
        if target.precision == "int8" and model.calibration is None:
            raise TargetError(f"{target.name} asks for INT8, and there are no pictures to find its ranges on")
        proto = lowest(model)
        quantisation = None
        if target.precision == "fp16":
            proto = to_half(proto)
        elif model.calibration is not None and target.precision == "int8":
            scheme = scheme_for("trt", target.isa)
            proto, quantisation = quantise(proto, scheme, model.calibration, Simulated())
        require_rules(proto, LOWEST)
        return write_proto(proto, out, quantisation)

    def open(self, path: Path, options: RunOptions) -> Session:
        """Refuse: engines are opened on the device."""
        raise MeasurementError(
            f"{path.name} can run under TensorRT only on the device", "Run the command printed at the end of the export"
        )


def lowest(model: Compressed) -> onnx.ModelProto:
    """Return the fp32 graph in operator set 17; a file that was exported before may still be in the set of torch."""
    proto = export_proto(model, NATIVE)
    return proto if opset_of(proto) == LOWEST else lowered(proto)


EXPORTER: Exporter = TrtExporter()
