"""Where the milliseconds of a model go, against what this processor's INT8 units can do.

`python -m benchmarks.peak [MODEL.onnx ...]` runs each model by ONNX Runtime's own profiler and prints, for
every kind of layer, its time, its multiply-accumulates a second and the share of the peak, which is MEASURED: the best
rate of a large INT8 matrix product in the same runtime with the same threads (in fp32 for fp32 layers). The profiler
slows runs a little, so the whole is timed without it too.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from benchmarks._machine import machine
from taco.device.processors import physical_cores
from taco.device.profile import nodes
from taco.device.session import OrtSession, fixed_input

_RUNS, _WARMUP = 100, 10
_SIZE = 1024
_KERNEL = "_kernel_time"


@dataclass
class Group:
    """Layers of one kind."""

    ms: float = 0.0
    macs: int = 0
    layers: int = 0


def peak(threads: int, *, int8: bool) -> float:
    """Return the most multiply-accumulates a second of a large matrix product, in 1e9."""
    kind = onnx.TensorProto.UINT8 if int8 else onnx.TensorProto.FLOAT
    weight = np.ones((_SIZE, _SIZE), np.int8 if int8 else np.float32)
    node = onnx.helper.make_node("MatMulInteger" if int8 else "MatMul", ["x", "w"], ["y"])
    graph = onnx.helper.make_graph(
        [node],
        "peak",
        [onnx.helper.make_tensor_value_info("x", kind, [_SIZE, _SIZE])],
        [
            onnx.helper.make_tensor_value_info(
                "y", onnx.TensorProto.INT32 if int8 else onnx.TensorProto.FLOAT, [_SIZE, _SIZE]
            )
        ],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    x = np.ones((_SIZE, _SIZE), np.uint8 if int8 else np.float32)
    taken = []
    for _ in range(30):
        begin = time.perf_counter()
        session.run(None, {"x": x})
        taken.append(time.perf_counter() - begin)
    return float(_SIZE**3 / min(taken) / 1e9)


def groups(model: Path, threads: int) -> tuple[dict[str, Group], float]:
    """Return the kinds of layers with their times, and the median milliseconds of the whole model unprofiled."""
    plain = OrtSession(str(model), threads, "CPUExecutionProvider")
    noise = fixed_input(plain, 0)
    whole = []
    for _ in range(_WARMUP + _RUNS):
        begin = time.perf_counter()
        plain.run(noise)
        whole.append(1000 * (time.perf_counter() - begin))
    with tempfile.TemporaryDirectory() as folder:
        session = OrtSession(str(model), threads, "CPUExecutionProvider", profile_prefix=str(Path(folder) / "p"))
        for _ in range(_WARMUP + _RUNS):
            session.run(noise)
        events = json.loads(Path(session.end_profiling()).read_text())
    outputs = {str(event["name"]).removesuffix(_KERNEL): _output(event) for event in events}
    found: dict[str, Group] = defaultdict(Group)
    weights = _weights(model)
    for node in nodes(events):
        kind, macs = _kind(node["name"], node["op"], outputs[node["name"]], weights)
        group = found[kind]
        group.ms, group.macs, group.layers = group.ms + node["ms"], group.macs + macs, group.layers + 1
    return found, statistics.median(whole[_WARMUP:])


def _weights(model: Path) -> dict[str, tuple[int, ...]]:
    """Return node -> shape of its weight, of convolutions and matrix products; through their quantisation."""
    graph = onnx.load(model).graph
    shapes = {one.name: tuple(one.dims) for one in graph.initializer}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in shapes:
            shapes[node.output[0]] = shapes[node.input[0]]
    products = [node for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    return {node.name: shapes[node.input[1]] for node in products if node.input[1] in shapes}


def _output(event: Mapping[str, Any]) -> list[int]:
    """Return the shape of a layer's first output; empty of events that are no layers."""
    told = event.get("args", {}).get("output_type_shape") or [{"": []}]
    return list(next(iter(told[0].values())))


def _kind(name: str, operator: str, out: Sequence[int], weights: Mapping[str, tuple[int, ...]]) -> tuple[str, int]:
    """Return what a layer is, and its multiply-accumulates: the runtime lengthens the names of what it fuses."""
    own = max((one for one in weights if name.startswith(one)), key=len, default=None)
    if own is None or not any(word in operator for word in ("Conv", "Gemm", "MatMul")):
        return f"no products ({operator})", 0
    weight = weights[own]
    if len(weight) < 4:
        return "the head", math.prod(weight)
    macs = math.prod(out) * math.prod(weight[1:])
    if weight[1] == 1 and weight[0] > 1:
        return "depthwise convolutions", macs
    return ("pointwise convolutions" if weight[2:] == (1, 1) else "other convolutions"), macs


def table(model: Path, threads: int, peaks: Mapping[bool, float]) -> str:
    """Return the Markdown table of a model."""
    found, whole_ms = groups(model, threads)
    int8 = any(node.op_type in ("QLinearConv", "DequantizeLinear") for node in onnx.load(model).graph.node)
    top = peaks[int8]
    lines = [
        f"`{model}`: {whole_ms:.3f} ms, {sum(g.ms for g in found.values()):.3f} ms by the profiler, "
        f"{sum(g.macs for g in found.values()) / 1e6:.1f} M multiply-accumulates, "
        f"{'INT8' if int8 else 'fp32'} peak {top:.0f} G/s.",
        "",
        "| layers | number | ms | M MACs | G MACs/s | of the peak | at the peak, ms |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind, group in sorted(found.items(), key=lambda item: -item[1].ms):
        rate = group.macs / group.ms / 1e6 if group.ms else 0.0
        share = f"{rate:.0f} | {rate / top:.0%} | {group.macs / top / 1e6:.3f}" if group.macs else "- | - | -"
        lines.append(f"| {kind} | {group.layers} | {group.ms:.3f} | {group.macs / 1e6:.1f} | {share} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peak", description=__doc__)
    parser.add_argument("models", type=Path, nargs="*", help="ONNX files; without any, the peaks alone are measured")
    parser.add_argument("--threads", type=int, default=physical_cores())
    given = parser.parse_args(arguments)
    print(machine()["machine"])
    peaks = {int8: peak(given.threads, int8=int8) for int8 in (True, False)}
    print(f"peak: INT8 {peaks[True]:.0f}, fp32 {peaks[False]:.0f} G multiply-accumulates a second")
    for model in given.models:
        print(f"\n{table(model, given.threads, peaks)}")


if __name__ == "__main__":
    main()
