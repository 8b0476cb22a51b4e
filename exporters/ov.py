"""OpenVINO: reads the ONNX file, with explicit Q/DQ where it is INT8; the precision of every layer is read back.

In half precision the file holds the same float32 numbers, and its metadata names the floats that OpenVINO is to compute
in, so that whoever opens it computes what was judged.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from taco.device.openvino_session import ARITHMETIC, EIGHT_BITS, HINTS, PRECISION_KEY, OvSession
from taco.device.processors import physical_cores
from taco.errors import MeasurementError, TargetError
from taco.exporters.graph import export_proto, write_proto
from taco.exporters.layers import Graph
from taco.exporters.mixed import LayerTime, quantise
from taco.exporters.opened import OpenedModel, Simulated, host_errors
from taco.exporters.protocol import Artifact, Compressed, Exporter, FloatArray, RunOptions, Session
from taco.exporters.scheme import scheme_for
from taco.targets.loading import Target

_PROFILED_RUNS = 9
#: Small products become part of what OpenVINO calls a subgraph.
_WITH_LAYERS = (*ARITHMETIC, "Subgraph")
_ENDINGS = re.compile(r"(/WithoutBiases|/Dequantization\w+|_original)+$")


class _Backend:
    """OpenVINO on this machine."""

    def __init__(self, options: RunOptions) -> None:
        self.options = options

    def open(self, file: Path) -> Callable[[FloatArray], FloatArray]:
        """Open a file."""
        return EXPORTER.open(file, self.options).run

    def profile(self, file: Path, graph: Graph) -> Mapping[str, LayerTime]:
        """Time every layer; its counters cost about nothing (RUNTIMES.md)."""
        with host_errors():
            session = OvSession(str(file), self.options.threads, self.options.provider, profile=True)
            picture = np.zeros([size or 1 for size in session.input_shape], np.float32)
            runs: list[dict[str, float]] = []
            for _ in range(_PROFILED_RUNS):
                session.run(picture)
                runs.append(session.profiled())
        found: dict[str, LayerTime] = {}
        names = {name: layer.name for layer in graph.layers for name in (layer.node, layer.output)}
        for layer in session.layers:
            mine = {names[n] for n in map(_plain, layer["nodes"]) if n in names and layer["kind"] in _WITH_LAYERS}
            for name in mine:
                ms = statistics.median(run.get(layer["name"], 0.0) for run in runs)
                found[name] = LayerTime(ms, layer["precision"] in EIGHT_BITS)
        return found


class OvExporter:
    """Exports for and runs with OpenVINO."""

    def check(self, target: Target) -> list[str]:
        """Say what is missing to run the artifact here."""
        missing = [] if find_spec("openvino") else ["openvino is not installed"]
        return missing if target.local else [*missing, f"this machine is not a {target.name}"]

    def export(self, model: Compressed, target: Target, out: Path) -> Artifact:
        """Write an ONNX file: fp32, the same with a half precision named in its metadata, or INT8 by explicit Q/DQ.

        Raises:
            TargetError: INT8 is asked without pictures to calibrate on.
        """
        proto = export_proto(model)
        if target.precision == "fp32":
            return write_proto(proto, out)
        if target.precision in HINTS:
            proto.metadata_props.add(key=PRECISION_KEY, value=target.precision)
            return write_proto(proto, out)
        if model.calibration is None:
            raise TargetError(f"{target.name} asks for INT8, and there are no pictures to find its ranges on")
        scheme = scheme_for("ov", target.isa)
        backend = (
            _Backend(RunOptions(target.threads or physical_cores(), target.provider)) if target.local else Simulated()
        )
        quantised, facts = quantise(proto, scheme, model.calibration, backend)
        return write_proto(quantised, out, facts)

    def open(self, path: Path, options: RunOptions) -> Session:
        """Open on exactly the asked device."""
        if options.simulate:
            raise MeasurementError("OpenVINO does not run Q/DQ in floats", "Open the file with ONNX Runtime")
        return OpenedModel(lambda: OvSession(str(path), options.threads, options.provider))


def _plain(node: str) -> str:
    """Return a node's name without what OpenVINO puts behind it."""
    return _ENDINGS.sub("", node)


EXPORTER: Exporter = OvExporter()
