"""From torch modules to judged files: export, INT8 where it pays, timing, checks on real pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from torch import nn

from taco import wording
from taco.attached.ondevice import Device
from taco.exporters.protocol import Exporter, FloatArray
from taco.field.device_judge import Asking, OnDevice, chosen
from taco.field.engine_judge import JUDGED, EngineJudge
from taco.material import Material
from taco.options import ExportOptions
from taco.progress import Progress
from taco.rundir import content_key
from taco.search.bench import VALUE_RUNS, Bench
from taco.specialist.head import Linear
from taco.specialist.held_out import HeldOut
from taco.steps.baking import Baked, make_baked
from taco.steps.converting import Converter, GivenUp, Pair, floats_name, given_up, timed_files
from taco.steps.cutting import Cut
from taco.steps.judge import Judgement, Logits, Shipped, Stages, judge
from taco.steps.keys import Keys
from taco.steps.stored import Key, Store
from taco.targets.loading import Target
from taco.timing.timings import BenchResult, pooled
from taco.units import Unit

_BENCH = TypeAdapter(BenchResult)
#: A camera trap wakes up to take a picture.
IDLE_S = 10.0


@dataclasses.dataclass(eq=False)
class Delivery:
    """Makes, times and judges the files of one run.

    Attributes:
        exporter: Of the target's runtime.
        target: In the precision that is used; changes when one is given up.
        options: What was asked.
        material: The pictures.
        keys: What results depend on.
        store: Finished steps.
        held_out: What heads that have not seen the select pictures answer to them.
        progress: Told about every step.
        scratch: For files that need not survive.
        device: What is attached; None for none.
        given_up: Why the precision that the target asks for is not used; None while it is.
    """

    exporter: Exporter
    target: Target
    options: ExportOptions
    material: Material
    keys: Keys
    store: Store
    held_out: HeldOut
    progress: Progress
    scratch: Path
    device: Device | None = None
    given_up: GivenUp | None = None

    @property
    def bench(self) -> Bench:
        """Where and how this run measures."""
        return Bench(self.target, self.options.threads or self.target.threads, self.scratch / "device", self.device)

    @property
    def converter(self) -> Converter:
        """What exports, in the precision that is used."""
        target = dataclasses.replace(self.target, threads=self.options.threads or self.target.threads)
        size = self.material.bank.preprocessing.input_size
        return Converter(self.exporter, target, self.material, size, self.store, self.held_out)

    def export(self, name: str, module: nn.Module, more: Mapping[str, Any], head: Linear | None = None) -> Pair:
        """Export a module that depends on `more`; `head` is what it ends in, None for the dense specialist's."""
        key = self.keys.after_head(target=self.bench.key(), **more)
        return self.converter.pair(name, module, key, self.progress.step, head)

    def worth_having(self, dense: Pair) -> Pair:
        """Give the precision up before anything is searched for, where it is slower than that of more bits."""
        ratio = None
        if self.converter.competes and self.bench.measurable:
            models = {"dense": dense.floats.path, "compressed": dense.shipped.path}
            depends = {"fp32": dense.floats.sha256, "int8": dense.shipped.sha256, "target": self.bench.key()}
            names = [wording.precision(name) for name in (self.target.precision, dense.floats.precision)]

            def compute() -> Any:
                with self.progress.step(f"time {' against '.join(names)}"):
                    return _BENCH.dump_python(self.bench.settle(models, 1.0), mode="json")

            bench = _BENCH.validate_python(self.store.rundir.json_step("int8-gain", depends, compute, measured=True))
            ratio = bench.speedup("dense", "compressed")
        return self._or_plain(dense, given_up(dense, "dense", ratio) if self.converter.competes else None)

    def _or_plain(self, pair: Pair, why: GivenUp | None) -> Pair:
        if why is None:
            return pair
        self.progress.say(why.why)
        self.given_up = why
        self.target = dataclasses.replace(self.target, precision="fp32" if pair.fp16 is None else "fp16")
        return pair.plain

    def finish(
        self,
        cut: Cut,
        key: Key,
        dense: Pair,
        asked: float | None = None,
        usual_ms: float | None = None,
    ) -> tuple[Pair, Pair, BenchResult | None]:
        """Export a compressed module and time it; a precision that does not pay here is given up for both models.

        Args:
            cut: The compressed specialist.
            key: What it depends on.
            dense: The dense specialist's files.
            asked: Speed-up whose verdict should be sure; None where none was asked.
            usual_ms: What the dense model usually takes here, milliseconds; see `Bench.as_usual`.
        """
        compressed = self.export("model", cut.module, key, cut.head)
        bench = self.time(dense, compressed, asked, usual_ms)
        competes = self.converter.competes
        ratio = bench.speedup(floats_name(compressed), "compressed") if bench and competes else None
        why = given_up(compressed, "compressed", ratio) if competes else None
        if why is None:
            return dense, compressed, bench
        dense, compressed = dense.plain, self._or_plain(compressed, why)
        return dense, compressed, self.time(dense, compressed, asked)

    def loses_there(
        self, compressed: Pair, judged: Judgement, there: OnDevice | None, bench: BenchResult | None
    ) -> bool:
        """Give INT8 up where the attached device loses answers with it; says whether it was given up.

        The floats are then made, timed and judged in its place, and nothing is shipped if they lose answers too.

        Args:
            compressed: The compressed model's files.
            judged: Their answers here.
            there: The device's own; None without one.
            bench: How the models were timed; None where nothing was.
        """
        if there is None or not self.converter.int8:
            return False
        gate = there.gate(judged, self.material.task.classes)
        if gate.passed is not False:
            return False
        where = "the device" if self.device is None else self.device.name
        ratio = None if bench is None else bench.speedup(floats_name(compressed), "compressed")
        why = f"INT8 loses answers on {where}: {gate.measured}"
        self._or_plain(compressed, GivenUp(why, "compressed", ratio, compressed.shipped))
        return True

    def time(
        self, dense: Pair, compressed: Pair, asked: float | None, usual_ms: float | None = None
    ) -> BenchResult | None:
        """Time all models in one interleaved run; stored, so that it is taken once. None for a device elsewhere.

        Times of engines that are no longer on the device are taken anew: what is timed is what is judged and deployed.
        """
        if not self.bench.measurable:
            return None
        models = timed_files(dense, compressed, competes=self.converter.competes)
        hashes = {"model": compressed.shipped.sha256, "dense": dense.shipped.sha256, "fp32": compressed.fp32.sha256}

        def compute() -> Any:
            where = "this machine" if self.device is None else self.device.name
            with self.progress.step(f"time dense and compressed on {where}"):
                return _BENCH.dump_python(self._timed(models, asked, usual_ms), mode="json")

        def holds(stored: Any) -> bool:
            return self._engines_there({name: timing["session"] for name, timing in stored["models"].items()})

        depends = {**hashes, "target": self.bench.key()}
        found = self.store.rundir.json_step("latency", depends, compute, measured=True, holds=holds)
        return _BENCH.validate_python(found)

    def _engines_there(self, engines: Mapping[str, Mapping[str, Any]]) -> bool:
        """Say whether the engines that a stored result tells of still lie on the device; true where it runs none."""
        device = self.device
        if device is None or self.target.runtime != "trt" or device.tensorrt.has({n: engines[n] for n in JUDGED}):
            return True
        self.progress.say(f"{device.name} no longer has the engines of the earlier run: they are made again")
        return False

    def _timed(self, models: Mapping[str, Path], asked: float | None, usual_ms: float | None) -> BenchResult:
        """Time as the search does; on a device also after idling, and with an eye on what disturbs it."""
        if self.device is None:
            return self.bench.settle(models, asked, usual_ms=usual_ms, least_runs=VALUE_RUNS)
        told = self.bench.conditions(models, IDLE_S)
        if asked is None:
            return told
        return dataclasses.replace(
            pooled(self.bench.settle(models, asked, usual_ms=usual_ms, least_runs=VALUE_RUNS), told),
            focus=told.focus,
            idle_ms=told.idle_ms,
            unstable=told.unstable,
            repeated=told.repeated,
        )

    def on_device(self, compressed: Pair, judged: Judgement, crop_margin: float | None) -> OnDevice | None:
        """Let the attached device name the judged pictures, with the bytes that it will get; None without a device."""
        device, target = self.device, self.converter.target
        if device is None:
            return None
        asking = Asking(device, target, crop_margin, self.scratch)
        pictures = chosen(self.material.judged)

        def compute() -> Any:
            with self.progress.step(f"let {device.name} name {len(pictures)} pictures"):
                return asking.ask(compressed.shipped, self.material, pictures)

        views = [str(self.material.judged[i].view) for i in pictures]
        depends = {"model": compressed.shipped.sha256, "pictures": content_key(views), "target": self.bench.key()}
        answer = self.store.rundir.json_step("on-device", depends, compute, measured=True)
        return OnDevice.of(answer, judged, self.material, pictures)

    def engines(
        self, dense: Pair, compressed: Pair, bench: BenchResult | None, units: Sequence[Unit]
    ) -> Mapping[str, Any] | None:
        """Let the engines on the attached device name the judged pictures; None without a device, or without TensorRT.

        Args:
            dense: The dense model.
            compressed: The compressed one.
            bench: How they were timed: the engines that answer are those.
            units: What the run may cut, to tell whose time the layers take.
        """
        device = self.device
        if device is None or self.target.runtime != "trt":
            return None
        asking = self._engine_judge(device, units)

        def compute() -> Any:
            with self.progress.step(f"let the engines on {device.name} name {len(asking.pictures)} pictures"):
                return asking.ask(dense, compressed, bench)

        timed = {} if bench is None else {n: bench.models[n].session["engine_sha256"] for n in JUDGED}
        views = [str(self.material.judged[i].view) for i in asking.pictures]
        hashes = {"dense": dense.shipped.sha256, "model": compressed.shipped.sha256, "timed": timed}
        depends = {**hashes, "pictures": content_key(views), "target": self.bench.key()}

        def holds(stored: Any) -> bool:
            return self._engines_there(stored["engines"])

        found: Mapping[str, Any] = self.store.rundir.json_step("engines", depends, compute, measured=True, holds=holds)
        return found

    def engine_answers(self, found: Mapping[str, Any], judged: Judgement) -> OnDevice | None:
        """Put the answers of `engines` beside ours."""
        return None if self.device is None else self._engine_judge(self.device, ()).answers(found, judged)

    def _engine_judge(self, device: Device, units: Sequence[Unit]) -> EngineJudge:
        return EngineJudge(device.tensorrt, self.material, units, self.scratch)

    def judge(self, stages: Stages, compressed: Pair, key: Key) -> Judgement:
        """Run every stage over the judged pictures; `key` is of the compressed module."""
        shipped = Shipped.of(compressed.shipped.path, compressed.fp32.path, self.converter.target)

        def compute() -> Judgement:
            with self.progress.step("check the exported file on real pictures"):
                return judge(stages, shipped, self.material)

        hashes = {"model": compressed.shipped.sha256, "fp32": compressed.fp32.sha256, "runtime": shipped.runtime}
        return self.store.judgement(self.keys.after_head(**hashes, **key), compute)

    def select_logits(self, compressed: Pair, looks: Iterable[FloatArray]) -> Logits:
        """Return the shipped file's logits on looks at the select pictures, (n, classes): what choices are made on."""
        shipped = Shipped.of(compressed.shipped.path, compressed.fp32.path, self.converter.target)
        with self.progress.step("ask the exported file about the select pictures"):
            return shipped.answers(looks)

    def bake(self, compressed: Pair, judged: Judgement) -> Baked | None:
        """Put pixels in and probabilities out, for a device's own programs."""
        asked = self.options.bake_preprocessing
        if not (asked if asked is not None else not self.target.local and self.target.runtime != "trt"):
            return None
        file = compressed.shipped
        simulate = not self.target.local and file is not compressed.fp32

        def compute(path: Path) -> Any:
            with self.progress.step("bake preprocessing into the model"):
                return make_baked(file.path, path, self.material, judged, simulate=simulate)

        preprocessing = self.material.bank.preprocessing.to_dict()
        key = self.keys.after_head(model=file.sha256, preprocessing=preprocessing, simulated=simulate)
        path, facts = self.store.rundir.file_step("baked", key, ".onnx", compute)
        return Baked(path, tuple(facts["from_pixels"]), tuple(facts["from_files"]), facts["images"])
