"""How long the main job takes: from pictures to a measured bundle, and then for the next target.

`python -m benchmarks.minutes [RESULTS]` works off the cells that RESULTS does not hold yet, one JSON file each, and
prints the table of docs/evidence.md. A cell is one kind of processor and a seed: EfficientNet-Lite0, a task of eight
species that ImageNet names, 16 shots a class, `--max-drop 1 --allocation latency` at the model's own size of pictures.
First the whole run for `host-cpu-int8`, then the one for `host-cpu-openvino-int8` with `--from` the first; where that
one had its own search, once more with `--take-over 1000`, which takes the first one's widths. No latency table is there
before any of them: the cache lies in an empty folder. Leave the machine alone meanwhile.
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
from taco.progress import PlainProgress

RESULTS = Path("docs/evidence/minutes")
FIRST, NEXT = "host-cpu-int8", "host-cpu-openvino-int8"
#: Minutes that issue 10 asks for, of each.
ASKED = {FIRST: 12, NEXT: 3}
#: Percent that are always enough to take the first device's widths.
ANY = 1000.0
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
            with tempfile.TemporaryDirectory() as scratch:
                found = {"seed": seed, **began, "made": today(), "runs": _runs(seed, data, Path(scratch))}
            write_atomically(file, (json.dumps(found, indent=1) + "\n").encode())


def _nothing_cached(folder: Path) -> AbstractContextManager[Any]:
    return mock.patch.dict("os.environ", {"XDG_CACHE_HOME": str(folder)})


def _runs(seed: int, data: Path, scratch: Path) -> list[Found]:
    asked = {
        **species_options(data, "imagenet", seed, scratch),
        "model": MODEL, "shots": SHOTS, "max_drop": LIMIT, "allocation": "latency",
    }  # fmt: skip
    first = {**asked, "target": FIRST, "out": scratch / "first"}
    following = {**asked, "target": NEXT, "out": scratch / "next", "from_run": first["out"]}
    runs = [_run(first), _run(following)]
    if not runs[-1]["taken_over"]:
        runs.append(_run({**following, "out": scratch / "taken", "take_over": ANY}))
    return runs


def _run(values: dict[str, Any]) -> Found:
    options = api.make_options(values)
    how = ["--max-drop", f"{LIMIT:g}", "--allocation", "latency", "--take-over", f"{options.take_over:g}"]
    with _nothing_cached(options.out.with_name(f"{options.out.name}-cache")):
        begin = time.monotonic()
        report = api.export(options, PlainProgress(), ["taco", "export", *how]).report
        seconds = time.monotonic() - begin
    assert report.max_drop is not None
    return {
        "target": options.target,
        "seconds": seconds,
        "steps": {step.name: step.seconds for step in report.steps},
        "take_over": options.take_over,
        "taken_over": report.max_drop.taken_over is not None,
        "candidates": len(report.max_drop.trials),
        "times_dense": report.speedup,
        **held(report),
    }


def table(results: Path) -> str:
    """Return the Markdown table of the cells that are there."""
    lines = [
        "| processor | seed | made | load at the start | target | minutes | asked | candidates | widths kept | "
        "times as fast as the dense model there | told by the shots | lost on unseen pictures |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    cells = [json.loads(file.read_bytes()) for file in sorted(results.glob("*-seed*.json"))]
    cells.sort(key=lambda cell: (PROCESSORS.index(processor(cell)), cell["seed"]))
    for cell in cells:
        for run in cell["runs"]:
            how = " (taken over)" if run["taken_over"] else ""
            lines.append(
                f"| {processor(cell)} | {cell['seed']} | {cell['made']} | {cell['load']} | {_asked(run)} | "
                f"{run['seconds'] / 60:.1f}{how} | {ASKED[run['target']]} | {run['candidates']} | "
                f"{100 * run['kept']:.0f} % | {run['times_dense']:.2f} | {run['select_points']:+.1f} | "
                f"{told_drop(run)} |"
            )
    return "\n".join([*lines, "", *(line for cell in cells for line in _longest(cell))]) + "\n"


def _asked(run: Found) -> str:
    """Tell for what a run was, and how, where that was not the usual."""
    return f"{run['target']}, `--take-over {ANY:g}`" if run.get("take_over") == ANY else str(run["target"])


def _longest(cell: Found) -> list[str]:
    """Say which steps took longest."""
    told = []
    for run in cell["runs"]:
        steps = sorted(run["steps"].items(), key=lambda step: -step[1])[:NAMED]
        named = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in steps)
        told.append(f"{processor(cell)}, seed {cell['seed']}, {_asked(run)}, longest steps: {named}.\n")
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
