"""A small ONNX network with every shape of layer that is quantised, and pictures for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from taco.exporters.layers import Graph
from taco.exporters.protocol import Calibration, Reference
from taco.exporters.qdq import RoundedWeights
from taco.exporters.ranges import Observed, extremes, looked_at_again
from taco.exporters.scheme import Scheme

Floats = npt.NDArray[np.float32]
SIZE = (3, 16, 16)
LAYERS = ("stem", "dw", "pw", "fc1", "head")
CLASSES = 4


def small_net(seed: int = 0) -> onnx.ModelProto:
    """Conv, Relu, depthwise Conv, Clip, pointwise Conv, Add, mean, MatMul and Add, Relu, Gemm."""
    rng = np.random.default_rng(seed)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        fan = int(np.prod(shape[1:])) if len(shape) == 4 else shape[0]
        return numpy_helper.from_array((rng.standard_normal(shape) / np.sqrt(fan)).astype(np.float32), name)

    def bias(name: str, n: int) -> onnx.TensorProto:
        return numpy_helper.from_array((0.1 * rng.standard_normal(n)).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["input", "stem.weight", "stem.bias"], ["a"], "n_stem", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["a_relu"], "n_relu"),
        helper.make_node("Conv", ["a_relu", "dw.weight", "dw.bias"], ["b"], "n_dw", pads=[1, 1, 1, 1], group=16),
        helper.make_node("Clip", ["b", "zero", "six"], ["b_clip"], "n_clip"),
        helper.make_node("Conv", ["b_clip", "pw.weight"], ["c"], "n_pw"),
        helper.make_node("Add", ["c", "a_relu"], ["d"], "n_add"),
        helper.make_node("ReduceMean", ["d", "axes"], ["pooled"], "n_mean", keepdims=0),
        helper.make_node("MatMul", ["pooled", "fc1.weight"], ["e"], "n_fc1"),
        helper.make_node("Add", ["e", "fc1.bias"], ["e_biased"], "n_fc1_bias"),
        helper.make_node("Relu", ["e_biased"], ["e_relu"], "n_relu2"),
        helper.make_node("Gemm", ["e_relu", "head.weight", "head.bias"], ["logits"], "n_head", transB=1),
    ]
    constants = [
        *(weight("stem.weight", 16, 3, 3, 3), bias("stem.bias", 16)),
        *(weight("dw.weight", 16, 1, 3, 3), bias("dw.bias", 16)),
        weight("pw.weight", 16, 16, 1, 1),
        *(weight("fc1.weight", 16, 32), bias("fc1.bias", 32)),
        *(weight("head.weight", CLASSES, 32), bias("head.bias", CLASSES)),
        numpy_helper.from_array(np.float32(0), "zero"),
        numpy_helper.from_array(np.float32(6), "six"),
        numpy_helper.from_array(np.array([2, 3], np.int64), "axes"),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, *SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, CLASSES])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def observe(
    graph: Graph, scheme: Scheme, given: Callable[[], Iterable[Floats]], rounded: RoundedWeights | None = None
) -> Observed:
    """Look at pictures twice, with weights that are rounded to the nearest step unless others are given."""
    seen = extremes(graph, scheme, given)
    return looked_at_again(seen, graph, rounded or RoundedWeights(graph, scheme), given)


def pictures(n: int = 6, seed: int = 1) -> Iterator[Floats]:
    """Smooth random pictures, the same every time."""
    rng = np.random.default_rng(seed)
    for _ in range(n):
        yield (rng.standard_normal((1, 3, 1, 1)) + 0.5 * rng.standard_normal((1, *SIZE))).astype(np.float32)


def run(proto: onnx.ModelProto, picture: Floats, *outputs: str, optimise: bool = True) -> list[Floats]:
    """Run with ONNX Runtime; more outputs than the graph's own may be asked."""
    import onnxruntime

    wider = onnx.ModelProto()
    wider.CopyFrom(proto)
    known = {o.name for o in wider.graph.output}
    wider.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs if name not in known)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(wider.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: list[Floats] = session.run(list(outputs) or None, {"input": picture})
    return found


def calibration(proto: onnx.ModelProto, n: int = 12) -> Calibration:
    """Labels are what the fp32 graph answers, so that any other answer costs accuracy."""
    logits = np.concatenate([run(proto, p)[0] for p in pictures(n, seed=2)])
    reference = Reference(lambda: pictures(n, seed=2), logits.argmax(1).astype(np.int64), logits)
    return Calibration(lambda: pictures(), reference)
