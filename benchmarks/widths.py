"""Smaller widths, one shot: our selection and compensation against magnitude and torch-pruning's own, at equal MACs.

`python -m benchmarks.widths RESULTS` works off the cells that RESULTS does not hold yet, one JSON file each, and prints
the table of docs/evidence.md. Nothing is trained after the cut; BatchNorm is re-estimated on the fit pictures in EVERY
row where the select pictures gain by it, which torch-pruning does not do by itself, so that selection and compensation
alone make the difference. Every row keeps at most the share of MACs that is asked, and as close to it as widths in
multiples of eight allow.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import functools
import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torch_pruning as tp
from torch import nn

from benchmarks._animals import DATA, Setting, Species, write_cell
from taco.allocate import by_macs, candidates
from taco.allocation.distribute import distribute
from taco.compress import UnitSolution, calibrate_units, solve_units, stitch
from taco.latency.losses import UnitLoss, choose_currency
from taco.recovery.distillation import objective
from taco.recovery.repair import renormalise
from taco.search.probes import Prober
from taco.sparse.sequential import SequentialOptions
from taco.surgery.baselines import baseline_solutions, squares
from taco.surgery.inorder import refit_in_order
from taco.surgery.size import count_macs
from taco.units import find_units, steps_of

MODELS = {"lite0": "tf_efficientnet_lite0.in1k", "lite2": "tf_efficientnet_lite2.in1k"}
SHARES = (0.75, 0.5, 0.35)
MULTIPLE = 8
RESULTS = Path("docs/evidence/widths")
METHODS = (
    "ours", "ours, not in order", "ours, one ratio", "ours, uncompensated", "magnitude, one ratio",
    "torch-pruning taylor", "torch-pruning taylor, global", "torch-pruning l2", "torch-pruning l2, global",
)  # fmt: skip
#: Bisections of torch-pruning's ratio.
_TRIES = 9


@dataclasses.dataclass(frozen=True, slots=True)
class Cell:
    """One figure of the table."""

    model: str
    species: Species
    seed: int
    share: float
    method: str

    @property
    def name(self) -> str:
        """Of its file."""
        method = self.method.replace(", ", "-").replace(" ", "-")
        return f"{self.model}-{self.species}-seed{self.seed}-{self.share:g}-{method}"


class Contest:
    """All methods on one model and task."""

    def __init__(self, setting: Setting) -> None:
        self.setting, self.dense = setting, setting.dense
        self.size: tuple[int, int, int] = setting.preprocessing.input_size
        self.macs = count_macs(self.dense, self.size)
        self.units = find_units(self.dense, self.size).within_blocks
        fit = setting.material.task.fit
        self.moments = calibrate_units(self.dense, self.units, setting.material.batches(fit))
        self.solutions = solve_units(self.dense, self.units, self.moments)
        self.steps = steps_of(self.units, MULTIPLE)

    def cut(self, method: str, share: float) -> nn.Module:
        """Return the model that a method makes."""
        if method.startswith("torch-pruning"):
            return self._theirs(share, taylor="taylor" in method, everywhere="global" in method)
        if method == "magnitude, one ratio":
            ordered = baseline_solutions(self.units, self.dense, self.moments, squares(self.dense))
            return self._stitched(ordered, self._one_ratio(share), compensate=False)
        widths = self._one_ratio(share) if method == "ours, one ratio" else self._spread(share)
        cut = self._stitched(self.solutions, widths, compensate=method != "ours, uncompensated")
        return cut if method in ("ours, uncompensated", "ours, not in order") else self._in_order(cut)

    def _stitched(
        self, solutions: Mapping[str, UnitSolution], widths: Mapping[str, int], *, compensate: bool
    ) -> nn.Module:
        return stitch(self.dense, solutions, widths, compensate=compensate)

    def _in_order(self, cut: nn.Module) -> nn.Module:
        """Return the better of a cut and the same refitted in the model's order, as the select pictures say."""
        fit = self.setting.material.task.fit
        again = refit_in_order(self.dense, cut, lambda: self.setting.material.batches(fit), SequentialOptions())
        return min(cut, again, key=lambda m: objective(m, self.setting.teacher.select))

    def _one_ratio(self, share: float) -> Mapping[str, int]:
        options = candidates({unit.name: unit.width for unit in self.units}, self.steps)
        count = functools.cache(
            lambda i: count_macs(stitch(self.dense, self.solutions, options[i].widths, compensate=False), self.size)
        )
        return by_macs(options, share, lambda option: count(options.index(option))).widths

    @functools.cached_property
    def _losses(self) -> Callable[[str, int], float]:
        """Unit and width -> loss, in the currency that ranks probed models best: what the latency loop uses."""
        labels = np.array([p.label_index for p in self.setting.material.task.select], np.int64)
        probed = Prober(self.dense, self.solutions, self.setting.answers, labels, MULTIPLE, {}).probe(lambda _: None)
        units = {
            name: UnitLoss(s.order.loss.numpy(), len(s.unit.consumers), probed.alone[name])
            for name, s in self.solutions.items()
        }
        currency = choose_currency(units, probed.joint).currency
        return lambda name, width: units[name].at(width, currency)

    def _spread(self, share: float) -> Mapping[str, int]:
        """Return the widths with the least harm for the MACs: the latency loop with MACs for milliseconds."""
        widths = {u.name: [u.width, *_below(u.width, self.steps[u.name])] for u in self.units}
        losses = {u.name: [self._losses(u.name, width) for width in widths[u.name]] for u in self.units}
        macs = {u.name: [float(u.macs * w) for w in widths[u.name]] for u in self.units}
        fixed = self.macs - sum(u.macs * u.width for u in self.units)  # units of one block each share no layer
        chosen = distribute(losses, macs, share * self.macs - fixed)
        return {name: widths[name][index] for name, index in chosen.items()}

    @functools.cached_property
    def _gradients(self) -> list[torch.Tensor]:
        """Gradients of the dense model's parameters on the fit pictures."""
        model, fit = copy.deepcopy(self.dense), self.setting.material.task.fit
        model.requires_grad_(requires_grad=True)
        labels = torch.tensor([p.label_index for p in fit])
        for batch, expected in zip(self.setting.material.batches(fit), labels.split(32), strict=True):
            F.cross_entropy(model(batch), expected, reduction="sum").backward()
        return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]

    def _theirs(self, share: float, *, taylor: bool, everywhere: bool) -> nn.Module:
        """Return what torch-pruning's pruner makes of all layers but the classifier, its ratio found by bisection."""
        low, high, best = 0.0, 1.0, None
        for _ in range(_TRIES):
            ratio = (low + high) / 2
            model = self._pruned(ratio, taylor=taylor, everywhere=everywhere)
            kept = count_macs(model, self.size) / self.macs
            if kept <= share:
                high, best = ratio, model
            else:
                low = ratio
        if best is None:
            raise RuntimeError(f"torch-pruning reached no {share:g} of the MACs")
        return best

    def _pruned(self, ratio: float, *, taylor: bool, everywhere: bool) -> nn.Module:
        model = copy.deepcopy(self.dense)
        model.requires_grad_(requires_grad=True)
        importance = tp.importance.GroupTaylorImportance() if taylor else tp.importance.GroupMagnitudeImportance(p=2)
        pruner = tp.pruner.BasePruner(
            model, torch.zeros(1, *self.size), importance, global_pruning=everywhere, pruning_ratio=ratio,
            round_to=MULTIPLE, ignored_layers=[model.get_classifier()],  # type: ignore[operator]
        )  # fmt: skip
        if taylor:
            for parameter, gradient in zip(model.parameters(), self._gradients, strict=True):
                parameter.grad = gradient.clone()
        pruner.step()
        model.zero_grad(set_to_none=True)
        return model.requires_grad_(requires_grad=False).eval()


def _below(width: int, step: int) -> Iterator[int]:
    yield from range((width - 1) // step * step, 0, -step)


def work(results: Path, data: Path, cells: Sequence[Cell]) -> None:
    """Do every cell that is missing."""
    results.mkdir(parents=True, exist_ok=True)
    missing = [cell for cell in cells if not (results / f"{cell.name}.json").exists()]
    for model, species, seed in dict.fromkeys((c.model, c.species, c.seed) for c in missing):
        with tempfile.TemporaryDirectory() as scratch:
            contest = Contest(Setting(seed, data, Path(scratch), species=species, model=MODELS[model]))
            for cell in missing:
                if (cell.model, cell.species, cell.seed) == (model, species, seed):
                    write_cell(results, cell, _judged(contest, cell))


def _judged(contest: Contest, cell: Cell) -> dict[str, Any]:
    cut = contest.cut(cell.method, cell.share)
    renewed = renormalise(cut, contest.setting.teacher, contest.setting.material)
    kept = count_macs(cut, contest.size) / contest.macs
    return {"kept": kept, "renewed": renewed is not cut, **contest.setting.judge(renewed)}


def table(results: Path) -> str:
    """Return the Markdown table of all cells that are there; a missing one is a dash."""
    found = [json.loads(path.read_bytes()) for path in sorted(results.glob("*-seed*.json"))]
    columns = [(model, species) for model in MODELS for species in ("imagenet", "other")]
    heads = " | ".join(f"{model}, {'ImageNet species' if s == 'imagenet' else 'others'}" for model, s in columns)
    lines = [f"| MACs | method | {heads} |", "|---" * (2 + len(columns)) + "|"]
    for share in SHARES:
        for method in METHODS:
            row = [c for c in found if (c["share"], c["method"]) == (share, method)]
            shown = [_shown([c for c in row if (c["model"], c["species"]) == column]) for column in columns]
            lines.append(f"| {share:g} | {method} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def _shown(cells: Sequence[Mapping[str, Any]]) -> str:
    """Show each seed's accuracy with its interval."""
    if not cells:
        return "-"
    return ", ".join(f"{c['percent']:.1f} ({c['low']:.1f} to {c['high']:.1f})" for c in cells)


def main(arguments: Sequence[str] | None = None) -> None:
    """Work off the cells and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.widths", description=__doc__)
    parser.add_argument(
        "results", type=Path, nargs="?", default=RESULTS, help="folder of the cells (default: %(default)s)"
    )
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--species", nargs="+", choices=("imagenet", "other"), default=["imagenet", "other"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--table", action="store_true", help="only print what is there")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING)
    warnings.filterwarnings("ignore", module="torch_pruning")
    if not given.table:
        cells = [
            Cell(model, species, seed, share, method)
            for model in given.models for species in given.species for seed in given.seeds
            for share in SHARES for method in METHODS
        ]  # fmt: skip
        work(given.results, given.data, cells)
    print(table(given.results), end="")


if __name__ == "__main__":
    main()
