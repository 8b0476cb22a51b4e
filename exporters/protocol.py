"""The boundary of every exporter: from a torch module to a file that one runtime runs.

An exporter is one module of `taco.exporters` (or an entry point of the group `taco.exporters`) with one constant,
`EXPORTER`. Nothing is registered.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import nn

    from taco.targets.loading import Target

FloatArray = npt.NDArray[np.float32]
PixelArray = npt.NDArray[np.uint8]
Pictures = Callable[[], Iterable[FloatArray]]


@dataclasses.dataclass(frozen=True, slots=True)
class Reference:
    """What choices about INT8 are made on.

    Attributes:
        select: Gives the preprocessed select pictures, (1, C, H, W) float32 each.
        labels: (m,) int64, their classes.
        logits: (m, classes) float32, what the torch model answers; of a fitted head, what it would if it had not seen
            these pictures: answers that were learnt by heart bear any rounding.
        correction: (m, classes) float32, takes the same from what a file answers; None where nothing was learnt.
    """

    select: Pictures
    labels: npt.NDArray[np.int64]
    logits: FloatArray
    correction: FloatArray | None = None

    def corrected(self, logits: FloatArray) -> FloatArray:
        """Return a file's (m, classes) logits on the select pictures, to be compared with `logits`."""
        return logits if self.correction is None else logits + self.correction


@dataclasses.dataclass(frozen=True, slots=True)
class Calibration:
    """What INT8 is fitted to.

    Attributes:
        fit: Gives the preprocessed fit pictures, (1, C, H, W) float32 each, for the ranges of activations.
        reference: None where only time matters: ranges are then the plain extremes, and nothing is chosen.
    """

    fit: Pictures
    reference: Reference | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Compressed:
    """What is exported.

    Attributes:
        module: The network, eval mode; logits out.
        input_size: (channels, height, width) of one preprocessed picture; of a part of a network, what that part reads,
            such as (tokens, channels).
        calibration: What INT8 needs; None for floats.
        fp32: The module's fp32 ONNX file where it was exported before: INT8 is made of it.
    """

    module: nn.Module
    input_size: tuple[int, ...]
    calibration: Calibration | None = None
    fp32: Path | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class PutBack:
    """A layer that stays in fp32.

    Attributes:
        layer: Its name.
        reason: Why, in words.
        harm: Mean divergence on the select pictures that INT8 of this layer causes; None where it was not measured.
        saved: What INT8 of this layer saves, in `Quantisation.saved_in`.
    """

    layer: str
    reason: str
    harm: float | None
    saved: float | None


@dataclasses.dataclass(frozen=True, slots=True)
class Quantisation:
    """How an INT8 file came about.

    Attributes:
        scheme: Kinds of activations and weights, in words.
        layers: How many could be quantised.
        quantised: How many are.
        put_back: The others.
        ranges: How ranges of activations were found.
        bias_corrected: Whether biases make up for rounded weights.
        pictures: How many the ranges come from.
        divergence: Mean KL divergence from the torch model's answers on the select pictures; None without any.
        drop_points: Torch model's accuracy minus this file's on the select pictures, points; None without any.
        evaluations: How many candidates were run on the select pictures.
        saved_in: Unit of `PutBack.saved`: measured milliseconds, or multiply-accumulates where nothing can be measured.
        rounding: Weights are on their nearest steps, or on those of the least error of outputs: `nearest`,
            `output error`.
    """

    scheme: str
    layers: int
    quantised: int
    put_back: tuple[PutBack, ...]
    ranges: str
    bias_corrected: bool
    pictures: int
    divergence: float | None
    drop_points: float | None
    evaluations: int
    saved_in: str
    rounding: str = "nearest"

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Quantisation:
        """Read what `dataclasses.asdict` gave and JSON kept."""
        return cls(**{**facts, "put_back": tuple(PutBack(**item) for item in facts["put_back"])})


@dataclasses.dataclass(frozen=True, slots=True)
class Artifact:
    """A file that was written.

    Attributes:
        path: Where.
        sha256: Hash of its bytes.
        size_bytes: Its size.
        precision: What the graph itself computes in.
        opset: Read back from the file.
        nodes: Number of nodes.
        quantisation: How its INT8 came about; None for floats.
    """

    path: Path
    sha256: str
    size_bytes: int
    precision: str
    opset: int
    nodes: int
    quantisation: Quantisation | None = None

    @classmethod
    def from_json(cls, path: Path, facts: Mapping[str, Any]) -> Artifact:
        """Read what `dataclasses.asdict` gave, without the path, and JSON kept."""
        found = facts.get("quantisation")
        return cls(**{**facts, "path": path, "quantisation": None if found is None else Quantisation.from_json(found)})


@dataclasses.dataclass(frozen=True, slots=True)
class RunOptions:
    """How a session runs.

    Attributes:
        threads: Threads inside an operator.
        provider: The one provider (ONNX Runtime) or device (OpenVINO) that may be used.
        simulate: Run Q and DQ as what they say, in floats: what the file means, whatever this processor has for INT8.
    """

    threads: int
    provider: str = "CPUExecutionProvider"
    simulate: bool = False


class Session(Protocol):
    """An opened model."""

    @property
    def provider(self) -> str:
        """The provider in use, read back from the runtime."""

    @property
    def runtime_version(self) -> str:
        """Version of the runtime."""

    def run(self, array: FloatArray | PixelArray) -> FloatArray:
        """Run one batch: (N, C, H, W) float32 -> (N, classes) float32 logits; pixels where they are baked in."""


class Exporter(Protocol):
    """What every exporter can do."""

    def check(self, target: Target) -> list[str]:
        """Say what is missing to RUN the artifact here; empty when it can run here."""

    def export(self, model: Compressed, target: Target, out: Path) -> Artifact:
        """Write the artifact to `out` and check it structurally; raises GateError when the check fails."""

    def open(self, path: Path, options: RunOptions) -> Session:
        """Open an artifact; raises MeasurementError when the runtime or the provider is missing."""
