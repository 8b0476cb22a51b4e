"""ONNX Runtime: ships the ONNX file as it is, with explicit Q/DQ where it is INT8."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from taco.device.processors import physical_cores
from taco.device.session import OrtSession, fixed_input
from taco.errors import TargetError
from taco.exporters.graph import export_proto, write_proto
from taco.exporters.layers import Graph
from taco.exporters.mixed import LayerTime, quantise
from taco.exporters.opened import OpenedModel, Simulated, host_errors
from taco.exporters.protocol import Artifact, Compressed, Exporter, FloatArray, RunOptions, Session
from taco.exporters.scheme import scheme_for
from taco.targets.loading import Target

_PROFILED_RUNS = 9
_INT8 = ("QLinearConv", "QLinearMatMul", "QGemm", "MatMulIntegerToFloat", "DynamicQuantizeMatMul")
#: What ONNX Runtime puts behind a node's or a tensor's name when it fuses nodes.
_ENDINGS = re.compile(r"(_kernel_time|_token_\d+|_nchwc|/MatMulAddFusion(_\w+)?)+$")


class _Backend:
    """ONNX Runtime on this machine."""

    def __init__(self, options: RunOptions) -> None:
        self.options = options

    def open(self, file: Path) -> Callable[[FloatArray], FloatArray]:
        """Open a file."""
        return EXPORTER.open(file, self.options).run

    def profile(self, file: Path, graph: Graph) -> Mapping[str, LayerTime]:
        """Time every layer; profiled runs are a little slower than others, so only layers are compared with them."""
        with tempfile.TemporaryDirectory(prefix="taco-profile-") as folder, host_errors():
            options, prefix = self.options, str(Path(folder) / "profile")
            session = OrtSession(str(file), options.threads, options.provider, profile_prefix=prefix)
            noise = fixed_input(session, 0)
            for _ in range(_PROFILED_RUNS):
                session.run(noise)
            events = json.loads(Path(session.end_profiling()).read_bytes())
        names = {name: layer.name for layer in graph.layers for name in (layer.node, layer.output, layer.result)}
        durations: dict[str, list[float]] = {}
        int8: set[str] = set()
        for event in events:
            layer_name = names.get(_plain(event["name"])) if event.get("cat") == "Node" else None
            if layer_name is not None and event["name"].endswith("_kernel_time"):
                durations.setdefault(layer_name, []).append(event["dur"] / 1e3)
                int8 |= {layer_name} if event["args"]["op_name"] in _INT8 else set()
        return {name: LayerTime(float(np.median(ms)), name in int8) for name, ms in durations.items()}


class OrtExporter:
    """Exports for and runs with ONNX Runtime."""

    def check(self, target: Target) -> list[str]:
        """Say what is missing to run the artifact here."""
        missing = [] if find_spec("onnxruntime") else ["onnxruntime is not installed"]
        return missing if target.local else [*missing, f"this machine is not a {target.name}"]

    def export(self, model: Compressed, target: Target, out: Path) -> Artifact:
        """Write an ONNX file: fp32, or INT8 by explicit Q/DQ.

        Raises:
            TargetError: The target asks for another precision, or INT8 without pictures to calibrate on.
        """
        if target.precision not in ("fp32", "int8"):
            raise TargetError(
                f"{target.name} asks ONNX Runtime for {target.precision}; only fp32 and int8 are built",
                'Set precision = "fp32" in the target file',
            )
        proto = export_proto(model)
        if target.precision == "fp32":
            return write_proto(proto, out)
        if model.calibration is None:
            raise TargetError(f"{target.name} asks for INT8, and there are no pictures to find its ranges on")
        options = RunOptions(target.threads or physical_cores(), target.provider)
        backend = _Backend(options) if target.local else Simulated()
        scheme = scheme_for("ort", target.isa)
        quantised, facts = quantise(proto, scheme, model.calibration, backend)
        return write_proto(quantised, out, facts)

    def open(self, path: Path, options: RunOptions) -> Session:
        """Open with exactly the asked provider."""
        threads, provider = options.threads, options.provider
        return OpenedModel(lambda: OrtSession(str(path), threads, provider, optimise=not options.simulate))


def _plain(event: str) -> str:
    """Return the node or the tensor that an event of a profile is about."""
    return _ENDINGS.sub("", event.removeprefix("fused "))


EXPORTER: Exporter = OrtExporter()
