"""Read what trtexec writes: times, the profile of layers, layer information in both forms, outputs, and its log.

The keys are the same from 8.6 to 11 (samples/common/sampleReporting.cpp of github.com/NVIDIA/TensorRT). Names are
written without escapes, so that a name may hold any control character.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from taco.device.wire import DeviceError

#: How ONNX nodes are named in the metadata of an engine's layer (from 8.6 on).
_ONNX_LAYER = re.compile(r"\[ONNX Layer: ([^\]\x1e\x1f]*)\]")
_SPARSE_FOUND = re.compile(r"\(Sparsity\) Found (\d+) layer\(s\) eligible")
_SPARSE_CHOSE = re.compile(r"\(Sparsity\) Chose (\d+) layer\(s\)")
_SPARSE_ELIGIBLE = re.compile(r"\(Sparsity\) Layers eligible for sparse math:([^\n]*)")
_SPARSE_PICKED = re.compile(r"\(Sparsity\) TRT inference plan picked sparse implementation for layers:([^\n]*)")
_SKIPPED = re.compile(r"Skipping tactic \S+ due to insuf+icient memory")
_UNSTABLE = re.compile(r"compute time is unstable, with coefficient of variance = ([\d.]+)%")
_GPU = re.compile(r"Selected Device: ([^\n]*)")
_CAPABILITY = re.compile(r"Compute Capability: ([\d.]+)")


class LayerTime(NamedTuple):
    """One layer of an engine: its name and its time for a picture."""

    name: str
    ms: float


class EngineLayer(NamedTuple):
    """What is known of one layer of an engine.

    `nodes` are the ONNX nodes that it computes; `sparse` says that its kernel uses 2:4 weights.
    """

    kind: str
    nodes: Tuple[str, ...]
    sparse: bool


class Log(NamedTuple):
    """What a log tells beside its files.

    `eligible` and `chosen` count layers for 2:4 kernels, None where the log does not say; `skipped` counts kernels
    that were not tried for want of memory; `unstable` is the coefficient of variation in percent, None where time was
    steady.
    """

    gpu: Optional[str]
    capability: Optional[str]
    eligible: Optional[int]
    chosen: Optional[int]
    skipped: int
    unstable: Optional[float]


def read_times(path: str) -> List[float]:
    """Return the time of every run in milliseconds, from --exportTimes.

    Raises:
        DeviceError: The file is missing, or not what trtexec writes.
    """
    rows = _json(path, list)
    times = [row.get("latencyMs") if isinstance(row, dict) else None for row in rows]
    good = [float(time) for time in times if isinstance(time, (int, float)) and math.isfinite(time) and time > 0]
    if not good or len(good) != len(times):
        raise _strange(path, "latencyMs of every run")
    return good


def read_profile(path: str) -> List[LayerTime]:
    """Return the mean time of every layer, from --exportProfile; layers that never ran take 0 ms.

    Raises:
        DeviceError: The file is missing, or not what trtexec writes.
    """
    rows = _json(path, list)
    if not rows or not isinstance(rows[0], dict) or "count" not in rows[0]:
        raise _strange(path, "count")
    layers = []
    for row in rows[1:]:
        name, ms = (row.get("name"), row.get("averageMs")) if isinstance(row, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(ms, (int, float)):
            raise _strange(path, "name and averageMs of every layer")
        layers.append(LayerTime(name, float(ms) if math.isfinite(ms) else 0.0))
    return layers


def read_layers(path: str) -> Dict[str, EngineLayer]:
    """Return what is known of every layer by its name, from --exportLayerInfo.

    Engines built without detailed profiling give names alone: their layers have no nodes.

    Raises:
        DeviceError: The file is missing, or not what trtexec writes.
    """
    found = _json(path, dict).get("Layers")
    if not isinstance(found, list):
        raise _strange(path, "Layers")
    layers: Dict[str, EngineLayer] = {}
    for layer in found:
        if isinstance(layer, str):
            layers[layer] = EngineLayer("unknown", (), sparse=False)
        elif isinstance(layer, dict) and isinstance(layer.get("Name"), str):
            nodes = tuple(_ONNX_LAYER.findall(str(layer.get("Metadata", ""))))
            sparse = bool(layer.get("HasSparseWeights", 0))
            layers[layer["Name"]] = EngineLayer(str(layer.get("LayerType", "unknown")), nodes, sparse)
        else:
            raise _strange(path, "the Name of every layer")
    return layers


def read_output(path: str, name: str) -> List[float]:
    """Return the values of one output, from --exportOutput.

    Raises:
        DeviceError: The file is missing or lacks the output, or a value is no finite number.
    """
    for row in _json(path, list):
        if isinstance(row, dict) and row.get("name") == name:
            values = row.get("values")
            if isinstance(values, list) and values and all(_is_finite(value) for value in values):
                return [float(value) for value in values]
            raise DeviceError(f"the engine's output {name!r} holds what is no finite number", "Do not use this engine.")
    raise _strange(path, f"the output {name!r}")


def read_log(log: str) -> Log:
    """Return what a log tells of the GPU, sparse kernels, skipped kernels and unsteady times."""
    gpu, capability, unstable = _GPU.search(log), _CAPABILITY.search(log), _UNSTABLE.search(log)
    return Log(
        gpu=gpu.group(1).strip() if gpu else None,
        capability=capability.group(1) if capability else None,
        eligible=_counted(log, _SPARSE_FOUND, _SPARSE_ELIGIBLE),
        chosen=_counted(log, _SPARSE_CHOSE, _SPARSE_PICKED),
        skipped=len(_SKIPPED.findall(log)),
        unstable=float(unstable.group(1)) if unstable else None,
    )


def _counted(log: str, number: "re.Pattern[str]", names: "re.Pattern[str]") -> Optional[int]:
    """Return how many layers a line counts (10 and later) or lists (8.6); the last line belongs to the final engine."""
    counts = number.findall(log)
    if counts:
        return int(counts[-1])
    lists = names.findall(log)
    return len([name for name in lists[-1].split(",") if name.strip()]) if lists else None


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _json(path: str, kind: type) -> Any:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            found = json.loads(_readable(stream.read()), strict=False)
    except OSError as error:
        raise DeviceError(f"trtexec did not write {path}: {error.strerror}", "See trtexec.log.") from error
    except ValueError as error:
        raise DeviceError(
            f"{path} is not readable: {error}; trtexec writes names without escapes",
            "Report the file with this message.",
        ) from error
    if not isinstance(found, kind):
        raise _strange(path, f"a JSON {kind.__name__}")
    return found


def _readable(text: str) -> str:
    """C++ writes numbers that are none as `nan` and `inf`, which JSON does not know."""
    return re.sub(r"(?<=[:\[,])(\s*)-?(nan|inf)\b", r"\1NaN", text)


def _strange(path: str, lacking: str) -> DeviceError:
    return DeviceError(f"{path} lacks {lacking}", "This TensorRT writes another form: report its version.")
