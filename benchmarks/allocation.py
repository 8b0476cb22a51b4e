"""What unit by unit is worth: against one ratio for all, and against the same sum of losses by MACs, at equal times.

`python -m benchmarks.allocation [RESULTS]` works off the cells that RESULTS does not hold yet, one JSON file each, and
prints the table of docs/evidence.md. A cell is one task of eight species (that ImageNet names, or others, with a fitted
head) and seed, 16 shots a class: EfficientNet-Lite0 on host-cpu, cut in three ways for several speeds from one latency
table, refitted where that helps and not recovered. All files are then timed in one interleaved run and judged on the
evaluation pictures. Where a rival is not exactly as fast as ours, its right answers are interpolated in measured
milliseconds between its two files next to that time, picture by picture, so that the interval of the difference stays
paired. Near the dense model right answers hardly differ, so how far the answers lie from the dense model's is compared
too (Kullback-Leibler divergence on the same pictures, nats, at whatever temperature is nearest), interpolated in its
logarithm. Cells of before 2026-11-29 lack it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks._animals import DATA, SHOTS, Species, species_options
from benchmarks._machine import machine
from taco import api
from taco.device.statistics import paired_shares
from taco.exporters.protocol import FloatArray
from taco.files import write_atomically
from taco.front.entries import Maker, cut_entries
from taco.material import labels_of
from taco.progress import PlainProgress
from taco.rundir import RunDir
from taco.search.size_loop import nearest_divergences
from taco.steps.groundwork import Groundwork
from taco.steps.sizes import Sizes

RESULTS = Path("docs/evidence/allocation")
TARGET, MODEL = "host-cpu", "tf_efficientnet_lite0"
TASKS: tuple[Species, ...] = ("imagenet", "other")
SEEDS = (0, 1)
SPEEDUPS = (1.15, 1.3, 1.6, 2.0, 2.5, 3.0)
#: Draws of the pictures for an interval of a ratio of mean divergences.
_DRAWS = 2000
#: Nats; a draw may hold pictures alone whose answers did not change.
_LEAST = 1e-9
RIVALS = {"uniform": "one ratio", "macs": "by MACs"}
#: What the table alone does not say of its files.
MADE = (
    f"EfficientNet-Lite0 on {TARGET}, {SHOTS} shots a class. Models are cut and refitted and NOT RECOVERED: how much "
    "of a lead recovery leaves was not measured. Where a rival has no file that is exactly as fast as ours, its right "
    "answers are interpolated in time, picture by picture, between its two files next to that time; the dense model is "
    "the slowest of them. How far answers lie from the dense model's is interpolated in its logarithm between files of "
    "the rival's own, and not told where one side has none: 1.5 says that the rival's lie 1.5 times as far.\n"
)

Found = Mapping[str, Any]
Shares = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Cell:
    """One task and seed."""

    species: Species
    seed: int

    @property
    def name(self) -> str:
        """Of its file."""
        return f"lite0-{self.species}-seed{self.seed}"


@dataclass(frozen=True, slots=True)
class Gain:
    """Points that ours is ahead of a rival at the same measured time, with a paired 95 % interval.

    Attributes:
        points: Class-balanced.
        low: Lower end.
        high: Upper end.
    """

    points: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.points:+.1f} ({self.low:+.1f} to {self.high:+.1f})"


@dataclass(frozen=True, slots=True)
class Farther:
    """How many times as far from the dense model a rival's answers lie at the same measured time, with 95 % interval.

    Attributes:
        times: Ratio of the mean divergences; above 1 ours is nearer.
        low: Lower end, over draws of the pictures.
        high: Upper end.
    """

    times: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.times:.2f} ({self.low:.2f} to {self.high:.2f})"


def work(results: Path, runs: Path, data: Path, cells: Sequence[Cell], threads: int | None = None) -> None:
    """Do every cell that is missing; models are timed with so many threads, None is every physical core."""
    results.mkdir(parents=True, exist_ok=True)
    for cell in cells:
        file = results / f"{cell.name}.json"
        if not file.exists():
            found = {"species": cell.species, "seed": cell.seed, **machine(), **_run(cell, runs, data, threads)}
            write_atomically(file, (json.dumps(found, indent=1) + "\n").encode())
            print(f"{cell.name}: {len(found['points'])} files", flush=True)


def _run(cell: Cell, runs: Path, data: Path, threads: int | None) -> Found:
    options = api.make_options(
        {
            **species_options(data, cell.species, cell.seed, runs),
            "target": TARGET, "model": MODEL, "shots": SHOTS, "speedup": max(SPEEDUPS), "allocation": "latency",
            "recover_minutes": 0.0, "threads": threads, "out": runs / cell.name,
        }
    )  # fmt: skip
    rundir = RunDir(options.out)
    with rundir.locked():
        ground = Groundwork(api.make_plan(options), rundir, PlainProgress(), rundir.scratch())
        maker = Maker.of(ground)
        entries = [*cut_entries(Sizes(ground), SPEEDUPS, PlainProgress()), *maker.dense()]
        judged, labels = ground.material.judged, labels_of(ground.material.judged)
        inputs = [picture.view for picture in judged]
        answers = {e.name: e.answer(ground.material.bank.batches(inputs, 1)) for e in entries}
        bench = ground.delivery.bench.together({e.name: e.file for e in entries}, {})
        rundir.drop_scratch()
    points = [
        {
            "name": entry.name,
            "kind": entry.kind,
            "asked": entry.facts.get("asked", 1.0),
            "ms": bench.models[entry.name].p50_ms,
            "macs": entry.facts["macs"],
            "right": "".join("1" if one else "0" for one in answers[entry.name].argmax(1) == labels),
            "changed": _changed(answers["dense"], answers[entry.name]),
        }
        for entry in entries
    ]
    return {
        "labels": [int(label) for label in labels],
        "rounds": bench.rounds,
        "threads": bench.threads,
        "stopped_early": bench.stopped_early,
        "points": points,
    }


def _changed(dense: FloatArray, got: FloatArray) -> list[float]:
    """Return how far each answer lies from the dense model's, nats to four digits.

    That is at whatever temperature is nearest: a head that was fitted anew for a cut model has one of its own, which
    says nothing of how often it is right.
    """
    return [float(f"{max(0.0, one):.4g}") for one in nearest_divergences(dense, got)]


def shares_right(labels: Sequence[int], right: Shares) -> float:
    """Return the mean over classes of the mean of `right` (n,), percent."""
    each = np.asarray(labels)
    return 100 * statistics.mean(float(right[each == label].mean()) for label in np.unique(each))


def gain(labels: Sequence[int], ours: Shares, theirs: Shares) -> Gain:
    """Return how far ours is ahead on the same pictures, class-balanced.

    Args:
        labels: (n,) true classes.
        ours: (n,) how far each picture is right, 0 to 1.
        theirs: (n,) the same of a rival.
    """
    found = paired_shares(np.asarray(labels), ours, theirs, balanced=True)
    return Gain(found.points, found.low, found.high)


def right_of(point: Found) -> Shares:
    """Return (n,) 1.0 where a file named a picture right."""
    return np.array([float(one) for one in point["right"]])


def at_time(points: Sequence[Found], ms: float) -> Shares | None:
    """Return how far each picture is right in a time, between the two files next to it; None beyond both ends.

    Args:
        points: Of one kind, and the dense model.
        ms: The time.
    """
    if (beside := _beside(points, ms)) is None:
        return None
    fast, slow, share = beside
    return (1 - share) * right_of(fast) + share * right_of(slow)


def _beside(points: Sequence[Found], ms: float) -> tuple[Found, Found, float] | None:
    """Return the two files next to a time, and how far on the way from the faster to the slower it lies."""
    for fast, slow in itertools.pairwise(sorted(points, key=lambda p: p["ms"])):
        if fast["ms"] <= ms <= slow["ms"]:
            between = slow["ms"] - fast["ms"]
            return fast, slow, (ms - fast["ms"]) / between if between > 0 else 0.0
    return None


def farther(ours: Found, theirs: Sequence[Found]) -> Farther | None:
    """Return how many times as far a rival's answers lie at our time; None beyond both ends of its files.

    Args:
        ours: One file.
        theirs: The rival's, without the dense model, whose answers do not lie anywhere else.
    """
    beside = _beside([p for p in theirs if "changed" in p], ours["ms"])
    if beside is None:
        return None
    fast, slow, share = beside
    each = np.array([p["changed"] for p in (ours, fast, slow)])
    n = each.shape[1]
    drawn = np.random.default_rng(0).integers(0, n, (_DRAWS, n))
    means = np.concatenate([each.mean(1)[:, None], each[:, drawn].mean(2)], axis=1)
    if not means[:, 0].all():
        return None
    own, near, far = np.log(np.maximum(means, _LEAST))
    found = np.exp((1 - share) * near + share * far - own)
    low, high = np.quantile(found[1:], (0.025, 0.975))
    return Farther(float(found[0]), float(low), float(high))


def read(results: Path) -> list[Found]:
    """Return all cells that are there."""
    return [json.loads(path.read_bytes()) for path in sorted(results.glob("*-seed*.json"))]


@dataclass(frozen=True, slots=True)
class Lead:
    """One of our files against a rival at the same measured time; None where the rival has no files next to it."""

    ours: Found
    gain: Gain | None
    farther: Farther | None


def compare(cell: Found, kind: str) -> list[Lead]:
    """Return each of ours, the slowest first, against a rival."""
    dense = [p for p in cell["points"] if p["kind"] == "dense"]
    theirs = [p for p in cell["points"] if p["kind"] == kind]
    found = []
    for point in sorted((p for p in cell["points"] if p["kind"] == "ours"), key=lambda p: -p["ms"]):
        other = at_time([*theirs, *dense], point["ms"])
        lead = None if other is None else gain(cell["labels"], right_of(point), other)
        found.append(Lead(point, lead, farther(point, theirs)))
    return found


def table(results: Path) -> str:
    """Return the Markdown table: a row for each file of ours, and the mean lead over each rival."""
    cells = read(results)
    told = " | ".join(f"ahead of {words} | {words}: times as far" for words in RIVALS.values())
    lines = [
        f"| task | seed | asked | ms | times dense | right, % | answers changed, nats | {told} |",
        "|---" * (7 + 2 * len(RIVALS)) + "|",
    ]
    for cell in sorted(cells, key=lambda c: (TASKS.index(c["species"]), c["seed"])):
        lines += list(_rows(cell))
    threads = " or ".join(map(str, sorted({cell["threads"] for cell in cells})))
    timed = f"Timed with {threads} thread{'s' * (threads != '1')} (`--threads`).\n"
    return "\n".join([*lines, "", MADE, *(_mean(cells, kind) for kind in RIVALS), timed]) + "\n"


def _rows(cell: Found) -> Iterator[str]:
    dense = next(p for p in cell["points"] if p["kind"] == "dense")
    labels = cell["labels"]
    task = "ImageNet species" if cell["species"] == "imagenet" else "others"
    head = f"| {task} | {cell['seed']} |"
    blank = " |" * (2 * len(RIVALS))
    yield f"{head} dense | {dense['ms']:.2f} | 1 | {shares_right(labels, right_of(dense)):.1f} | 0 |{blank}"
    for row in zip(*(compare(cell, kind) for kind in RIVALS), strict=True):
        ours = row[0].ours
        leads = " | ".join(str(part or "-") for lead in row for part in (lead.gain, lead.farther))
        yield (
            f"{head} {ours['asked']:g}x | {ours['ms']:.2f} | {dense['ms'] / ours['ms']:.2f} | "
            f"{shares_right(labels, right_of(ours)):.1f} | {_mean_changed(ours)} | {leads} |"
        )


def _mean_changed(point: Found) -> str:
    return f"{statistics.mean(point['changed']):.4f}" if "changed" in point else "-"


def _mean(cells: Sequence[Found], kind: str) -> str:
    leads = [lead for cell in cells for lead in compare(cell, kind)]
    gains, times = defaultdict[float, list[float]](list), defaultdict[float, list[float]](list)
    for lead in leads:
        if lead.gain is not None:
            gains[lead.ours["asked"]].append(lead.gain.points)
        if lead.farther is not None:
            times[lead.ours["asked"]].append(lead.farther.times)
    points = [f"{statistics.mean(found):+.1f} points at {asked:g}x" for asked, found in sorted(gains.items())]
    ratios = [f"{statistics.geometric_mean(found):.2f} at {asked:g}x" for asked, found in sorted(times.items())]
    return (
        f"Ahead of {RIVALS[kind]} at equal measured time, without recovery, mean over tasks and seeds: "
        f"{', '.join(points) or 'nothing to compare'}. Its answers lie so many times as far from the dense model's "
        f"(geometric mean): {', '.join(ratios) or 'nothing to compare'}.\n"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Work off the cells and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.allocation", description=__doc__)
    parser.add_argument("results", type=Path, nargs="?", default=RESULTS, help="folder of the cells")
    parser.add_argument("--runs", type=Path, default=Path("build/benchmarks/allocation"), help="where runs lie; large")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--threads", type=int, help="of the timed models; every physical core unless said")
    parser.add_argument("--table", action="store_true", help="only print what is there")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("taco").setLevel(logging.INFO)
    if not given.table:
        cells = [Cell(task, seed) for seed in given.seeds for task in given.tasks]
        work(given.results, given.runs, given.data, cells, given.threads)
    print(table(given.results), end="")


if __name__ == "__main__":
    main()
