"""The boundary of every exporter: from a torch module to a file that one runtime runs.

An exporter is one module of `taco.exporters` (or an entry point of the group `taco.exporters`) with one constant,
`EXPORTER`. Nothing is registered.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import nn

    from taco.targets.loading import Target

FloatArray = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True, slots=True)
class Compressed:
    """What is exported.

    Attributes:
        module: The network, eval mode; logits out.
        input_size: (channels, height, width) of one preprocessed picture.
    """

    module: nn.Module
    input_size: tuple[int, int, int]


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
    """

    path: Path
    sha256: str
    size_bytes: int
    precision: str
    opset: int
    nodes: int


@dataclasses.dataclass(frozen=True, slots=True)
class RunOptions:
    """How a session runs: threads inside an operator, and the one provider that may be used."""

    threads: int
    provider: str = "CPUExecutionProvider"


class Session(Protocol):
    """An opened model."""

    @property
    def provider(self) -> str:
        """The provider in use, read back from the runtime."""

    @property
    def runtime_version(self) -> str:
        """Version of the runtime."""

    def run(self, array: FloatArray) -> FloatArray:
        """Run one batch: (N, C, H, W) float32 -> (N, classes) float32 logits."""


class Exporter(Protocol):
    """What every exporter can do."""

    def check(self, target: Target) -> list[str]:
        """Say what is missing to RUN the artifact here; empty when it can run here."""

    def export(self, model: Compressed, target: Target, out: Path) -> Artifact:
        """Write the artifact to `out` and check it structurally; raises GateError when the check fails."""

    def open(self, path: Path, options: RunOptions) -> Session:
        """Open an artifact; raises MeasurementError when the runtime or the provider is missing."""
