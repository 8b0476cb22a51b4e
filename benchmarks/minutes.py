"""How long the main job takes: from pictures to a measured bundle, and then for the next target.

`python -m benchmarks.minutes [RESULTS]` works off the cells that RESULTS does not hold yet, one JSON file each, and
prints the table of docs/evidence.md. A cell is one kind of processor and a seed: EfficientNet-Lite0, a task of eight
species that ImageNet names, 16 shots a class, `--max-drop 1 --allocation latency` at the model's own size of pictures.
First the whole run for `host-cpu-int8`, then the one for `host-cpu-openvino-int8` with `--from` the first. No latency
table is there before: the cache lies in an empty folder. Leave the machine alone meanwhile.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks._animals import DATA, SHOTS, species_options
from benchmarks._held import held
from benchmarks._machine import PROCESSORS, in_names, machine, processor, today
from benchmarks._page import told_drop
from taco import api
from taco.files import write_atomically
from taco.options import ExportOptions
from taco.progress import PlainProgress

RESULTS = Path("docs/evidence/minutes")
TARGETS = ("host-cpu-int8", "host-cpu-openvino-int8")
#: Minutes that issue 10 asks for, of each.
ASKED = (12, 3)
SEEDS = (0, 1)
MODEL, LIMIT = "tf_efficientnet_lite0", 1.0
#: Steps of a run that the table names, the longest first.
NAMED = 6

Found = Mapping[str, Any]


def work(results: Path, data: Path, seeds: Sequence[int]) -> None:
    """Do every cell of this machine's kind of processor that is missing."""
    results.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        began = machine()
        file = results / f"{in_names(processor(began))}-seed{seed}.json"
        if not file.exists():
            with tempfile.TemporaryDirectory() as scratch, _nothing_cached(Path(scratch) / "cache"):
                found = {"seed": seed, **began, "made": today(), "runs": _runs(seed, data, Path(scratch))}
            write_atomically(file, (json.dumps(found, indent=1) + "\n").encode())


def _nothing_cached(folder: Path) -> AbstractContextManager[Any]:
    return mock.patch.dict("os.environ", {"XDG_CACHE_HOME": str(folder)})


def _runs(seed: int, data: Path, scratch: Path) -> list[Found]:
    runs, earlier = [], None
    for target in TARGETS:
        values = {
            **species_options(data, "imagenet", seed, scratch),
            "target": target, "model": MODEL, "shots": SHOTS, "max_drop": LIMIT, "allocation": "latency",
            "out": scratch / target, "from_run": earlier,
        }  # fmt: skip
        runs.append(_run(api.make_options(values)))
        earlier = scratch / target
    return runs


def _run(options: ExportOptions) -> Found:
    how = ["--max-drop", f"{LIMIT:g}", "--allocation", "latency"]
    begin = time.monotonic()
    report = api.export(options, PlainProgress(), ["taco", "export", *how]).report
    seconds = time.monotonic() - begin
    assert report.max_drop is not None
    return {
        "target": options.target,
        "seconds": seconds,
        "steps": {step.name: step.seconds for step in report.steps},
        "taken_over": report.max_drop.taken_over is not None,
        "candidates": len(report.max_drop.trials),
        "times_dense": report.speedup,
        **held(report),
    }


def table(results: Path) -> str:
    """Return the Markdown table of the cells that are there."""
    lines = [
        "| processor | seed | made | target | minutes | asked | candidates | widths kept | times as fast as the dense "
        "model there | told by the shots | lost on unseen pictures |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    cells = [json.loads(file.read_bytes()) for file in sorted(results.glob("*-seed*.json"))]
    cells.sort(key=lambda cell: (PROCESSORS.index(processor(cell)), cell["seed"]))
    for cell in cells:
        for run, asked in zip(cell["runs"], ASKED, strict=True):
            how = " (taken over)" if run["taken_over"] else ""
            lines.append(
                f"| {processor(cell)} | {cell['seed']} | {cell['made']} | {run['target']} | "
                f"{run['seconds'] / 60:.1f}{how} | {asked} | {run['candidates']} | {100 * run['kept']:.0f} % | "
                f"{run['times_dense']:.2f} | {run['select_points']:+.1f} | {told_drop(run)} |"
            )
    return "\n".join([*lines, "", *(line for cell in cells for line in _longest(cell))]) + "\n"


def _longest(cell: Found) -> list[str]:
    """Say which steps took longest."""
    told = []
    for run in cell["runs"]:
        steps = sorted(run["steps"].items(), key=lambda step: -step[1])[:NAMED]
        named = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in steps)
        told.append(f"{processor(cell)}, seed {cell['seed']}, {run['target']}, longest steps: {named}.\n")
    return told


def main(arguments: Sequence[str] | None = None) -> None:
    """Work off the cells and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.minutes", description=__doc__)
    parser.add_argument("results", type=Path, nargs="?", default=RESULTS, help="folder of the cells")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--table", action="store_true", help="only print what is there")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING)
    if not given.table:
        work(given.results, given.data, given.seeds)
    print(table(given.results), end="")


if __name__ == "__main__":
    main()
