"""The latency loop: does the whole model take what was asked, after how many rounds, and how well was that predicted?

`python -m benchmarks.loop [RESULTS] [--models ...] [--targets ...] [--speedups ...] [--save docs/benchmarks.md]` works
off the cells that RESULTS does not hold yet, one JSON file each, and prints the table of all that are there. A cell is
a whole run of `taco export --speedup X --allocation latency` without recovery, on a small task of real pictures, so
its last figure is that of the file that is shipped. Cells of one model share what they can: moments, probes, and for
one target the latency table. ResNet-50 has random weights; time does not depend on them.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks._animals import DATA, imagenet_indices
from benchmarks._machine import machine
from benchmarks._page import save
from benchmarks._quiet import Quiet
from taco import api
from taco.errors import BudgetInfeasibleError
from taco.files import write_atomically
from taco.report.schema import Report

RESULTS = Path("build") / "benchmarks" / "loop"
MODELS = ("tf_efficientnet_lite0", "tf_efficientnet_lite2", "resnet50")
RANDOM = ("resnet50",)
TARGETS = ("host-cpu", "host-cpu-int8", "host-cpu-openvino", "host-cpu-openvino-int8")
SPEEDUPS = (1.5, 2.0, 3.0)
CLASSES, SHOTS, PICTURES = 5, 8, 40
#: Done means: inside the band after at most so many rounds.
BAND, ROUNDS = 0.95, 3

#: A run that ends so was feasible by its own rounds: it counts as a miss.
_UNCONFIRMED = "was reached in the search but not confirmed"

Cell = Mapping[str, Any]


def work(
    results: Path,
    data: Path,
    cells: Sequence[tuple[str, str, float]],
    patience: float = 0.0,
    threads: int | None = None,
) -> None:
    """Run every cell that is missing, each when the machine is in its usual state, or after `patience` minutes.

    Models are timed with so many threads; None is every physical core.
    """
    results.mkdir(parents=True, exist_ok=True)
    class_map = _class_map(results)
    class_map.parent.mkdir(parents=True, exist_ok=True)
    known = imagenet_indices(data)
    class_map.write_text(json.dumps(known))
    quiet = Quiet(class_map.with_name("quiet.json"), patience)
    for model, target, speedup in cells:
        file = _file(results, model, target, speedup)
        if not file.exists():
            if (waited := quiet.wait()) > 1:
                print(f"waited {waited:.0f} s for a quiet machine", flush=True)
            cell = _run(results, data, (model, target, speedup), tuple(known)[:CLASSES], threads)
            write_atomically(file, (json.dumps(cell, indent=1) + "\n").encode())
            print(f"{file.stem}: {_words(cell)}", flush=True)


def _run(
    results: Path, data: Path, asked: tuple[str, str, float], classes: tuple[str, ...], threads: int | None
) -> Cell:
    model, target, speedup = asked
    out = results / "runs" / f"{model}-{target}-{speedup:g}"
    random = model in RANDOM
    options = api.make_options(
        {
            "task": data, "target": target, "model": model, "speedup": speedup, "allocation": "latency",
            "classes": classes, "threads": threads,
            "shots": SHOTS, "max_images": PICTURES, "recover_minutes": 0.0, "out": out,
            "class_map": None if random else _class_map(results), "head": "fit" if random else "auto",
            "random_weights": random, "from_run": _earlier(results, model, target, out),
        }
    )  # fmt: skip
    begin = time.monotonic()
    told: Cell
    try:
        told = _told(api.export(options).report, speedup)
    except BudgetInfeasibleError as error:
        told = {"missed" if _UNCONFIRMED in error.what else "infeasible": error.what, "todo": error.todo}
    asked_for = {"model": model, "target": target, "speedup": speedup, "threads": threads}
    return {**asked_for, **machine(), "seconds": time.monotonic() - begin, **told}


def _class_map(results: Path) -> Path:
    return results / "runs" / "map.json"


def _earlier(results: Path, model: str, target: str, out: Path) -> Path | None:
    """Return a run of the same model to take finished steps from, of the same target if there is one."""
    runs = [path for path in sorted((results / "runs").glob(f"{model}-*")) if path != out]
    return next((path for path in reversed(runs) if path.name.startswith(f"{model}-{target}-")), next(iter(runs), None))


def _told(report: Report, speedup: float) -> Cell:
    profile, latency, reached = report.profile, report.latency_ms, report.speedup
    assert profile is not None
    assert latency is not None
    assert reached is not None
    assert report.currency is not None
    return {
        "budget_ms": report.budget_ms,
        "rounds": [r.model_dump() for r in report.rounds],
        "share": speedup / reached,
        "dense_ms": latency.dense.p50,
        "compressed_ms": latency.compressed.p50,
        "precision": "fp32" if report.precision is None or report.precision.given_up else "int8",
        "profile_seconds": profile.seconds,
        "profile_cells": profile.cells,
        "unattributed_percent": profile.unattributed_percent,
        "device": profile.device,
        "currency": report.currency.model_dump(),
        "kept_percent": 100 * report.width_ratio,
    }


def table(cells: Sequence[Cell]) -> str:
    """Return the Markdown table of cells, and what they come to."""
    lines = [
        "| model | target | asked | rounds: predicted / measured, ms | final p50, of the budget | profile, s |",
        "|---|---|---|---|---|---|",
    ]
    for cell in cells:
        weights = ", random weights" if cell["model"] in RANDOM else ""
        head = f"| {cell['model']}{weights} | {cell['target']} | {cell['speedup']:g}x |"
        if (ended := _ended(cell)) is not None:
            lines.append(f"{head} {ended} | - | - |")
            continue
        note = "" if ("int8" in cell["target"]) == (cell["precision"] == "int8") else " (INT8 did not pay: fp32)"
        rounds = "; ".join(f"{r['predicted_ms']:.2f} / {r['measured_ms']:.2f}" for r in cell["rounds"])
        lines.append(f"{head} {rounds}{note} | {100 * cell['share']:.1f} % | {cell['profile_seconds']:.0f} |")
    return "\n".join([*lines, "", verdict(cells) + _made(cells) + _threads(cells)])


def verdict(cells: Sequence[Cell]) -> str:
    """Return in words how many runs hit the band, and the errors of the first and the last prediction."""
    reached = [cell for cell in cells if _ended(cell) is None]
    feasible = [cell for cell in cells if "infeasible" not in cell]
    if not reached:
        return "No cell was feasible."
    hit = [cell for cell in reached if BAND <= cell["share"] <= 1 and len(cell["rounds"]) <= ROUNDS]
    first, last = (statistics.median(_error(cell["rounds"][at]) for cell in reached) for at in (0, -1))
    return (
        f"{len(hit)} of {len(feasible)} feasible runs ended within {BAND:.0%} to 100% of the budget after at most "
        f"{ROUNDS} rounds. Median error of the prediction: {first:.1%} in the first round, {last:.1%} in the last."
    )


def _made(cells: Sequence[Cell]) -> str:
    """Say what the models of the runs were, and that their accuracy was no concern."""
    random = sum(cell["model"] in RANDOM for cell in cells)
    told = f" {random} of {len(cells)} runs are of models with random weights." if random else ""
    return f"{told} Nothing was recovered in any run: they tell of times alone."


def _threads(cells: Sequence[Cell]) -> str:
    """Say with how many threads models were timed, where it was not every core."""
    found = sorted({cell["threads"] for cell in cells if cell.get("threads")})
    return f" Timed with {' or '.join(map(str, found))} thread{'s' * (found != [1])} (`--threads`)." if found else ""


def _error(one: Mapping[str, float]) -> float:
    return abs(one["predicted_ms"] - one["measured_ms"]) / one["measured_ms"]


def _ended(cell: Cell) -> str | None:
    """Return why a run shipped nothing; None where it did."""
    return cell.get("infeasible", cell.get("missed"))


def _words(cell: Cell) -> str:
    if (ended := _ended(cell)) is not None:
        return ended
    return f"{100 * cell['share']:.1f} % of the budget, {len(cell['rounds'])} rounds, {cell['seconds']:.0f} s"


def _file(results: Path, model: str, target: str, speedup: float) -> Path:
    return results / f"{model}-{target}-{speedup:g}.json"


def read(results: Path, cells: Sequence[tuple[str, str, float]]) -> Iterator[Cell]:
    """Yield the cells that are there."""
    for cell in cells:
        if (file := _file(results, *cell)).exists():
            yield json.loads(file.read_text())


def main(arguments: Sequence[str] | None = None) -> None:
    """Work off the cells and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loop", description=__doc__)
    parser.add_argument("results", type=Path, nargs="?", default=RESULTS, help="folder of the cells")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--targets", nargs="+", default=TARGETS)
    parser.add_argument("--speedups", type=float, nargs="+", default=SPEEDUPS)
    parser.add_argument("--threads", type=int, help="of the timed models; 1 where CPUs may share a core")
    parser.add_argument("--patience", type=float, default=0.0, metavar="MINUTES", help="wait so long for quiet, each")
    parser.add_argument("--table", action="store_true", help="only print what is there")
    parser.add_argument("--save", type=Path, help="page to write the table of all cells into")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if not given.table:
        work(
            given.results,
            given.data,
            [(m, t, s) for m in given.models for t in given.targets for s in given.speedups],
            given.patience,
            given.threads,
        )
    every = [(m, t, s) for m in MODELS for t in TARGETS for s in SPEEDUPS]
    text = table(list(read(given.results, every)))
    print(text)
    if given.save is not None:
        head = (
            "## The latency loop\n\n`python -m benchmarks.loop --save docs/benchmarks.md`; every cell is a whole run."
        )
        save(given.save, "loop", f"{head}\n\n{text}")


if __name__ == "__main__":
    main()
