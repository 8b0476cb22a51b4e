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
from torch import nn

from taco.errors import SolverError
from taco.exporters.layers import Floats, Graph, Layer
from taco.exporters.qdq import RoundedWeights
from taco.exporters.ranges import Runner
from taco.exporters.scheme import Scheme
from taco.moments.unfold import positions_of, unfold, weight_matrix
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
        layer: Of the same shape, without numbers; it pads nothing.
        pads: Zeros around a convolution's input: left, right, top, bottom.
    """

    layer: nn.Conv2d | nn.Linear
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)

    @classmethod
    def of(cls, node: onnx.NodeProto, layer: Layer, shape: Sequence[int]) -> Window | None:
        """Return the window of a layer whose weight has this shape; None for what is not read so."""
        if node.op_type != "Conv":
            return cls(nn.Linear(shape[1 - layer.axis], shape[layer.axis], bias=False, device="meta"))
        given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if len(shape) != _IMAGE or given.get("auto_pad", b"NOTSET") not in (b"NOTSET", "NOTSET"):
            return None
        groups = given.get("group", 1)
        top, left, bottom, right = given.get("pads", (0, 0, 0, 0))
        reader = nn.Conv2d(
            groups * shape[1],
            shape[0],
            (shape[2], shape[3]),
            stride=tuple(given.get("strides", (1, 1))),
            dilation=tuple(given.get("dilations", (1, 1))),
            groups=groups,
            bias=False,
            device="meta",
        )
        return cls(reader, (left, right, top, bottom))

    @property
    def shape(self) -> tuple[int, int, int]:
        """(groups, rows, cols) of its weight."""
        groups, rows, cols = weight_matrix(self.layer).shape
        return groups, rows, cols

    @property
    def bytes(self) -> int:
        """Memory of its second moment."""
        groups, _, cols = self.shape
        return groups * cols**2 * np.dtype(np.float64).itemsize

    def read(self, value: Floats, places: int, rng: np.random.Generator) -> torch.Tensor:
        """Return what some places read.

        Args:
            value: The layer's input: (1, C, H, W) of a convolution, else (..., cols).
            places: At most so many.
            rng: Draws them.

        Returns:
            (groups, n, cols) float32.
        """
        x = torch.from_numpy(value)
        x = nn.functional.pad(x, self.pads) if any(self.pads) else x
        return unfold(self.layer, x, torch.from_numpy(_drawn(positions_of(self.layer, x), places, rng)))


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
        groups, _, cols = window.shape
        self._sum = torch.zeros(groups, cols, cols, dtype=torch.float64)
        self._kept: list[torch.Tensor] = []

    def add(self, rows: torch.Tensor) -> None:
        self._kept.append(rows)
        if sum(kept.shape[1] for kept in self._kept) >= _BATCH * self._sum.shape[1]:
            self._spend()

    def finish(self) -> torch.Tensor:
        self._spend()
        return self._sum

    def _spend(self) -> None:
        if self._kept:
            rows = torch.cat(self._kept, 1)
            self._sum += torch.bmm(rows.transpose(1, 2), rows)
            self._kept = []


def _moments(
    graph: Graph, lot: Mapping[Layer, Window], pictures: Callable[[], Iterable[Floats]]
) -> Iterator[tuple[Layer, torch.Tensor]]:
    run, rng = Runner(graph.proto, list(dict.fromkeys(layer.input for layer in lot))), np.random.default_rng(0)
    sums = {layer: _Moment(window) for layer, window in lot.items()}
    for picture in pictures():
        values = dict(run(picture))
        for layer, window in lot.items():
            sums[layer].add(window.read(values[layer.input], PLACES, rng))
    for layer in lot:
        yield layer, sums.pop(layer).finish()


def _settled(
    graph: Graph, layer: Layer, h: torch.Tensor, nearest: RoundedWeights, scheme: Scheme
) -> npt.NDArray[np.int8]:
    """Return a layer's integers; those of nearest rounding where the others fail or are no better by its moment `h`."""
    integers, scale = nearest.of(layer)
    moved = np.moveaxis(graph.constant(layer.weight), layer.axis, 0)
    groups, cols = h.shape[:2]
    steps = moved.reshape(len(scale), -1).astype(np.float64) / scale.astype(np.float64)[:, None]
    wanted = torch.from_numpy(steps.reshape(groups, -1, cols))
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
