"""A front from pictures to `front.json`: make every model, judge it, and time all of them in one interleaved run.

Every part is a step of the run's folder, so that a front that was stopped goes on, and a full export from one of its
points (`--pick`) takes its work over.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter

import taco
from taco.errors import InputError, MeasurementError
from taco.exporters.protocol import FloatArray
from taco.front.dominance import Mark, above, dominated_by, exceeds, recommend
from taco.front.entries import Entry, Maker, cut_entries
from taco.front.rivals import rivals
from taco.front.schema import Front, FrontPoint, Ratio, Recommendation
from taco.material import labels_of
from taco.metrics.accuracy import Score, is_unequal, paired_drop
from taco.metrics.drop_estimate import estimate_drop
from taco.pictures.listing import LabelledPicture
from taco.progress import Progress
from taco.report.parts import Proportion
from taco.rundir import RunDir
from taco.search.drop_search import as_json
from taco.steps.groundwork import Groundwork
from taco.steps.plan import Plan, make_plan
from taco.steps.sizes import Sizes
from taco.timing.timings import BenchResult

SPEEDUPS = (1.5, 2.0, 3.0, 4.0)
#: What a recommended model may lose where `--max-drop` says nothing.
LIMIT = 1.0
_BENCH = TypeAdapter(BenchResult)
_RUNTIMES = {"ort": "ONNX Runtime", "ov": "OpenVINO", "trt": "TensorRT"}


@dataclasses.dataclass(frozen=True, slots=True)
class FrontOptions:
    """What a front is to show beside what an export is asked for.

    Attributes:
        speedups: That the cut models aim at.
        beside: Other timm models, shown dense.
        limit: Points that the recommended model may lose.
    """

    speedups: tuple[float, ...] = SPEEDUPS
    beside: tuple[str, ...] = ()
    limit: float = LIMIT

    def check(self) -> None:
        """Refuse what makes no front.

        Raises:
            InputError: A speed-up that is none.
        """
        for speedup in self.speedups:
            if not 1 < speedup < 1000:
                raise InputError(f"--speedups {speedup:g}: each must be above 1", "For example --speedups 1.5,2,3,4")


@dataclasses.dataclass(frozen=True, eq=False)
class _Judge:
    """Compares answers with the dense specialist's on the same pictures."""

    select: Sequence[LabelledPicture]
    judged: Sequence[LabelledPicture]
    dense_select: FloatArray
    dense_judged: npt.NDArray[np.int64]
    classes: Sequence[str]

    @property
    def balanced(self) -> bool:
        return Score.from_predictions(labels_of(self.judged), self.dense_judged, self.classes).balanced

    def fields(self, select: Any, judged: Any) -> dict[str, Any]:
        """Return the accuracies of logits on both sets, as fields of a point."""
        labels, answers = labels_of(self.judged), np.asarray(judged).argmax(1)
        score = Score.from_predictions(labels, answers, self.classes)
        drop = paired_drop(labels, self.dense_judged, answers, score.balanced)
        own = labels_of(self.select)
        balanced = is_unequal(np.bincount(own))
        lost = estimate_drop(own, self.dense_select, select, balanced=balanced)
        return {
            "accuracy": Proportion(**dataclasses.asdict(score.top1)),
            "drop_points": drop.points,
            "drop_ci95": (drop.low, drop.high),
            "select": as_json(lost),
        }


def make_front(plan: Plan, how: FrontOptions, rundir: RunDir, progress: Progress, command: Sequence[str] = ()) -> Front:
    """Make a front.

    Args:
        plan: From `make_plan`; its own budget is not used.
        how: What to show.
        rundir: The locked folder.
        progress: Told about every step.
        command: The command line, for the page.

    Raises:
        MeasurementError: Nothing can be timed: a front shows measured times only.
        InputError: Another model's pictures are not the same.
    """
    how.check()
    scratch = rundir.scratch()
    ground = Groundwork(plan, rundir, progress, scratch)
    if not ground.delivery.bench.measurable:
        raise MeasurementError(
            f"a front shows measured times, and no {plan.target.name} that can be timed is attached",
            "Aim at a target on this machine, or attach the device with --device",
        )
    sizes = Sizes(ground)
    makers = [Maker(sizes.own)]
    for name in how.beside:
        changed = {"model": name, "weights": None, "macs": 1.0, "max_drop": None, "input_size": None}
        options = plan.options.model_copy(update=changed)
        with progress.step(f"prepare {name}"):
            other = make_plan(options, plan.device)
        makers.append(Maker.of(Groundwork(other, rundir, progress, scratch), name))
        if makers[-1].ground.material.judged != ground.material.judged:
            raise InputError(f"{name} cannot read the same pictures", "Leave it out of --beside")
    tools, missing = rivals() if plan.target.local and plan.device is None else ([], [])
    entries = [*cut_entries(sizes, how.speedups, progress)]
    entries += [entry for maker in makers for entry in maker.dense()]
    entries += [Maker(one).resized() for one in sizes.others]
    entries += [maker.own_int8(tool) for maker in makers for tool in tools]
    bench = _times(ground, entries)
    judge, judged = _judge(makers[0]), {}
    with progress.step("judge every model", len(entries)) as advance:
        for entry in entries:
            select, answers = _answers(ground, entry, judge)
            judged[entry.name] = judge.fields(entry.held_out(np.asarray(select, np.float32)), answers)
            advance(1)
    return _assembled(ground, how, entries, _Found(bench, judged, judge.balanced, tuple(missing)), command)


@dataclasses.dataclass(frozen=True, slots=True)
class _Found:
    bench: BenchResult
    judged: Mapping[str, Mapping[str, Any]]
    balanced: bool
    missing: tuple[str, ...]


def _times(ground: Groundwork, entries: Sequence[Entry]) -> BenchResult:
    """Time all files in one interleaved run, equal ones once; stored, so that it is taken once."""
    first = {(e.sha256, e.provider): e.name for e in reversed(entries)}
    timed = [entry for entry in entries if first[entry.sha256, entry.provider] == entry.name]
    models = {entry.name: entry.file for entry in timed}
    providers = {entry.name: entry.provider for entry in timed}

    def compute() -> Any:
        with ground.progress.step(f"time {len(models)} models in turns"):
            return _BENCH.dump_python(ground.delivery.bench.together(models, providers), mode="json")

    hashes = {entry.name: [entry.sha256, entry.provider] for entry in timed}
    depends = {"models": hashes, "target": ground.delivery.bench.key({e.runtime for e in timed})}
    bench = _BENCH.validate_python(ground.rundir.json_step("front-times", depends, compute, measured=True))
    of = {entry.name: bench.models[first[entry.sha256, entry.provider]] for entry in entries}
    return dataclasses.replace(bench, models=of)


def _judge(maker: Maker) -> _Judge:
    material = maker.ground.material
    select, judged = material.task.select, material.judged
    return _Judge(
        select=select,
        judged=judged,
        dense_select=maker.torch_looks(),
        dense_judged=maker.torch_answers(judged).argmax(1),
        classes=material.task.classes,
    )


def _answers(ground: Groundwork, entry: Entry, judge: _Judge) -> Iterator[Any]:
    """Yield logits on looks at the select pictures and on the judged ones; stored."""
    pictures, at = (judge.select, judge.judged), entry.at
    depends = {
        "model": entry.sha256,
        "runtime": entry.runtime,
        "pictures": [[str(p.view) for p in s] for s in pictures],
        "looks": at.looks.each,
    }

    def compute() -> Any:
        inputs = (at.looks.singly(), at.material.bank.batches([p.view for p in judge.judged], 1))
        return [entry.answer(some).astype(float).tolist() for some in inputs]

    yield from ground.rundir.json_step("front-answers", ground.keys.after_head(**depends), compute)


def _assembled(
    ground: Groundwork, how: FrontOptions, entries: Sequence[Entry], found: _Found, command: Sequence[str]
) -> Front:
    bench, plan, task = found.bench, ground.plan, ground.material.task
    reference = next((e.name for e in entries if e.name == "ort-fp32"), None)
    reference = reference or next((e.name for e in entries if e.name == "fp32"), "dense")
    marks = [
        Mark(
            e.name,
            e.kind,
            bench.steady_ms(e.name, "dense"),
            found.judged[e.name]["accuracy"].percent,
            found.judged[e.name]["select"]["points"],
        )
        for e in entries
    ]
    points = [
        FrontPoint(
            name=entry.name,
            kind=entry.kind,
            model=entry.model,
            made_by=entry.made_by,
            runtime=_RUNTIMES[entry.runtime],
            precision=entry.precision,
            p50_ms=bench.models[entry.name].p50_ms,
            ms=mark.ms,
            speedup=_ratio(bench, "dense", entry.name),
            speedup_fp32=_ratio(bench, reference, entry.name),
            dominated_by=dominated_by(mark, marks),
            **found.judged[entry.name],
            **entry.facts,
        )
        for entry, mark in zip(entries, marks, strict=True)
    ]
    taken = recommend(marks, how.limit)
    beyond = [exceeds(p, how.limit) for p in points if task.evaluation and taken is not None and p.name == taken[0]]
    return Front(
        taco_version=taco.__version__,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        command=list(command),
        seed=plan.options.seed,
        task=task.name,
        classes=list(task.classes),
        shots=plan.options.shots,
        target=plan.target.name,
        threads=bench.threads,
        evaluated_on="evaluation" if task.evaluation else "select",
        balanced=found.balanced,
        random_weights=plan.generalist.random_weights,
        limit_points=how.limit,
        rounds=bench.rounds,
        stopped_early=bench.stopped_early,
        measured_on=dict(bench.measured_on),
        points=sorted(points, key=lambda p: (p.takes_ms, p.name)),
        recommended=None if taken is None else Recommendation(name=taken[0], reason=taken[1]),
        warnings=[*filter(None, beyond), *_warnings(ground, found, marks)],
    )


def _warnings(ground: Groundwork, found: _Found, marks: Sequence[Mark]) -> list[str]:
    told = [*ground.material.task.warnings, *found.missing]
    if ground.delivery.given_up is not None:
        told.append(ground.delivery.given_up.words)
    if found.bench.stopped_early:
        told.append("the measurement was stopped at its time limit, before all rounds")
    told += found.bench.unstable
    if others := above(marks):
        told.append(f"no model of ours is both as fast and as right as {others}")
    return told


def _ratio(bench: BenchResult, slow: str, fast: str) -> Ratio:
    found = bench.speedup(slow, fast)
    return Ratio(value=found.value, low=found.low, high=found.high)
