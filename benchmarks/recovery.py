"""What recovery gives back: ours against plain cross-entropy and logits alone, from few pictures, within seconds.

`python -m benchmarks.recovery` works off the cells that docs/evidence/recovery/ does not hold yet, one JSON file each,
then writes the table and the picture of docs/evidence.md from all that are there. EfficientNet-Lite0, inner widths cut
to `--macs` of the dense multiply-accumulates by the product's own selection and compensation. Two tasks of 8 species:
`known`, which ImageNet has rows for, and `other`, which it has not, so that the head is fitted. For each task and seed
16 pictures a class may be learnt from, of which a cell takes k; all others judge, the same for every k.

Methods: `dense` is the specialist (upper bound), `unrecovered` the cut model with BatchNorm re-estimated where that
helps, `ours` the product's recovery, `cross-entropy` and `logits` the same loop with that loss alone and its last state
kept. All take as many steps, which `--seconds` of ours give on this machine (stored in the cell), or `--steps`.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import json
import logging
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks._animals import DATA, imagenet_indices, names_of
from benchmarks._machine import machine
from benchmarks._recovery_table import write_evidence
from taco.allocate import by_macs, candidates
from taco.compress import calibrate_units, solve_units, stitch
from taco.compute import choose_device, moved, name_of
from taco.files import write_atomically
from taco.material import Material, divide, find_pictures
from taco.metrics.accuracy import Score, paired_drop
from taco.model import load_generalist
from taco.options import make_options
from taco.pictures.bank import BankOptions, PictureBank
from taco.progress import PlainProgress
from taco.recovery.batches import batch_on
from taco.recovery.distillation import Losses, fit_maps
from taco.recovery.trainer import RecoveryOptions, Trainer
from taco.rundir import RunDir
from taco.specialist.specialise import make_head, predict_logits, specialise
from taco.steps.recovering import Recovery
from taco.steps.stored import Store
from taco.surgery.size import count_macs
from taco.units import find_units, steps_of

RESULTS = Path(__file__).parents[1] / "docs" / "evidence" / "recovery"
CLASSES, POOL = 8, 16
TASKS = ("known", "other")
METHODS = ("dense", "unrecovered", "ours", "cross-entropy", "logits")
#: Methods of one loss.
PLAIN: Mapping[str, Losses] = {"cross-entropy": Losses(0, 0, 0, 1), "logits": Losses(0, 0, 1, 0)}


@dataclasses.dataclass(frozen=True, slots=True)
class Cell:
    """One figure of the table."""

    task: str
    k: int
    seed: int
    method: str

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.task}-k{self.k}-seed{self.seed}-{self.method}"


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """What all cells share."""

    data: Path
    macs: float
    seconds: float
    steps: int | None
    scratch: Path
    device: torch.device


class Setting:
    """One task, seed and k: its pictures, dense specialist, cut model and recovery."""

    def __init__(self, asked: Asked, task: str, k: int, seed: int) -> None:
        self.asked, self.task, self.seed = asked, task, seed
        folder = asked.scratch / f"{task}-{k}-{seed}"
        folder.mkdir(parents=True)
        self.options = make_options({**_files(asked.data, task, seed, folder), "shots": k, "seed": seed})
        generalist = load_generalist(self.options.model)
        listings = find_pictures(self.options)
        bank = PictureBank.read(listings.views, generalist.preprocessing, BankOptions(folder / "pixels"))
        self.material: Material = divide(listings, bank, self.options)
        head = make_head(generalist, self.material, self.options)
        self.head = head.description
        self.dense = specialise(generalist, head).module
        self.recovery = Recovery(
            specialist=self.dense,
            material=self.material,
            minutes=asked.seconds / 60,
            options=RecoveryOptions(batch=batch_on(asked.device), seed=seed, device=asked.device),
            depends_on={"head": f"{task} {k} {seed}"},
            store=Store(RunDir(folder / "run")),
            progress=PlainProgress(),
        )

    @functools.cached_property
    def cut(self) -> nn.Module:
        """The cut model, BatchNorm re-estimated where the select pictures gain by it."""
        size = self.material.bank.preprocessing.input_size
        units = find_units(self.dense, size).within_blocks
        moments = calibrate_units(self.dense, units, self.material.batches(self.material.task.fit))
        solutions = solve_units(self.dense, units, moments)
        widths = {name: s.unit.width for name, s in solutions.items()}
        options = candidates(widths, steps_of((s.unit for s in solutions.values()), 8))
        chosen = by_macs(options, self.asked.macs, lambda a: count_macs(stitch(self.dense, solutions, a.widths), size))
        return self.recovery.renormalise(stitch(self.dense, solutions, chosen.widths))

    @functools.cached_property
    def steps(self) -> int:
        """How many steps every method takes."""
        return self.recovery.steps(self.cut, {}) if self.asked.steps is None else self.asked.steps

    def run(self, method: str) -> dict[str, Any]:
        """Return one cell's figures."""
        makers: dict[str, Callable[[], tuple[nn.Module, dict[str, Any]]]] = {
            "dense": lambda: (self.dense, {"head": self.head}),
            "unrecovered": lambda: (self.cut, {}),
            "ours": self._ours,
            **{name: functools.partial(self._plain, losses) for name, losses in PLAIN.items()},
        }
        module, facts = makers[method]()
        fit, evaluation = self.material.task.fit, self.material.task.evaluation
        return {**self._judge(module, evaluation), "fit_percent": self._judge(module, fit)["percent"], **facts}

    def _ours(self) -> tuple[nn.Module, dict[str, Any]]:
        begin = time.perf_counter()
        found = self.recovery.recover(self.cut, {}, self.steps, "recover")
        taken = time.perf_counter() - begin
        facts = {name: getattr(found, name) for name in ("steps", "kept_step", "ended", "history", "bank_bytes")}
        return self.recovery.renormalise(found.module), {"seconds": taken, "planned": self.steps, **facts}

    def _plain(self, losses: Losses) -> tuple[nn.Module, dict[str, Any]]:
        bank = self.recovery.bank
        options = dataclasses.replace(self.recovery.options, losses=losses)
        start = moved(self.cut, options.device)
        trainer = Trainer(start, bank, options, self.steps, fit_maps(start, bank))
        begin = time.perf_counter()
        for step in range(self.steps):
            trainer.step(step)
        return trainer.student.eval(), {"seconds": time.perf_counter() - begin, "steps": self.steps}

    def _judge(self, module: nn.Module, pictures: Sequence[Any]) -> dict[str, Any]:
        labels = np.array([p.label_index for p in pictures])
        dense, got = (predict_logits(m, self.material.batches(pictures)).argmax(1) for m in (self.dense, module))
        score = Score.from_predictions(labels, got, self.material.task.classes)
        drop = paired_drop(labels, dense, got, score.balanced)
        return {
            **{name: getattr(score.top1, name) for name in ("percent", "low", "high", "n")},
            "drop": drop.points,
            "drop_low": drop.low,
            "drop_high": drop.high,
        }


def _files(data: Path, task: str, seed: int, folder: Path) -> dict[str, Any]:
    """Draw the classes and divide their pictures: 16 a class to learn from, the others to judge on."""
    kind = TASKS.index(task)
    names = names_of(data, "imagenet" if task == "known" else "other")
    random = np.random.default_rng([seed, kind])
    classes = sorted(random.choice(names, CLASSES, replace=False).tolist())
    rows: dict[str, list[str]] = {"learn": [], "judge": []}
    for name in classes:
        pictures = sorted((data / name).iterdir())
        for number, place in enumerate(random.permutation(len(pictures)).tolist()):
            rows["learn" if number < POOL else "judge"].append(f"{pictures[place]},{name}")
    for part, lines in rows.items():
        (folder / f"{part}.csv").write_text("path,label\n" + "\n".join(lines) + "\n")
    options = {"task": folder / "learn.csv", "evaluation": folder / "judge.csv", "target": "host-cpu"}
    if task == "known":
        (folder / "map.json").write_text(json.dumps(imagenet_indices(data)))
        options["class_map"] = folder / "map.json"
    return {**options, "head": "imagenet" if task == "known" else "fit", "out": folder / "out"}


def work(results: Path, asked: Asked, cells: Sequence[Cell]) -> None:
    """Do every cell that is missing."""
    results.mkdir(parents=True, exist_ok=True)
    missing = [cell for cell in cells if not (results / f"{cell.name}.json").exists()]
    for (task, k, seed), some in itertools.groupby(missing, lambda cell: (cell.task, cell.k, cell.seed)):
        setting = Setting(asked, task, k, seed)
        for cell in some:
            found = setting.run(cell.method)
            gpu = "" if asked.device.type == "cpu" else name_of(asked.device)
            shared = {**machine(gpu), "macs": asked.macs, "seconds_asked": None if asked.steps else asked.seconds}
            content = json.dumps({**dataclasses.asdict(cell), **shared, **found}, indent=1) + "\n"
            write_atomically(results / f"{cell.name}.json", content.encode())
            print(f"{cell.name}: {found['percent']:.1f} % (drop {found['drop']:+.1f})", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Work off the cells and write what is there into docs/evidence.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recovery", description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the cells")
    parser.add_argument(
        "--evidence", type=Path, default=RESULTS.parents[1] / "evidence.md", help="where the table goes"
    )
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--k", type=int, nargs="+", default=[2, 4, 16])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--macs", type=float, default=0.5)
    parser.add_argument("--seconds", type=float, default=90.0, help="of ours; all methods take as many steps")
    parser.add_argument("--steps", type=int, help="a number of steps instead of a time")
    parser.add_argument("--compute", default="cpu", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--table", action="store_true", help="only write what is there")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING)
    if not given.table:
        product = itertools.product(given.tasks, given.k, given.seeds, given.methods)
        with tempfile.TemporaryDirectory() as scratch:
            device = choose_device(given.compute)
            asked = Asked(given.data, given.macs, given.seconds, given.steps, Path(scratch), device)
            work(given.results, asked, [Cell(*one) for one in product])
    print(write_evidence(given.results, given.evidence), end="")


if __name__ == "__main__":
    main()
