"""Weights rounded for the least error of a layer's output, not of the weights themselves.

Rounding each weight to its nearest step is not what keeps a layer's answers (M. Nagel et al., "Up or Down? Adaptive
Rounding for Post-Training Quantization", ICML 2020). With H the second moment of what the layer reads, the columns of W
are settled one after the other and those to come make up for the error (E. Frantar et al., "GPTQ", ICLR 2023), on the
steps that nearest rounding has too. Nothing is chosen: few pictures could not tell (docs/adr/0026). Of a picture only
some places count, and moments are gathered for as many layers at a time as fit into a fixed memory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import helper

from taco.errors import SolverError
from taco.exporters.layers import Floats, Graph, Layer
from taco.exporters.qdq import RoundedWeights
from taco.exporters.ranges import Runner
from taco.exporters.scheme import Scheme
from taco.solvers.feedback import settle_columns
from taco.solvers.problem import Problem

#: Places of a picture that count: neighbours tell much the same, and the number of pictures is small.
PLACES = 64
#: Pictures that count, evenly over their order, which goes through the classes.
PICTURES = 48
LOT_BYTES = 2**28
#: Rows are summed up when there are so many times as many as columns: small products cost more than they compute.
_BATCH = 4
_DAMPING = 0.01
_IMAGE = 4  # axes of a batch of images


@dataclasses.dataclass(frozen=True, slots=True)
class Window:
    """How a layer reads its input.

    Attributes:
        groups: Of a convolution; 1 for a product.
        cols: Inputs of one output.
        kernel: (height, width); None for a product of matrices.
        strides: Between places.
        dilations: Between inputs of one place.
        pads: Top, left, bottom, right.
    """

    groups: int
    cols: int
    kernel: tuple[int, int] | None = None
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)

    @classmethod
    def of(cls, node: onnx.NodeProto, layer: Layer, shape: Sequence[int]) -> Window | None:
        """Return the window of a layer whose weight has this shape; None for what is not read so."""
        if node.op_type != "Conv":
            return cls(1, shape[1 - layer.axis])
        given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if len(shape) != _IMAGE or given.get("auto_pad", b"NOTSET") not in (b"NOTSET", "NOTSET"):
            return None
        return cls(
            groups=given.get("group", 1),
            cols=int(np.prod(shape[1:])),
            kernel=(shape[2], shape[3]),
            strides=tuple(given.get("strides", (1, 1))),
            dilations=tuple(given.get("dilations", (1, 1))),
            pads=tuple(given.get("pads", (0, 0, 0, 0))),
        )

    @property
    def bytes(self) -> int:
        """Memory of its second moment."""
        return self.groups * self.cols**2 * np.dtype(np.float64).itemsize

    def read(self, value: Floats, places: int, rng: np.random.Generator) -> Floats:
        """Return what some places read.

        Args:
            value: The layer's input: (1, C, H, W) of a convolution, else (..., cols).
            places: At most so many.
            rng: Draws them.

        Returns:
            (groups, n, cols).
        """
        if self.kernel is None:
            rows = value.reshape(-1, self.cols)
            return rows[_drawn(len(rows), places, rng)][None]
        top, left, bottom, right = self.pads
        (height, width), (down, across) = self.kernel, self.dilations
        padded = np.pad(value[0], ((0, 0), (top, bottom), (left, right)))
        span = ((height - 1) * down + 1, (width - 1) * across + 1)
        views = np.lib.stride_tricks.sliding_window_view(padded, span, axis=(1, 2))
        views = views[:, :: self.strides[0], :: self.strides[1], ::down, ::across]
        at = _drawn(views.shape[1] * views.shape[2], places, rng)
        taken = views[:, at // views.shape[2], at % views.shape[2]]  # (C, n, height, width)
        split = taken.reshape(self.groups, -1, len(at), height * width)
        return np.ascontiguousarray(split.transpose(0, 2, 1, 3)).reshape(self.groups, len(at), self.cols)


def _drawn(n: int, most: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    return np.arange(n) if n <= most else np.sort(rng.choice(n, most, replace=False))


def rounded_for_outputs(
    graph: Graph, scheme: Scheme, nearest: RoundedWeights, pictures: Callable[[], Iterable[Floats]], count: int
) -> RoundedWeights:
    """Return the weights of a graph on the same steps, rounded so that outputs change least.

    Args:
        graph: fp32.
        scheme: How many bits.
        nearest: The weights of `graph` by `scheme`, each rounded to its nearest step.
        pictures: Gives preprocessed pictures, (1, C, H, W) float32 each.
        count: How many.

    Raises:
        GateError: The graph does not run.
    """
    counts = set(np.linspace(0, count - 1, min(count, PICTURES)).round().astype(int).tolist())

    def some() -> Iterator[Floats]:
        return (picture for n, picture in enumerate(pictures()) if n in counts)

    nodes = {node.name: node for node in graph.proto.graph.node}
    windows = {
        layer: window
        for layer in graph.layers
        if (window := Window.of(nodes[layer.node], layer, graph.constant(layer.weight).shape)) is not None
    }
    found: dict[str, npt.NDArray[np.int8]] = {}
    for lot in _lots(windows):
        for layer, moment in _moments(graph, lot, some):
            found[layer.name] = _settled(graph, layer, moment, nearest, scheme)
    return RoundedWeights(graph, scheme, found)


def _lots(windows: Mapping[Layer, Window]) -> Iterator[dict[Layer, Window]]:
    """Divide layers into lots whose moments fit into the memory; one that does not is a lot of its own."""
    lot: dict[Layer, Window] = {}
    for layer, window in windows.items():
        if lot and sum(w.bytes for w in lot.values()) + window.bytes > LOT_BYTES:
            yield lot
            lot = {}
        lot[layer] = window
    if lot:
        yield lot


class _Moment:
    """Sums up x x^T of a layer; rows are kept until there are enough for a product that is worth its memory."""

    def __init__(self, window: Window) -> None:
        self._sum = np.zeros((window.groups, window.cols, window.cols))
        self._kept: list[Floats] = []

    def add(self, rows: Floats) -> None:
        self._kept.append(rows)
        if sum(kept.shape[1] for kept in self._kept) >= _BATCH * self._sum.shape[1]:
            self._spend()

    def finish(self) -> npt.NDArray[np.float64]:
        self._spend()
        return self._sum

    def _spend(self) -> None:
        if self._kept:
            rows = torch.from_numpy(np.concatenate(self._kept, axis=1))
            self._sum += torch.bmm(rows.transpose(1, 2), rows).numpy()
            self._kept = []


def _moments(
    graph: Graph, lot: Mapping[Layer, Window], pictures: Callable[[], Iterable[Floats]]
) -> Iterator[tuple[Layer, npt.NDArray[np.float64]]]:
    run, rng = Runner(graph.proto, list(dict.fromkeys(layer.input for layer in lot))), np.random.default_rng(0)
    sums = {layer: _Moment(window) for layer, window in lot.items()}
    for picture in pictures():
        values = dict(run(picture))
        for layer, window in lot.items():
            sums[layer].add(window.read(values[layer.input], PLACES, rng))
    for layer in lot:
        yield layer, sums.pop(layer).finish()


def _settled(
    graph: Graph, layer: Layer, moment: npt.NDArray[np.float64], nearest: RoundedWeights, scheme: Scheme
) -> npt.NDArray[np.int8]:
    """Return a layer's integers; those of nearest rounding where the others are no better by its moment, or fail."""
    integers, scale = nearest.of(layer)
    moved = np.moveaxis(graph.constant(layer.weight), layer.axis, 0)
    groups, cols = moment.shape[:2]
    steps = moved.reshape(len(scale), -1).astype(np.float64) / scale.astype(np.float64)[:, None]
    wanted, h = torch.from_numpy(steps.reshape(groups, -1, cols)), torch.from_numpy(moment)
    if not bool(h.isfinite().all()) or not bool((h != 0).any()):
        return integers
    limit = scheme.weight_limit
    problem = Problem.of(wanted, h, _DAMPING)
    try:
        upper = problem.upper
    except SolverError:
        return integers
    settled = settle_columns(problem.W, upper, lambda free, j: free[:, :, j].round().clamp(-limit, limit))
    old = torch.from_numpy(np.moveaxis(integers, layer.axis, 0).reshape(groups, -1, cols).astype(np.float64))
    settled = torch.where(problem.dead[:, None, :], old, settled)
    if _loss(settled - wanted, h) >= _loss(old - wanted, h):
        return integers
    found = settled.numpy().astype(np.int8).reshape(moved.shape)
    return np.ascontiguousarray(np.moveaxis(found, 0, layer.axis))


def _loss(difference: torch.Tensor, h: torch.Tensor) -> float:
    return float(((difference @ h) * difference).sum())
