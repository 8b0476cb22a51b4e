"""Whether it matters whose clock decides: widths by one runtime's table against those by another's, timed on both.

`python -m benchmarks.clocks [RESULTS]` works off the cells that RESULTS does not hold yet, one JSON file each, and
prints the table of docs/evidence.md. A cell is one task of eight species that ImageNet names and a seed, 16 shots a
class: EfficientNet-Lite0 in INT8, for ONNX Runtime and for OpenVINO on this machine. From each runtime's own latency
table come the widths with the least loss within a time, and with them their loss; from the other runtime's table the
fastest widths of that same loss. Both are timed in one interleaved run, as the runtime would run them: nothing is
recovered, for time does not depend on what the weights are.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks._animals import DATA, SHOTS, species_options
from benchmarks._machine import machine
from taco import api
from taco.compress import stitch
from taco.files import write_atomically
from taco.latency.from_widths import choice_of
from taco.latency.levels import Choice
from taco.progress import PlainProgress
from taco.rundir import RunDir
from taco.search.earlier import least_ms
from taco.search.latency_search import LatencySearcher, Offered
from taco.search.unit_losses import allocation_of
from taco.steps.groundwork import Groundwork

RESULTS = Path("docs/evidence/clocks")
TARGETS = ("host-cpu-int8", "host-cpu-openvino-int8")
MODEL = "tf_efficientnet_lite0"
SEEDS = (0, 1)
#: Of the runtime's dense INT8, by its own table.
SPEEDUPS = (1.25, 1.5, 2.0)
WORDS = {"host-cpu-int8": "ONNX Runtime", "host-cpu-openvino-int8": "OpenVINO"}

Found = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Device:
    """One runtime with its own table."""

    target: str
    ground: Groundwork
    loop: LatencySearcher
    offered: Offered

    def least_lossy(self, speedup: float) -> Choice:
        """Return the widths with the least loss that the table says are so many times as fast as the dense model."""
        space = self.offered.space
        return space.choose(space.dense().table_ms / speedup)

    def fastest_of(self, loss: float) -> Choice:
        """Return the fastest widths by this table that are expected to lose no more."""
        space = self.offered.space
        return space.choose(least_ms(space, loss, space.dense().table_ms) * (1 + 1e-9))

    def seen(self, choice: Choice) -> Choice:
        """Return widths that were chosen elsewhere as this device sees them."""
        widths = allocation_of(self.loop.searcher, choice).widths
        found = choice_of(widths, self.offered.table, self.offered.space, self.offered.lost)
        if found is None:
            raise ValueError("both tables reach down equally far")
        return found

    def export(self, choice: Choice, name: str) -> Path:
        """Cut and export, as a trial of the search would be."""
        file = self.ground.scratch / f"{name}.onnx"
        widths = allocation_of(self.loop.searcher, choice).widths
        self.loop.searcher.trial(stitch(self.loop.searcher.dense, self.loop.searcher.solutions, widths), file)
        return file


def work(results: Path, runs: Path, data: Path, seeds: Sequence[int]) -> None:
    """Do every cell that is missing."""
    results.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        file = results / f"lite0-imagenet-seed{seed}.json"
        if not file.exists():
            found = {"seed": seed, **machine(), "pairs": _pairs(seed, runs, data)}
            write_atomically(file, (json.dumps(found, indent=1) + "\n").encode())


def _pairs(seed: int, runs: Path, data: Path) -> list[Found]:
    with _device(TARGETS[0], seed, runs, data, None) as first:
        earlier = runs / f"{TARGETS[0]}-seed{seed}"
        with _device(TARGETS[1], seed, runs, data, earlier) as second:
            pairs = [
                _pair(own, other, speedup) for own, other in ((first, second), (second, first)) for speedup in SPEEDUPS
            ]
    return pairs


def _pair(own: Device, other: Device, speedup: float) -> Found:
    """Time widths by a device's own table beside those by another one's, of the same expected loss."""
    ours = own.least_lossy(speedup)
    theirs = own.seen(other.fastest_of(ours.loss))
    bench = own.ground.delivery.bench
    files = {
        "own": own.export(ours, "own"),
        "other": own.export(theirs, "other"),
        "dense": own.ground.dense.shipped.path,
    }
    timed = bench.together(files, {})
    ratio = timed.speedup("other", "own")
    return {
        "target": own.target,
        "other": other.target,
        "asked": speedup,
        "loss": ours.loss,
        "loss_other": theirs.loss,
        "table": theirs.table_ms / ours.table_ms,
        "ms": {name: timed.models[name].p50_ms for name in files},
        "ratio": ratio.value,
        "low": ratio.low,
        "high": ratio.high,
        "rounds": timed.rounds,
        "units": len(ours.levels),
        "alike": sum(ours.widths[name] == theirs.widths.get(name) for name in ours.widths),
    }


@contextmanager
def _device(target: str, seed: int, runs: Path, data: Path, earlier: Path | None) -> Iterator[Device]:
    options = api.make_options(
        {
            **species_options(data, "imagenet", seed, runs),
            "target": target, "model": MODEL, "shots": SHOTS, "speedup": max(SPEEDUPS), "allocation": "latency",
            "recover_minutes": 0.0, "out": runs / f"{target}-seed{seed}",
        }
    )  # fmt: skip
    rundir, progress = RunDir(options.out), PlainProgress()
    with rundir.locked():
        rundir.remember_asked({"options": options.model_dump(mode="json")})
        if earlier is not None:
            rundir.adopt(earlier)
        ground = Groundwork(api.make_plan(options), rundir, progress, rundir.scratch())
        search = ground.width_search(ground.dense)
        loop = search.latency(search.dense_ms())
        yield Device(target, ground, loop, loop.offered(progress))
        rundir.drop_scratch()


def table(results: Path) -> str:
    """Return the Markdown table: a row for each runtime and speed."""
    lines = [
        "| seed | runtime | times its dense INT8 | own widths, ms | by the other's clock, ms | slower by that clock "
        "| by the table | units alike |",
        "|---" * 8 + "|",
    ]
    for file in sorted(results.glob("*-seed*.json")):
        cell = json.loads(file.read_bytes())
        for pair in cell["pairs"]:
            ms = pair["ms"]
            slower, ends = _percent(pair["ratio"]), (_percent(pair[end]) for end in ("low", "high"))
            lines.append(
                f"| {cell['seed']} | {WORDS[pair['target']]} | {ms['dense'] / ms['own']:.2f} | {ms['own']:.3f} "
                f"| {ms['other']:.3f} | {slower} ({' to '.join(ends)}) "
                f"| {_percent(pair['table'])} | {pair['alike']} of {pair['units']} |"
            )
    return "\n".join(lines)


def _percent(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.1f} %"


def main(arguments: Sequence[str] | None = None) -> None:
    """Work off the cells and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.clocks", description=__doc__)
    parser.add_argument("results", nargs="?", type=Path, default=RESULTS)
    parser.add_argument("--runs", type=Path, default=Path("build/benchmarks/clocks"), help="where runs lie; large")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--table", action="store_true", help="only print what is there")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING)
    if not given.table:
        work(given.results, given.runs, given.data, given.seeds)
    print(table(given.results))


if __name__ == "__main__":
    main()
