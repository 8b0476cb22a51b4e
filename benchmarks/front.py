"""The promise: as fast as possible within a point, against everything that a person would do instead.

`python -m benchmarks.front [RESULTS]` works off the cells that RESULTS does not hold yet, one JSON file each, and
prints the table of docs/evidence.md from all that are there; a cell that was stopped goes on. A cell is one target,
model, task of eight species (that ImageNet names, or others, with a fitted head) and seed, 16 shots a class. Its first
part is a whole run of `taco export --max-drop 1 --allocation latency --input-size auto`, from pictures to the bundle,
whose file is then timed in one interleaved run beside the dense specialist in fp32 under ONNX Runtime, in the target's
own precision, and in INT8 by each runtime's own tool. With `--fronts` a cell also has a whole front (`taco front`),
with a smaller model beside it.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import logging
import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks._animals import DATA, SHOTS, Species, species_options
from benchmarks._held import held
from benchmarks._machine import PROCESSORS, in_names, machine, processor, today
from benchmarks._page import save, told_drop
from taco import api
from taco.device.statistics import Z_95
from taco.files import write_atomically
from taco.front.entries import Maker
from taco.front.rivals import rivals
from taco.options import RECOVER_MINUTES, ExportOptions
from taco.progress import PlainProgress
from taco.rundir import RunDir
from taco.steps.groundwork import Groundwork
from taco.timing.timings import BenchResult

RESULTS = Path("docs/evidence/front")
TARGETS = ("host-cpu-int8", "host-cpu-openvino-int8")
MODELS = {"lite0": "tf_efficientnet_lite0", "lite2": "tf_efficientnet_lite2"}
BESIDE = {"lite0": (), "lite2": ("tf_efficientnet_lite0",)}
TASKS = ("known", "other")
SEEDS = (0, 1, 2)
LIMIT = 1.0
SPEEDUPS = (1.5, 2.0, 3.0, 4.0, 6.0)
#: Aims of issue 10: over dense fp32 under ONNX Runtime, and over the best INT8 of the dense model.
AIMS = {"lite0": (5.0, 2.0), "lite2": (8.0, 3.0)}

Found = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Cell:
    """One figure of the table.

    Attributes:
        processor: One of `benchmarks._machine.PROCESSORS`: the one that makes it.
    """

    target: str
    model: str
    task: str
    seed: int
    processor: str = PROCESSORS[0]

    @property
    def name(self) -> str:
        """Of its files."""
        kind = "" if self.processor == PROCESSORS[0] else f"-{in_names(self.processor)}"
        return f"{self.target}{kind}-{self.model}-{self.task}-seed{self.seed}"


def work(results: Path, runs: Path, data: Path, cells: Sequence[Cell], *, fronts: bool) -> None:
    """Do every part of every cell that is missing."""
    results.mkdir(parents=True, exist_ok=True)
    for cell in cells:
        options = _options(cell, runs, data)
        if not (results / f"{cell.name}.json").exists():
            _write(results / f"{cell.name}.json", {**_named(cell), **_run(options)})
        if fronts and not (results / f"{cell.name}.front.json").exists():
            how = api.FrontOptions(SPEEDUPS, BESIDE[cell.model], LIMIT)
            usual = {"recover_minutes": RECOVER_MINUTES}  # as `taco front` does
            asked = options.model_copy(update={"out": runs / f"{cell.name}-front", "from_run": options.out, **usual})
            found = api.front(asked, how, command=["python", "-m", "benchmarks.front", "--fronts"]).front
            _write(results / f"{cell.name}.front.json", {**_named(cell), "front": found.model_dump(mode="json")})


def _named(cell: Cell) -> dict[str, Any]:
    named = {"target": cell.target, "model": cell.model, "task": cell.task, "seed": cell.seed, **machine()}
    return {**named, "made": today()}


def _options(cell: Cell, runs: Path, data: Path) -> ExportOptions:
    species: Species = "imagenet" if cell.task == "known" else "other"
    values = {
        **species_options(data, species, cell.seed, runs),
        "target": cell.target, "model": MODELS[cell.model], "shots": SHOTS, "max_drop": LIMIT, "allocation": "latency",
        "input_size": "auto", "out": runs / cell.name, "from_run": _earlier(cell, runs),
    }  # fmt: skip
    return api.make_options(values)


def _earlier(cell: Cell, runs: Path) -> Path | None:
    """Return the run of the same task for another target, whose pictures, moments and probes are taken over."""
    others = [runs / dataclasses.replace(cell, target=t).name for t in TARGETS if t != cell.target]
    return next((other for other in others if (other / "manifest.json").is_file()), None)


def _run(options: ExportOptions) -> Found:
    progress, resumed = PlainProgress(), (options.out / ".taco" / "steps").is_dir()
    begin = time.monotonic()
    how = ["--max-drop", f"{LIMIT:g}", "--allocation", "latency", "--input-size", "auto"]
    done = api.export(options, progress, ["taco", "export", *how])
    seconds, report = time.monotonic() - begin, done.report
    assert report.max_drop is not None
    assert report.accuracy.exported is not None
    assert report.accuracy.dense is not None
    bench, precisions = _against(options, done.folder / "model.onnx", progress)
    int8 = (name for name, precision in precisions.items() if precision == "int8")
    fastest = min(int8, key=lambda name: bench.steady_ms(name, "small"), default=None)
    return {
        "resumed": resumed,
        "seconds": sum(step.seconds for step in report.steps) if done.already_done else seconds,
        "reused": None if options.from_run is None else options.from_run.name,
        "taken_over": None if (taken := report.max_drop.taken_over) is None else taken.target,
        "dense": report.accuracy.dense.top1.percent,
        **report.accuracy.exported.top1.model_dump(),
        **held(report),
        "tried": [trial.model_dump(mode="json") for trial in report.max_drop.trials],
        "reads": report.size.compressed.pictures,
        "precision": report.runtime.precision,
        "ms": {name: timing.p50_ms for name, timing in bench.models.items()},
        "over_fp32": _ratio(bench, next(n for n in ("ort-fp32", "fp32", "dense") if n in bench.models)),
        "over_int8": None if fastest is None else _ratio(bench, fastest),
        "best_int8": fastest,
        "rounds": bench.rounds,
        "threads": bench.threads,
    }


def _ratio(bench: BenchResult, slow: str) -> dict[str, float]:
    found = bench.speedup(slow, "small")
    return {"value": found.value, "low": found.low, "high": found.high}


def _against(options: ExportOptions, small: Path, progress: PlainProgress) -> tuple[BenchResult, dict[str, str]]:
    """Time the small model beside the dense ones; returns the precision of each dense one too."""
    rundir = RunDir(options.out)
    with rundir.locked():
        ground = Groundwork(api.make_plan(options), rundir, progress, rundir.scratch())
        maker, (tools, _) = Maker.of(ground), rivals()
        entries = [*maker.dense(), *(maker.own_int8(tool) for tool in tools)]
        target = ground.delivery.converter.target
        models = {"small": small, **{entry.name: entry.file for entry in entries}}
        providers = {"small": target.provider, **{entry.name: entry.provider for entry in entries}}
        bench = ground.delivery.bench.together(models, providers)
        rundir.drop_scratch()
    return bench, {entry.name: entry.precision for entry in entries}


def read(results: Path) -> list[Found]:
    """Return all cells that are there, without the fronts."""
    files = sorted(file for file in results.glob("*-seed*.json") if not file.name.endswith(".front.json"))
    return [json.loads(file.read_bytes()) for file in files]


def table(results: Path) -> str:
    """Return Markdown: a row a cell, how far the shots' promise was kept, and what candidates lost for their harm."""
    lines = [
        "| target | processor | model | task | seed | over dense fp32, ORT | over the best dense INT8 | told by the "
        "shots | lost on unseen pictures | ms | reads | widths kept | minutes | made |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    cells = read(results)
    return "\n".join([*lines, *_rows(cells), "", *_kept_promises(cells), *_rates(cells)]) + "\n"


def _kept_promises(found: Sequence[Found]) -> Iterator[str]:
    """Say how much more unseen pictures lost than the shots had told, by task.

    Models of one task and seed are judged by the same pictures, so they count as one, with their mean.
    """
    yield "| task | models | seeds | told by the shots, mean | lost on unseen pictures, mean | more than told, mean |"
    yield "|---|---|---|---|---|---|"
    for task in TASKS:
        cells = [cell for cell in found if cell["task"] == task]
        seeds = sorted({cell["seed"] for cell in cells})
        of_seed = [[cell for cell in cells if cell["seed"] == seed] for seed in seeds]
        if not cells:
            continue
        more = [statistics.mean(cell["drop"] - cell["select_points"] for cell in own) for own in of_seed]
        told, lost = (statistics.mean(cell[name] for cell in cells) for name in ("select_points", "drop"))
        gap = f"{statistics.mean(more):+.1f} (standard error {_error(more, of_seed)})"
        yield f"| {task} | {len(cells)} | {len(seeds)} | {told:+.1f} | {lost:+.1f} | {gap} |"


def _error(more: Sequence[float], of_seed: Sequence[Sequence[Found]]) -> str:
    """Tell the standard error of the mean over seeds: of their spread, or of their pictures if that is more.

    Three seeds may lie closer together than their pictures allow. What the shots leave open is that of candidates which
    all of them judged; where no cell of a seed has any, it is left out, and the error is at least so much.
    """
    spread = statistics.stdev(more) / math.sqrt(len(more)) if len(more) > 1 else 0.0
    unseen = [_half(cells, "drop_") for cells in of_seed]
    judged = [[trial for cell in cells for trial in cell.get("tried", ())] for cells in of_seed]
    most = max((trial["judging_images"] for trials in judged for trial in trials), default=0)
    whole = [[trial for trial in trials if trial["judging_images"] == most] for trials in judged]
    shots = [_half(trials, "") for trials in whole if trials]
    least = "at least " if len(shots) < len(more) else ""
    return f"{least}{max(spread, math.hypot(*unseen, *shots) / len(more)):.1f}"


def _half(found: Sequence[Found], prefix: str) -> float:
    """Return the mean standard error that intervals stand for, of the keys `low` and `high` behind a prefix."""
    return statistics.mean(one[f"{prefix}high"] - one[f"{prefix}low"] for one in found) / (2 * Z_95)


def _rates(found: Sequence[Found]) -> Iterator[str]:
    """Say how many points candidates lost for each nat by which cutting them was expected to change the answers.

    One figure a model and task: the points of all candidates over their nats, each model once, also where a run for
    another target asked the same ones.
    """
    tried: dict[tuple[str, str], dict[tuple[Any, ...], tuple[float, float]]] = {}
    for cell in found:
        for one in cell.get("tried", ()):
            if one["expected_nats"] and one["kept_percent"] < 100:  # else it is a smaller picture that changes answers
                lost = one["points"] if one["beyond"] is None else one["beyond"]
                which = (cell["seed"], one["pictures"], one["kept_percent"], one["points"])
                tried.setdefault((cell["model"], cell["task"]), {})[which] = (lost, one["expected_nats"])
    if not tried:
        return
    yield from ("", "| model | task | seeds | candidates | nats each | points lost each | points a nat |")
    yield "|---|---|---|---|---|---|---|"
    for (model, task), ones in sorted(tried.items()):
        points, nats = zip(*ones.values(), strict=True)
        spans = f"{min(nats):.3f} to {max(nats):.3f} | {min(points):+.1f} to {max(points):+.1f}"
        seeds = len({which[0] for which in ones})
        yield f"| {model} | {task} | {seeds} | {len(ones)} | {spans} | {sum(points) / sum(nats):.0f} |"


def _rows(found: Sequence[Found]) -> Iterator[str]:
    for kind, target, model, task in itertools.product(PROCESSORS, TARGETS, MODELS, TASKS):
        own = [c for c in found if (c["target"], c["model"], c["task"], processor(c)) == (target, model, task, kind)]
        for c in sorted(own, key=lambda c: c["seed"]):
            int8 = "-" if c["over_int8"] is None else f"{_ratio_told(c['over_int8'])}, {c['best_int8']}"
            yield (
                f"| {target} | {kind} | {model} | {task} | {c['seed']} | {_ratio_told(c['over_fp32'])} | {int8} | "
                f"{c['select_points']:+.1f} | {told_drop(c)} | "
                f"{c['ms']['small']:.2f} | {c.get('reads') or 'own size'} | {_kept(c)} | "
                f"{c['seconds'] / 60:.0f}{_begun(c)} | {c.get('made', '-')} |"
            )


def _begun(cell: Found) -> str:
    """Say what was not done in these minutes."""
    told = ("resumed",) if cell.get("resumed") else ()
    if cell.get("taken_over"):
        told += (f"taken over from {cell['taken_over']}",)
    return f" ({', '.join(told)})" if told else ""


def _kept(cell: Found) -> str:
    return f"{100 * cell['kept']:.0f} %" if "kept" in cell else "-"


def _ratio_told(ratio: Mapping[str, float]) -> str:
    return f"{ratio['value']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"


def _write(file: Path, found: Mapping[str, Any]) -> None:
    write_atomically(file, (json.dumps(found, indent=1) + "\n").encode())
    print(f"{file.stem}: {found.get('drop', 'drawn')}", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Work off the cells and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.front", description=__doc__)
    parser.add_argument("results", type=Path, nargs="?", default=RESULTS, help="folder of the cells")
    parser.add_argument("--runs", type=Path, default=Path("build/benchmarks/front"), help="where runs lie; large")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--fronts", action="store_true", help="whole fronts too: hours more")
    parser.add_argument("--table", action="store_true", help="only print what is there")
    parser.add_argument("--save", type=Path, help="page to write the table into")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("taco").setLevel(logging.INFO)
    if not given.table:
        kind = processor(machine())
        cells = [
            Cell(target, model, task, seed, kind)
            for seed in given.seeds for model in given.models for task in given.tasks for target in given.targets
        ]  # fmt: skip
        work(given.results, given.runs, given.data, cells, fronts=given.fronts)
    text = table(given.results)
    print(text, end="")
    if given.save is not None:
        save(given.save, "front", text)


if __name__ == "__main__":
    main()
