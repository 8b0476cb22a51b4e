"""The graphs that a profile times: the dense model, every unit at every width, and smaller whole models."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from torch import nn

from taco.exporters.graph import OPSET, export_proto, write_proto
from taco.exporters.opsets import NATIVE
from taco.exporters.protocol import Calibration, Compressed, Exporter
from taco.exporters.resize import Sized, UnlikeError, resized
from taco.exporters.together import MOST, export_protos
from taco.exporters.zeroed import ZEROS, zeroed
from taco.progress import Progress
from taco.search.micromodels import Holder, cut_whole
from taco.targets.loading import Target
from taco.units import UnitMap

log = logging.getLogger(__name__)

_NOISE = 2
#: Units that torch exports at once, at two widths each.
_AT_ONCE = MOST // 2


@dataclasses.dataclass(frozen=True, slots=True)
class Writer:
    """Writes a graph in a target's precision.

    Attributes:
        target: In the precision that is used.
        exporter: Of its runtime.
    """

    target: Target
    exporter: Exporter

    @property
    def opset(self) -> int:
        """Of fp32 graphs; TensorRT's exporter takes a file in its own operator set or in the one that torch writes."""
        return NATIVE if self.target.runtime == "trt" else OPSET

    def write(self, proto: onnx.ModelProto, reads: tuple[int, ...], path: Path) -> None:
        """Write a graph; the ranges of INT8 come from noise, because only time matters.

        Args:
            proto: In fp32.
            reads: Shape of its input without the batch.
            path: Of the file.
        """
        if self.target.precision == "fp32" and self.target.runtime != "trt":
            write_proto(proto, path)
            return
        plain = path.with_suffix(".fp32.onnx")
        write_proto(proto, plain)
        noise = np.random.default_rng(0).standard_normal((_NOISE, 1, *reads)).astype(np.float32)
        model = Compressed(nn.Identity(), reads, Calibration(lambda: iter(noise)), plain)
        self.exporter.export(model, self.target, path)


@dataclasses.dataclass(frozen=True, slots=True)
class Widths:
    """What is timed.

    Attributes:
        units: Unit -> its widths, the widest first.
        wholes: Whole model -> unit -> width.
    """

    units: Mapping[str, tuple[int, ...]]
    wholes: Mapping[str, Mapping[str, int]]


@dataclasses.dataclass(frozen=True, eq=False)
class MicroGraphs:
    """Writes them.

    Attributes:
        model: Eval mode; not modified.
        input_size: (channels, height, width).
        found: Its units.
        holders: Unit -> what is timed for it.
        widths: At which widths.
        writer: Writes files.
    """

    model: nn.Module
    input_size: tuple[int, int, int]
    found: UnitMap
    holders: Mapping[str, Holder]
    widths: Widths
    writer: Writer
    _ends: dict[str, tuple[Sized, Sized]] = dataclasses.field(default_factory=dict, init=False)

    def dense(self, folder: Path, progress: Progress) -> Path:
        """Write the dense model; returns its file."""
        with progress.step("export the dense model"):
            dense = folder / "dense.onnx"
            proto = export_proto(Compressed(self.model, self.input_size), self.writer.opset)
            self.writer.write(proto, self.input_size, dense)
        return dense

    def unit(self, name: str, folder: Path, coming: Sequence[str] = ()) -> dict[str, Path]:
        """Write one unit's micro-models; returns width -> file.

        Args:
            name: Of the unit.
            folder: For the files.
            coming: Units that will be asked for after it: some are exported along, which takes less time.
        """
        reads = self.holders[name].reads
        folder.mkdir(parents=True, exist_ok=True)
        files = {}
        if name not in self._ends:
            self._export_ends([name, *coming][:_AT_ONCE])
        for width, proto in self._protos(name):
            files[str(width)] = folder / f"{width}.onnx"
            self.writer.write(proto, reads, files[str(width)])
        return files

    def wholes(self, folder: Path) -> dict[str, Path]:
        """Write whole models with all units narrower, or blocks left out; returns name -> file."""
        files = {}
        for name, widths in self.widths.wholes.items():
            smaller = Compressed(cut_whole(self.model, self.found.units, widths), self.input_size)
            files[name] = folder / f"{name}.onnx"
            self.writer.write(export_proto(smaller, self.writer.opset), self.input_size, files[name])
        return files

    def _protos(self, name: str) -> Iterator[tuple[int, onnx.ModelProto]]:
        """Yield the graph at every width: exported at two, cut to size where the graphs are alike."""
        wide, narrow = self._ends.pop(name)
        for width in self.widths.units[name]:
            if width in (wide.width, narrow.width):
                yield width, (wide if width == wide.width else narrow).proto
                continue
            try:
                yield width, resized(wide, narrow, width)
            except UnlikeError as error:
                log.debug("%s at %d is exported by itself: %s", name, width, error.what)
                yield width, export_proto(self._at(name, width), self.writer.opset)

    def ends(self, name: str) -> tuple[Compressed, Compressed]:
        """Return what is timed for a unit at its widest and at its narrowest; all other widths are made of these."""
        own = self.widths.units[name]
        return self._at(name, own[0]), self._at(name, own[-1])

    def _export_ends(self, names: Sequence[str]) -> None:
        """Export units at their widest and their narrowest."""
        protos = export_protos([end for name in names for end in self.ends(name)], self.writer.opset)
        for number, name in enumerate(names):
            own, (wide, narrow) = self.widths.units[name], protos[2 * number : 2 * number + 2]
            self._ends[name] = Sized(wide, own[0]), Sized(narrow, own[-1])

    def _at(self, name: str, width: int) -> Compressed:
        holder = self.holders[name]
        unit = next(unit for unit in self.found.unit_by_unit if unit.name == name)
        return Compressed(holder.at(self.model, unit, width), holder.reads)


def export_zeros(dense: Path, folder: Path) -> dict[str, Path]:
    """Write the dense model with zeros in its weights; returns pattern -> file."""
    proto, files = onnx.load(dense), dict[str, Path]()
    for number, pattern in enumerate(ZEROS):
        files[pattern] = folder / f"zeros-{number}.onnx"
        write_proto(zeroed(proto, pattern), files[pattern])
    return files
