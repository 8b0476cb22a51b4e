"""What the task's own pictures are worth: task-aware against agnostic calibration, one shot and after recovery.

`python -m benchmarks.specialisation RESULTS` works off the cells that RESULTS does not hold yet, one JSON file each,
and prints the table of docs/evidence.md from all that are there. Every cell is seeded and counts steps, not minutes, so
that it can be repeated anywhere. EfficientNet-Lite0, 8 ImageNet species, 16 shots; the agnostic pictures are as many,
drawn from the ImageNet species outside the task.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from benchmarks._animals import DATA, Setting, write_cell
from benchmarks._claims import views_seen
from benchmarks._page import told_drop
from taco.database import LayerDatabase, Recipe, Source, choose_layers
from taco.executor import Executor
from taco.options import ExportOptions
from taco.progress import PlainProgress
from taco.recover import SPARSE_LEARNING_RATE, RecoveryOptions
from taco.recovery.batches import ON_CPU
from taco.recovery.repair import renormalise
from taco.rundir import RunDir
from taco.steps.recovering import Recovery
from taco.steps.sparsify import Sparsifier, choose_levels
from taco.steps.stored import Store

ONE_SHOT, GRADUAL = (0.5, 0.75, 0.9, 0.95), (0.9, 0.95)
#: Of gradual recovery: what five minutes have on two cores.
STEPS = 960
RESULTS = Path("docs/evidence/specialisation")
CALIBRATIONS = ("task", "agnostic")


@dataclasses.dataclass(frozen=True, slots=True)
class Cell:
    """One figure of the table."""

    seed: int
    calibration: str
    sparsity: float
    steps: int
    batch: int = ON_CPU

    @property
    def name(self) -> str:
        """Of its file."""
        length = f"{self.steps}steps" + (f"-of-{self.batch}" if self.steps else "")
        return f"seed{self.seed}-{self.calibration}-{self.sparsity:g}-{length}"


def one_shot(setting: Setting, calibration: str, sparsities: Sequence[float]) -> Iterator[tuple[float, dict[str, Any]]]:
    """Yield each sparsity's result, from one database of the dense specialist."""
    pictures = setting.pictures(calibration)
    source = Source(setting.dense, choose_layers(setting.dense), pictures.batches, f"{calibration} {setting.seed}")
    folder = setting.scratch / f"database-{calibration}-{setting.seed}"
    database = LayerDatabase.build(folder, source, Recipe(), Executor(), PlainProgress())
    for sparsity in sparsities:
        stitched = database.stitch(setting.dense, choose_levels(database, sparsity))
        yield sparsity, setting.judge(renormalise(stitched, setting.teacher, setting.material))


def gradual(setting: Setting, cell: Cell, folder: Path) -> dict[str, Any]:
    """Return one cell after gradual recovery of `cell.steps` steps."""
    pictures = setting.pictures(cell.calibration)
    options: ExportOptions = setting.options.model_copy(update={"sparsity": cell.sparsity})
    rundir = RunDir(folder)
    recovery = _Counted(
        specialist=setting.dense,
        material=setting.material,
        minutes=5.0,  # decides only how many views are drawn
        options=RecoveryOptions(SPARSE_LEARNING_RATE, cell.batch, seed=cell.seed, keep_zeros=True),
        depends_on={"cell": cell.name},
        store=Store(rundir),
        progress=PlainProgress(),
    )
    recovery.counted = cell.steps
    sparsifier = Sparsifier(options, recovery, pictures.batches, {"cell": cell.name}, rundir.private / "databases")
    cut = sparsifier.cut({})
    found = setting.judge(cut.module)
    stages = [dataclasses.asdict(stage) for stage in cut.sparsity.stages] if cut.sparsity else []
    return {**found, "before_recovery": setting.judge(cut.stitched)["percent"], "stages": stages}


class _Counted(Recovery):
    """Recovery whose length is a number of steps instead of a time."""

    counted = 0

    def steps(self, start: nn.Module, key: Mapping[str, Any], share: float = 1.0) -> int:
        """Return the number that was asked."""
        del start, key
        return round(share * self.counted)


def work(results: Path, data: Path, seeds: Sequence[int], steps: int, calibrations: Sequence[str]) -> None:
    """Do every cell that is missing; the one-shot ones first, and only those where there are no steps."""
    results.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        setting = functools.cache(lambda seed: Setting(seed, data, Path(scratch)))
        for seed in seeds:
            for calibration in calibrations:
                cells = [Cell(seed, calibration, sparsity, 0) for sparsity in ONE_SHOT]
                missing = [cell for cell in cells if not (results / f"{cell.name}.json").exists()]
                if missing:
                    for sparsity, found in one_shot(setting(seed), calibration, [c.sparsity for c in missing]):
                        write_cell(results, Cell(seed, calibration, sparsity, 0), found)
        for seed in seeds:
            for sparsity in GRADUAL if steps else ():
                for calibration in calibrations:
                    cell = Cell(seed, calibration, sparsity, steps)
                    if not (results / f"{cell.name}.json").exists():
                        write_cell(results, cell, gradual(setting(seed), cell, results / "runs" / cell.name))


def table(results: Path) -> str:
    """Return the Markdown table of all cells that are there; a missing one is a dash."""
    cells = [json.loads(path.read_bytes()) for path in sorted(results.glob("seed*.json"))]
    kinds = sorted({(views_seen(cell), cell["steps"], cell["sparsity"]) for cell in cells})
    seeds = sorted({cell["seed"] for cell in cells})
    lines = ["| recovery | zero | seed | dense | task | drop | agnostic | drop |", "|---|---|---|---|---|---|---|---|"]
    for seen, steps, sparsity in kinds:
        how = f"{steps} steps of {seen // steps}" if steps else "one shot"
        for seed in seeds:
            row = {
                c["calibration"]: c
                for c in cells
                if (views_seen(c), c["steps"], c["sparsity"], c["seed"]) == (seen, steps, sparsity, seed)
            }
            dense = next((f"{c['dense']:.1f}" for c in row.values()), "-")
            shown = " | ".join(_shown(row.get(name)) for name in CALIBRATIONS)
            lines.append(f"| {how} | {sparsity:.0%} | {seed} | {dense} | {shown} |")
    return "\n".join(lines) + "\n"


def _shown(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return "- | -"
    accuracy = f"{cell['percent']:.1f} ({cell['low']:.1f} to {cell['high']:.1f})"
    return f"{accuracy} | {told_drop(cell)}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Work off the cells and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.specialisation", description=__doc__)
    parser.add_argument(
        "results", type=Path, nargs="?", default=RESULTS, help="folder of the cells (default: %(default)s)"
    )
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--steps", type=int, default=STEPS, help="of gradual recovery in all; 0: one shot only")
    parser.add_argument("--calibrations", nargs="+", choices=CALIBRATIONS, default=list(CALIBRATIONS))
    parser.add_argument("--table", action="store_true", help="only print what is there")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING)
    if not given.table:
        work(given.results, given.data, given.seeds, given.steps, given.calibrations)
    print(table(given.results), end="")


if __name__ == "__main__":
    main()
