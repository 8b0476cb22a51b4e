"""The files of a front: ours at several budgets, the dense models, and what the runtimes' own tools make of those."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from taco.exporters.loading import load_exporter
from taco.exporters.mixed import run_all
from taco.exporters.protocol import Artifact, FloatArray, RunOptions
from taco.files import sha256_of
from taco.front.allocations import asked_allocations
from taco.front.rivals import Rival
from taco.front.schema import Kind
from taco.pictures.listing import LabelledPicture
from taco.recover import INTERRUPTED
from taco.rundir import content_key
from taco.search.drop_search import SHORT
from taco.specialist.specialise import predict_logits
from taco.steps.converting import spread
from taco.steps.groundwork import Groundwork
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
        answer: Pictures -> (n, classes) float32 logits.
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
    answer: Callable[[Iterable[LabelledPicture]], FloatArray]
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, eq=False)
class Maker:
    """Makes the entries of one model.

    Attributes:
        ground: Its pictures, dense specialist and files.
        prefix: Before the names of its points; empty for the model that is cut.
    """

    ground: Groundwork
    prefix: str = ""

    @property
    def model(self) -> str:
        """Name that timm knows it by."""
        return self.ground.plan.generalist.name

    def dense(self) -> Iterator[Entry]:
        """Yield the dense specialist as the target has it, in fp32, and in fp32 under ONNX Runtime; each file once."""
        ground, target = self.ground, self.ground.delivery.converter.target
        shipped, fp32 = ground.dense.shipped, ground.dense.fp32
        facts = self._sizes(ground.specialist.module)
        as_target: Kind = "beside" if self.prefix else "dense"
        yield self._entry(self._name("dense"), as_target, "the dense specialist", shipped, facts)
        if shipped is not fp32:
            yield self._entry(self._name("fp32"), "fp32", "the dense specialist in fp32", fp32, facts)
        if target.local and target.runtime != "ort":
            words = "the dense specialist in fp32 under ONNX Runtime"
            yield self._entry(self._name("ort-fp32"), "fp32", words, fp32, facts, ("ort", _ORT))

    def own_int8(self, rival: Rival) -> Entry:
        """Return what a runtime's own tool makes of the dense model."""
        ground, fp32 = self.ground, self.ground.dense.fp32
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
            facts=facts,
        )

    def cut(self, speedups: Iterable[float]) -> Iterator[Entry]:
        """Yield the cut models: ours, uniform and by MACs, all recovered with the same part of the time.

        Raises:
            KeyboardInterrupt: Ctrl-C, also during a recovery: the same command goes on with it.
        """
        ground = self.ground
        search, cutter = ground.width_search(ground.dense), ground.cutter()
        loop = search.latency(search.dense_ms())
        for asked in asked_allocations(loop, ground.plan.units.within_blocks, speedups, ground.progress):
            made = cutter.cut(asked.allocation, SHORT)
            if made.recovered is not None and made.recovered.ended == INTERRUPTED:
                raise KeyboardInterrupt
            pair = ground.delivery.export("front-model", made.module, ground.cut_key(made))
            facts = {
                **self._sizes(made.module),
                "asked": asked.speedup,
                "steps": made.recovered.steps if made.recovered else 0,
                "widths": dict(made.widths),
            }
            yield self._entry(asked.name, asked.kind, _WORDS[asked.kind], pair.shipped, facts)

    def torch_answers(self, pictures: Iterable[LabelledPicture]) -> FloatArray:
        """Return the dense specialist's own logits, (n, classes)."""
        return predict_logits(self.ground.specialist.module, self.ground.material.batches(pictures))

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
            facts={**facts, "size_bytes": artifact.size_bytes},
        )

    def _answer(self, file: Path, runtime: str, provider: str) -> Callable[[Iterable[LabelledPicture]], FloatArray]:
        """Return what answers one picture at a time; where the target is not this machine, ONNX Runtime does."""
        ground = self.ground
        bench, local = ground.delivery.bench, ground.plan.target.local

        def answer(pictures: Iterable[LabelledPicture]) -> FloatArray:
            threads = bench.threads or 1
            options = RunOptions(threads, provider) if local else RunOptions(threads, _ORT, simulate=True)
            session = load_exporter(runtime if local else "ort").open(file, options)
            return run_all(session.run, ground.material.bank.batches([p.view for p in pictures], 1))

        return answer


_WORDS: Mapping[str, str] = {
    "ours": "every unit by its measured time and loss",
    "uniform": "one ratio for all widths",
    "macs": "every unit by its MACs and loss",
}
