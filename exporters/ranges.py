"""What activations look like on the task's pictures: ranges, and how far rounded weights move the mean of an output.

The fp32 graph runs over one picture at a time; of each tensor only a smallest and largest value and one histogram are
kept, so that memory does not grow with the pictures (calibrators that keep activations needed 123 GB for 32 samples:
https://github.com/microsoft/onnxruntime/issues/10503).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
import onnx.numpy_helper
from onnx import helper

from taco.device.session import import_runtime, runtime_errors
from taco.errors import GateError
from taco.exporters.layers import Floats, Graph, Layer
from taco.exporters.opsets import opset_of
from taco.exporters.qdq import Activations, RoundedWeights
from taco.exporters.scheme import Scheme

Method = Literal["minmax", "99.99 %", "99.9 %"]
#: With few pictures the extremes are few and may be chance: cut off nothing, one in 10,000 or one in 1,000 values.
METHODS: Mapping[Method, float] = {"minmax": 0.0, "99.99 %": 1e-4, "99.9 %": 1e-3}
_BINS = 4096
_SHIFT = "taco/shift/"
#: Operator set from which on the axes of ReduceMean are an input.
_AXES_ARE_INPUT = 18


@dataclasses.dataclass(frozen=True, slots=True)
class Observed:
    """What was seen.

    Attributes:
        limits: Tensor -> smallest and largest value.
        counts: Tensor -> histogram over its limits, (4096,) int64; none until it is looked at again.
        shifts: Layer -> mean shift of its output by rounded weights, (rows,); none until then.
        pictures: How many were looked at.
    """

    limits: Mapping[str, tuple[float, float]]
    counts: Mapping[str, npt.NDArray[np.int64]]
    shifts: Mapping[str, Floats]
    pictures: int

    def activations(self, method: Method, *, corrected: bool) -> Activations:
        """Return the ranges by one method, and the shifts that biases are to be corrected by."""
        ranges = {name: self._range(name, METHODS[method]) for name in self.limits}
        return Activations(ranges, self.shifts if corrected else {})

    def _range(self, name: str, outside: float) -> tuple[float, float]:
        low, high = self.limits[name]
        if not outside or not high > low:
            return low, high
        share = np.cumsum(self.counts[name]) / self.counts[name].sum()
        width = (high - low) / _BINS
        first = int(np.searchsorted(share, outside, side="right"))
        last = int(np.searchsorted(share, 1 - outside))
        return low + first * width, low + (last + 1) * width


def extremes(graph: Graph, scheme: Scheme, pictures: Callable[[], Iterable[Floats]]) -> Observed:
    """Run the fp32 graph over pictures: limits, and nothing else yet.

    Args:
        graph: fp32.
        scheme: Decides which tensors matter.
        pictures: Gives preprocessed pictures, (1, C, H, W) float32 each, the same every time.

    Raises:
        GateError: There is no picture, or the graph does not run or gives what is no number.
    """
    names = graph.tensors([layer.name for layer in graph.layers], all_sides=scheme.all_sides)
    limits: dict[str, tuple[float, float]] = {}
    seen = 0
    run = Runner(graph.proto, names)
    for picture in pictures():
        seen += 1
        for name, value in run(picture):
            low, high = float(value.min()), float(value.max())
            if not np.isfinite(low + high):
                raise GateError(f"tensor {name} is not finite on a picture: no range can be found", "Check the weights")
            before = limits.get(name, (low, high))
            limits[name] = (min(low, before[0]), max(high, before[1]))
    if not seen:
        raise GateError("INT8 needs pictures to find the ranges of activations, and none are left", "Give more --shots")
    return Observed(limits, {}, {}, seen)


def looked_at_again(
    seen: Observed, graph: Graph, rounded: RoundedWeights, pictures: Callable[[], Iterable[Floats]]
) -> Observed:
    """Run the fp32 graph over pictures once more: histograms within their limits, and shifts.

    Args:
        seen: From `extremes`.
        graph: fp32.
        rounded: Its weights as they will be shipped.
        pictures: As there.
    """
    counts = {name: np.zeros(_BINS, np.int64) for name in seen.limits}
    sums: dict[str, Floats] = {}
    run = Runner(_with_shifts(graph, rounded), [*counts, *(_SHIFT + layer.name for layer in graph.layers)])
    for picture in pictures():
        for name, value in run(picture):
            if name.startswith(_SHIFT):
                layer = name.removeprefix(_SHIFT)
                sums[layer] = sums.get(layer, np.float32(0)) + value.reshape(-1)
            else:
                counts[name] += _histogram(value, *seen.limits[name])
    shifts = {name: (total / np.float32(seen.pictures)).astype(np.float32) for name, total in sums.items()}
    return dataclasses.replace(seen, counts=counts, shifts=shifts)


def _histogram(values: Floats, low: float, high: float) -> npt.NDArray[np.int64]:
    places = values.ravel() - np.float32(low)
    places *= np.float32(_BINS / ((high - low) or 1.0))
    np.clip(places, 0, _BINS - 1, out=places)
    return np.bincount(places.astype(np.intp), minlength=_BINS).astype(np.int64, copy=False)


def _with_shifts(graph: Graph, rounded: RoundedWeights) -> onnx.ModelProto:
    """Return the graph with, beside each layer, the same operator on the error of its weight, averaged over places."""
    proto = onnx.ModelProto()
    proto.CopyFrom(graph.proto)
    nodes = {node.name: node for node in graph.proto.graph.node}
    older = opset_of(graph.proto) < _AXES_ARE_INPUT
    for layer in graph.layers:
        axes = [0, 2, 3] if layer.op == "Conv" else [0]
        proto.graph.node.extend(_shift_nodes(layer, nodes[layer.node], axes if older else None))
        error = rounded.error(layer)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(error, f"{_SHIFT}weight/{layer.name}"))
        if not older:
            given = np.array(axes, np.int64)
            proto.graph.initializer.append(onnx.numpy_helper.from_array(given, f"{_SHIFT}axes/{layer.name}"))
        if layer.op == "MatMul":
            shape = np.array([-1, error.shape[layer.axis]], np.int64)
            proto.graph.initializer.append(onnx.numpy_helper.from_array(shape, f"{_SHIFT}shape/{layer.name}"))
    return proto


def _shift_nodes(layer: Layer, like: onnx.NodeProto, axes: list[int] | None) -> list[onnx.NodeProto]:
    raw, mean = f"{_SHIFT}raw/{layer.name}", _SHIFT + layer.name
    beside = onnx.NodeProto()
    beside.CopyFrom(like)
    beside.name = raw
    del beside.input[:], beside.output[:]
    beside.input.extend([layer.input, f"{_SHIFT}weight/{layer.name}"])
    beside.output.append(raw)
    nodes, last = [beside], raw
    if layer.op == "MatMul":  # any number of axes in front of the channels
        last = f"{_SHIFT}flat/{layer.name}"
        nodes.append(helper.make_node("Reshape", [raw, f"{_SHIFT}shape/{layer.name}"], [last]))
    if axes is None:
        nodes.append(helper.make_node("ReduceMean", [last, f"{_SHIFT}axes/{layer.name}"], [mean], keepdims=0))
    else:
        nodes.append(helper.make_node("ReduceMean", [last], [mean], keepdims=0, axes=axes))
    return nodes


class Runner:
    """Runs a graph and gives chosen tensors, the input among them.

    Args:
        proto: fp32.
        names: Of the tensors.

    Raises:
        GateError: The graph cannot be opened, or run.
    """

    def __init__(self, proto: onnx.ModelProto, names: Sequence[str]) -> None:
        runtime = import_runtime()
        self._errors = runtime_errors(runtime)
        self._input = proto.graph.input[0].name
        self._names = list(names)
        self._asked = [name for name in names if name != self._input]
        wider = onnx.ModelProto()
        wider.CopyFrom(proto)
        known = {output.name for output in wider.graph.output}
        wider.graph.output.extend(onnx.ValueInfoProto(name=name) for name in self._asked if name not in known)
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        try:
            self._session: Any = runtime.InferenceSession(
                wider.SerializeToString(), sess_options=options, providers=["CPUExecutionProvider"]
            )
        except self._errors as error:
            raise GateError(f"the fp32 graph cannot be opened to find ranges: {error}") from error

    def __call__(self, picture: Floats) -> list[tuple[str, Floats]]:
        """Return the names with what they hold for one picture."""
        if not self._asked:
            return [(name, picture) for name in self._names]
        try:
            values = dict(zip(self._asked, self._session.run(self._asked, {self._input: picture}), strict=True))
        except self._errors as error:
            raise GateError(f"the fp32 graph cannot be run to find ranges: {error}") from error
        return [(name, values.get(name, picture)) for name in self._names]
