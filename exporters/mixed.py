"""Which layers are in INT8: all that the runtime computes so, less those that cost more answers than they save time.

Choices are made on the select pictures. While INT8 loses more than the conversion gate allows, the layer with the most
harm for each millisecond saved goes back to fp32. Harm is measured: by how much the divergence from the torch model's
answers falls when that layer alone goes back.
"""

from __future__ import annotations

import dataclasses
import logging
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import onnx

from taco.exporters.layers import Graph
from taco.exporters.protocol import Calibration, FloatArray, PutBack, Quantisation, Reference
from taco.exporters.qdq import RoundedWeights, insert_qdq
from taco.exporters.ranges import METHODS, Method, Observed, extremes, looked_at_again
from taco.exporters.rounding import rounded_for_outputs
from taco.exporters.scheme import Scheme

#: Points that INT8 may lose against the torch model: the conversion gate (ARCHITECTURE section 8).
MOST_POINTS = 1.0
_LEAST_SAVED = 1e-3
log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class LayerTime:
    """One layer as a runtime computed it.

    Attributes:
        ms: Its time for a picture, its activation function included.
        int8: Whether the runtime computed it on eight-bit integers.
    """

    ms: float
    int8: bool


class Backend(Protocol):
    """A runtime, as far as choosing needs it."""

    def open(self, file: Path) -> Callable[[FloatArray], FloatArray]:
        """Open a file; the result runs one picture."""

    def profile(self, file: Path, graph: Graph) -> Mapping[str, LayerTime] | None:
        """Time every layer of a file whose fp32 form is `graph`; None where this machine is not the target."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Choice:
    quantised: frozenset[str]
    method: Method
    corrected: bool


@dataclasses.dataclass(frozen=True, slots=True)
class _Judged:
    divergence: float
    drop_points: float


def quantise(
    proto: onnx.ModelProto, scheme: Scheme, calibration: Calibration, backend: Backend
) -> tuple[onnx.ModelProto, Quantisation]:
    """Return the INT8 form of an fp32 graph, and how it came about.

    Args:
        proto: fp32; not changed.
        scheme: How numbers are held.
        calibration: Pictures; without a reference nothing is chosen.
        backend: The target's runtime.

    Raises:
        GateError: No picture, or numbers that are not finite.
        MeasurementError: The runtime fails.
    """
    with tempfile.TemporaryDirectory(prefix="taco-int8-") as folder:
        return _Search(Graph(proto, scheme.least_outputs), scheme, calibration, backend, Path(folder)).run()


class _Search:
    def __init__(self, graph: Graph, scheme: Scheme, calibration: Calibration, backend: Backend, folder: Path) -> None:
        self.graph, self.scheme, self.backend = graph, scheme, backend
        self.calibration, self.reference = calibration, calibration.reference
        self.file = folder / "candidate.onnx"
        self.rounded, self.observed = self._prepared()
        self.evaluations = 0
        self.put_back: list[PutBack] = []

    def run(self) -> tuple[onnx.ModelProto, Quantisation]:
        every = frozenset(layer.name for layer in self.graph.layers)
        choice = _Choice(every, "minmax", self.reference is not None)
        saved, unit = self._saved(choice)
        choice = dataclasses.replace(choice, quantised=every - {item.layer for item in self.put_back})
        judged = None
        if self.reference is not None and choice.quantised:
            choice, judged = self._best_ranges(choice, self.reference)
            choice, judged = self._until_it_passes(choice, judged, saved, self.reference)
        facts = Quantisation(
            scheme=self.scheme.words,
            layers=len(every),
            quantised=len(choice.quantised),
            put_back=tuple(self.put_back),
            ranges=choice.method,
            bias_corrected=choice.corrected,
            rounding="nearest" if self.reference is None else "output error",
            pictures=self.observed.pictures,
            divergence=judged.divergence if judged else None,
            drop_points=judged.drop_points if judged else None,
            evaluations=self.evaluations,
            saved_in=unit,
        )
        return self._realise(choice), facts

    def _realise(self, choice: _Choice) -> onnx.ModelProto:
        if not choice.quantised:
            return self.graph.proto
        seen = self.observed.activations(choice.method, corrected=choice.corrected)
        return insert_qdq(self.graph, choice.quantised, self.scheme, seen, self.rounded)

    def _prepared(self) -> tuple[RoundedWeights, Observed]:
        """Round the weights and look at the pictures; where only time matters, no further than it takes to run."""
        pictures = self.calibration.fit
        nearest, seen = RoundedWeights(self.graph, self.scheme), extremes(self.graph, self.scheme, pictures)
        if self.reference is None:
            return nearest, seen
        rounded = rounded_for_outputs(self.graph, self.scheme, nearest, pictures, seen.pictures)
        return rounded, looked_at_again(seen, self.graph, rounded, pictures)

    def _saved(self, choice: _Choice) -> tuple[dict[str, float], str]:
        """Return what INT8 of each layer saves, and put back those that the runtime does not compute in INT8."""
        self.file.write_bytes(self.graph.proto.SerializeToString())
        before = self.backend.profile(self.file, self.graph)
        if before is None:
            return {name: float(n) for name, n in self.graph.macs().items()}, "multiply-accumulates"
        self.file.write_bytes(self._realise(choice).SerializeToString())
        after = self.backend.profile(self.file, self.graph) or {}
        saved = {}
        for name in (layer.name for layer in self.graph.layers):
            if name not in after or not after[name].int8:
                reason = "the runtime does not compute it in INT8"
                self.put_back.append(PutBack(name, reason, None, None))
            elif name in before:
                saved[name] = before[name].ms - after[name].ms
        return saved, "ms"

    def _best_ranges(self, choice: _Choice, reference: Reference) -> tuple[_Choice, _Judged]:
        found = [
            (self._judge(c, reference), c) for method in METHODS if (c := dataclasses.replace(choice, method=method))
        ]
        best = min(found, key=lambda item: item[0].divergence)
        plain = dataclasses.replace(best[1], corrected=False)
        other = (self._judge(plain, reference), plain)
        judged, choice = min((best, other), key=lambda item: item[0].divergence)
        return choice, judged

    def _until_it_passes(
        self, choice: _Choice, judged: _Judged, saved: Mapping[str, float], reference: Reference
    ) -> tuple[_Choice, _Judged]:
        if judged.drop_points <= MOST_POINTS:
            return choice, judged
        harm = {
            name: judged.divergence - self._judge(_without(choice, [name]), reference).divergence
            for name in self._in_order(choice)
        }
        for name in sorted(harm, key=lambda name: -_priority(harm[name], saved.get(name, 0.0))):
            choice = _without(choice, [name])
            judged = self._judge(choice, reference)
            self.put_back.append(PutBack(name, "it cost answers", harm[name], saved.get(name)))
            log.debug("%s back to fp32: %.2f points lost", name, judged.drop_points)
            if judged.drop_points <= MOST_POINTS:
                break
        return choice, judged

    def _in_order(self, choice: _Choice) -> list[str]:
        return [layer.name for layer in self.graph.layers if layer.name in choice.quantised]

    def _judge(self, choice: _Choice, reference: Reference) -> _Judged:
        self.evaluations += 1
        self.file.write_bytes(self._realise(choice).SerializeToString())
        got = reference.corrected(run_all(self.backend.open(self.file), reference.select()))
        expected = reference.logits
        right = [float((logits.argmax(1) == reference.labels).mean()) for logits in (expected, got)]
        return _Judged(divergence(expected, got), 100 * (right[0] - right[1]))


def run_all(run: Callable[[FloatArray], FloatArray], pictures: Iterable[FloatArray]) -> FloatArray:
    """Return the logits of pictures that are run one by one, (n, classes)."""
    return np.concatenate([run(picture) for picture in pictures])


def divergence(expected: FloatArray, got: FloatArray) -> float:
    """Return the mean Kullback-Leibler divergence of the softmax of logits, both (n, classes), in nats."""
    return float(divergences(expected, got).mean())


def divergences(expected: FloatArray, got: FloatArray) -> npt.NDArray[np.float64]:
    """Return the same of each picture, (n,)."""
    p, q = _log_softmax(expected), _log_softmax(got)
    each: npt.NDArray[np.float64] = (np.exp(p) * (p - q)).sum(axis=1)
    return each


def _log_softmax(logits: FloatArray) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    found: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return found


def _without(choice: _Choice, names: Collection[str]) -> _Choice:
    return dataclasses.replace(choice, quantised=choice.quantised - frozenset(names))


def _priority(harm: float, saved: float) -> float:
    """Return harm for each unit of time saved; a layer that saves nothing goes back first, if it does harm."""
    return harm / max(saved, _LEAST_SAVED) if harm > 0 else harm
