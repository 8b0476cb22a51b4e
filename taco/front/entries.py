"""The files of a front: ours at several budgets, the dense models, and what the runtimes' own tools make of those."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from taco.exporters.loading import load_exporter
from taco.exporters.mixed import run_all
from taco.exporters.protocol import Artifact, FloatArray, RunOptions
from taco.files import sha256_of
from taco.front.allocations import Asked, asked_allocations, beside_own_size, over_sizes
from taco.front.rivals import Rival
from taco.front.schema import Kind
from taco.pictures.listing import LabelledPicture
from taco.progress import Progress
from taco.recover import INTERRUPTED
from taco.rundir import content_key
from taco.search.drop_search import SHORT
from taco.specialist.head import Linear
from taco.specialist.specialise import predict_logits
from taco.steps.converting import spread
from taco.steps.cutting import Cutter
from taco.steps.groundwork import Groundwork
from taco.steps.sizes import Sized, Sizes
from taco.surgery.size import measure_size

#: Pictures that a tool sees for its ranges, as many as ours does.
_MOST_FIT = 128
_ORT = "CPUExecutionProvider"


@dataclasses.dataclass(frozen=True, eq=False)
class Entry:
    """One file that is timed and judged.

    Attributes:
        name: Unique.
        kind: See `taco.front.schema`.
        model: timm's name.
        made_by: In words.
        file: ONNX.
        sha256: Of the file.
        runtime: ort or ov.
        provider: Of that runtime.
        precision: What it computes in.
        answer: Inputs, (1, 3, H, W) each -> (n, classes) float32 logits.
        at: For which size of pictures it is: where the inputs come from.
        held_out: Logits on looks at the select pictures -> those of heads that have not seen them.
        facts: Fields of `FrontPoint` that are known already.
    """

    name: str
    kind: Kind
    model: str
    made_by: str
    file: Path
    sha256: str
    runtime: str
    provider: str
    precision: str
    answer: Callable[[Iterable[FloatArray]], FloatArray]
    at: Groundwork
    held_out: Callable[[FloatArray], FloatArray]
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, eq=False)
class Maker:
    """Makes the entries of one model at one size of pictures.

    Attributes:
        at: Its pictures, dense specialist and files.
        prefix: Before the names of its points; empty for the model that is cut.
    """

    at: Sized
    prefix: str = ""

    @classmethod
    def of(cls, ground: Groundwork, prefix: str = "") -> Maker:
        """Make the entries of a model at its own size."""
        return cls(Sized(ground, ground.dense), prefix)

    @property
    def ground(self) -> Groundwork:
        """The pictures, the dense specialist, and what cuts and repairs it."""
        return self.at.ground

    @property
    def model(self) -> str:
        """Name that timm knows it by."""
        return self.ground.plan.generalist.name

    @functools.cached_property
    def _cutter(self) -> Cutter:
        """One for all points: it asks the teacher about the select pictures once."""
        return self.ground.cutter()

    def dense(self) -> Iterator[Entry]:
        """Yield the dense specialist as the target has it, in fp32, and in fp32 under ONNX Runtime; each file once."""
        ground, target = self.ground, self.ground.delivery.converter.target
        shipped, fp32 = self.at.dense.shipped, self.at.dense.fp32
        facts = self._sizes(ground.specialist.module)
        as_target: Kind = "beside" if self.prefix else "dense"
        yield self._entry(self._name("dense"), as_target, "the dense specialist", shipped, facts)
        if shipped is not fp32:
            yield self._entry(self._name("fp32"), "fp32", "the dense specialist in fp32", fp32, facts)
        if target.local and target.runtime != "ort":
            words = "the dense specialist in fp32 under ONNX Runtime"
            yield self._entry(self._name("ort-fp32"), "fp32", words, fp32, facts, ("ort", _ORT))

    def resized(self) -> Entry:
        """Return the dense specialist for pictures of another size than the model's own, as the target has it."""
        words = f"the dense specialist for pictures of {self.at.words} pixels"
        name = self._name(f"dense-{self.at.words}")
        return self._entry(name, "resized", words, self.at.dense.shipped, self._sizes(self.ground.specialist.module))

    def own_int8(self, rival: Rival) -> Entry:
        """Return what a runtime's own tool makes of the dense model."""
        ground, fp32 = self.ground, self.at.dense.fp32
        fit = spread(ground.material.task.fit, _MOST_FIT)
        views = [picture.view for picture in fit]

        def make(path: Path) -> dict[str, int]:
            with ground.progress.step(f"let {rival.tool} quantise {self.model}"):
                rival.make(fp32.path, ground.material.bank.batches(views, 1), path)
            return {"size_bytes": path.stat().st_size}

        key = {"fp32": fp32.sha256, "tool": rival.key, "pictures": content_key([str(view) for view in views])}
        file, facts = ground.rundir.file_step("own-int8", ground.keys.after_head(**key), ".onnx", make)
        return Entry(
            name=self._name(rival.key),
            kind="runtime-int8",
            model=self.model,
            made_by=f"the dense specialist, INT8 by {rival.tool}",
            file=file,
            sha256=sha256_of(file),
            runtime=rival.runtime,
            provider=rival.provider,
            precision="int8",
            answer=self._answer(file, rival.runtime, rival.provider),
            at=ground,
            held_out=self._held_out(ground.specialist.module),
            facts={**facts, "pictures": self.at.words},
        )

    def cut(self, asked: Asked) -> Entry:
        """Return a cut model, recovered with a part of the time; one whose size alone is asked for is not cut.

        Raises:
            KeyboardInterrupt: Ctrl-C, also during a recovery: the same command goes on with it.
        """
        ground = self.ground
        made = self._cutter.cut(asked.allocation, SHORT)
        if made.recovered is not None and made.recovered.ended == INTERRUPTED:
            raise KeyboardInterrupt
        pair = ground.delivery.export("front-model", made.module, ground.cut_key(made), made.head)
        facts = {
            **self._sizes(made.module),
            "asked": asked.speedup,
            "steps": made.recovered.steps if made.recovered else 0,
            "widths": dict(made.widths),
        }
        words = _WORDS[asked.kind] if self.at.own is None else f"{_WORDS[asked.kind]}, at {self.at.words} pixels"
        entry = self._entry(asked.name, asked.kind, words, pair.shipped, facts)
        return dataclasses.replace(entry, held_out=self._held_out(made.module, made.head))

    def torch_answers(self, pictures: Iterable[LabelledPicture]) -> FloatArray:
        """Return the dense specialist's own logits, (n, classes)."""
        return predict_logits(self.ground.specialist.module, self.ground.material.batches(pictures))

    def torch_looks(self) -> FloatArray:
        """Return the same on looks at the select pictures, of heads that have not seen them."""
        module = self.ground.specialist.module
        return self._held_out(module)(predict_logits(module, self.ground.looks.batches()))

    def _held_out(self, module: nn.Module, head: Linear | None = None) -> Callable[[FloatArray], FloatArray]:
        looks, held_out = self.ground.looks, self.ground.held_out.of(head)
        return lambda logits: held_out.correct(logits, module, looks.batches, looks.each)

    def _name(self, name: str) -> str:
        return f"{self.prefix}-{name}" if self.prefix else name

    def _sizes(self, module: nn.Module) -> dict[str, int]:
        size = measure_size(module, self.ground.input_size)
        return {"params": size.params, "macs": size.macs}

    def _entry(
        self,
        name: str,
        kind: Kind,
        made_by: str,
        artifact: Artifact,
        facts: Mapping[str, Any],
        on: tuple[str, str] | None = None,
    ) -> Entry:
        target = self.ground.delivery.converter.target
        runtime, provider = on or (target.runtime, target.provider)
        return Entry(
            name=name,
            kind=kind,
            model=self.model,
            made_by=made_by,
            file=artifact.path,
            sha256=artifact.sha256,
            runtime=runtime,
            provider=provider,
            precision=artifact.precision,
            answer=self._answer(artifact.path, runtime, provider),
            at=self.ground,
            held_out=self._held_out(self.ground.specialist.module),
            facts={**facts, "size_bytes": artifact.size_bytes, "pictures": self.at.words},
        )

    def _answer(self, file: Path, runtime: str, provider: str) -> Callable[[Iterable[FloatArray]], FloatArray]:
        """Return what answers one picture at a time; where the target is not this machine, ONNX Runtime does."""
        ground = self.ground
        bench, local = ground.delivery.bench, ground.plan.target.local

        def answer(inputs: Iterable[FloatArray]) -> FloatArray:
            threads = bench.threads or 1
            options = RunOptions(threads, provider) if local else RunOptions(threads, _ORT, simulate=True)
            session = load_exporter(runtime if local else "ort").open(file, options)
            return run_all(session.run, inputs)

        return answer


def cut_entries(sizes: Sizes, speedups: Sequence[float], progress: Progress) -> Iterator[Entry]:
    """Yield the cut models: ours, uniform and by MACs, all recovered with the same part of the time.

    Where several sizes of pictures compete, ours is there for the one that harms least too; all else is for the
    model's own. Where one is asked for, all are for that.

    Args:
        sizes: What was asked for.
        speedups: Over the dense model for its own size.
        progress: Told about everything.
    """
    makers, asked = [Maker(one) for one in sizes.every], sizes.asked
    several = asked.ground.options.input_size == "auto" and len(makers) > 1
    place = 0 if several else len(makers) - 1
    at, own_ms = sizes.every[place], sizes.own.width_search().dense_ms()
    units = at.ground.plan.units.within_blocks
    found = asked_allocations(sizes.loop(at), units, speedups, own_ms, progress)
    found = [dataclasses.replace(one, at=place) for one in found]
    if several:
        chosen = over_sizes(sizes.loops(place), speedups, progress)  # its own size was profiled for the others
        found = beside_own_size(chosen, found, [one.words for one in sizes.every])
    for one in found:
        yield makers[one.at].cut(one)


_WORDS: Mapping[str, str] = {
    "ours": "every unit by its measured time and loss",
    "uniform": "one ratio for all widths",
    "macs": "every unit by its MACs and loss",
}
