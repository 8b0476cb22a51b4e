"""Weights to zero, gradually: prune part of what remains, recover under the mask, again (TACO, Algorithm 1).

Every stage calibrates on the model as it is by then, solves each layer at several levels (`taco.database`), and gives
each the level that makes the sum of the relative output errors least for the stage's number of weights.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from taco.allocation.distribute import distribute
from taco.database import LayerDatabase, Recipe, Selection, Source, choose_layers
from taco.database.layers import DENSE
from taco.errors import UnsupportedModuleError
from taco.executor import Executor
from taco.levels import Level
from taco.options import ExportOptions
from taco.recover import INTERRUPTED, Recovered
from taco.rundir import content_key
from taco.sparse.sequential import Assignment, SequentialOptions, solve_sequentially
from taco.steps.cutting import Cut
from taco.steps.recovering import Recovery
from taco.steps.sparsity import SparseLayer, Sparsity, Stage

#: Densities of a stage's levels, as multiples of the stage's own.
_AROUND = (0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8)
#: The last stage takes this share of all recovery, because nothing comes after it.
_LAST_SHARE = 0.5


@dataclasses.dataclass(frozen=True, slots=True)
class _Pruned:
    """A stage before its recovery."""

    module: nn.Module
    levels: Mapping[str, str]
    losses: Mapping[str, float]
    dense: Mapping[str, str]


def sparsities(asked: float) -> tuple[float, ...]:
    """Return the stages' sparsities: what remains shrinks by the same factor each time, near one half."""
    density = 1.0 - asked
    count = max(1, round(math.log2(1.0 / density)))
    return (*(1.0 - density ** (i / count) for i in range(1, count)), asked)


def levels_around(sparsity: float, pattern: str) -> tuple[Level, ...]:
    """Return the levels that a stage solves of every layer."""
    if pattern == "2:4":
        return (Level("nm", "2:4"),)
    kind: Any = "block" if pattern == "4-block" else "unstructured"
    densities = [(1.0 - sparsity) * factor for factor in _AROUND]
    return tuple(Level(kind, round(1.0 - density, 6)) for density in densities if density < 1.0)


@dataclasses.dataclass(frozen=True, eq=False)
class Sparsifier:
    """Makes one specialist sparse.

    Attributes:
        options: What was asked.
        recovery: Repairs what pruning broke.
        batches: The pictures to calibrate on, each time the same.
        key: What identifies those pictures and the specialist, as JSON values.
        folder: For the databases; they stay only as long as their stage is not finished.
    """

    options: ExportOptions
    recovery: Recovery
    batches: Callable[[], Iterable[torch.Tensor]]
    key: Mapping[str, Any]
    folder: Path

    def cut(self, widths: Mapping[str, int]) -> Cut:
        """Prune to the asked sparsity.

        Args:
            widths: Unit -> channels of the dense model, for the record.

        Raises:
            InputError: A glob matches no layer, or no layer is left.
            SolverError: A layer cannot be solved.
        """
        recovery, pattern, asked = self.recovery, self.options.mask, self.options.zeros or 0.0
        selection = choose_layers(recovery.specialist, self.options.include or (), self.options.exclude or ())
        plan = (asked,) if pattern == "2:4" else sparsities(asked)
        module, stages, steps = recovery.specialist, [], 0
        pruned, recovered = None, None
        cut_short: dict[str, int] = {}
        for number, sparsity in enumerate(plan):
            key = {**self._key(), "plan": list(plan[: number + 1]), "of": len(plan), "steps": steps, **cut_short}
            last = number == len(plan) - 1
            if last:
                key["sequential"] = self.options.sequential
            pruned = self._prune(module, selection, sparsity, key, last=last)
            if number == 0 and recovery.minutes > 0:
                steps = recovery.steps(pruned.module, key)
                key["steps"] = steps
            share = _LAST_SHARE if last else (1 - _LAST_SHARE) / (len(plan) - 1)
            own = round(steps * (share if len(plan) > 1 else 1.0))
            name = f"recover by distillation at {sparsity:.1%} sparsity"
            recovered = recovery.recover(copy.deepcopy(pruned.module), key, own, name) if own else None
            module = pruned.module if recovered is None else recovered.module
            if recovered is not None and recovered.ended == INTERRUPTED:
                cut_short[f"interrupted {number}"] = recovered.steps  # later stages start from other weights
            stages.append(_stage(sparsity, recovered))
        assert pruned is not None  # noqa: S101 - there is at least one stage
        if recovered is not None:
            with recovery.progress.step("re-estimate BatchNorm"):
                module = recovery.renormalise(module)
        facts = Sparsity(asked, pattern, _layers(module, pruned), pruned.dense, tuple(stages))
        return Cut(module, 1.0, widths, pruned.module, recovered, facts)

    def _key(self) -> dict[str, Any]:
        names = ("pattern", "include", "exclude", "solver", "damping", "recover_minutes", "seed")
        asked = {name: getattr(self.options, name) for name in names}
        return {**self.key, **asked, "learning_rate": self.recovery.options.learning_rate}

    def _prune(
        self, module: nn.Module, selection: Selection, sparsity: float, key: Mapping[str, Any], *, last: bool
    ) -> _Pruned:
        """Solve, choose levels, stitch and repair what needs no training; the result is stored."""
        pruned = copy.deepcopy(module)

        def compute() -> tuple[nn.Module, dict[str, Any]]:
            folder = self.folder / content_key(key)
            database = self._database(module, selection, sparsity, folder)
            levels = choose_levels(database, sparsity)
            with self.recovery.progress.step("stitch the sparse model"):
                stitched = self.recovery.renormalise(database.stitch(module, levels))
            if last and self.options.sequential:
                stitched = self.recovery.best(stitched, self._sequential(module, database, levels))
            facts = {
                "levels": {name: str(level) for name, level in levels.items()},
                "losses": {name: database.relative_loss(name, level) for name, level in levels.items()},
                "dense": {s.layer: s.reason for s in database.skipped},
            }
            shutil.rmtree(folder, ignore_errors=True)
            return stitched, facts

        facts = self.recovery.store.module("sparse-stage", key, pruned, compute)
        return _Pruned(pruned, facts["levels"], facts["losses"], facts["dense"])

    def _sequential(self, module: nn.Module, database: LayerDatabase, levels: Mapping[str, Level]) -> nn.Module:
        """Solve the layers again at their levels, one group after the other."""
        entries = {layer: database.entry(layer) for layer in levels}
        assignments = {n: Assignment(levels[n], e.inputs.solver, e.damping) for n, e in entries.items()}
        progress, executor = self.recovery.progress, Executor.parse(self.options.executor)
        with progress.step("solve again, each layer for what those before it left", len(levels)) as advance:
            options = SequentialOptions(progress=advance)
            dense = self.recovery.specialist
            return solve_sequentially(dense, module, assignments, self.batches, options, executor)

    def _database(self, module: nn.Module, selection: Selection, sparsity: float, folder: Path) -> LayerDatabase:
        options = self.options
        levels = levels_around(sparsity, options.mask)
        recipe = Recipe(levels, options.solver, "auto" if options.damping is None else options.damping)
        source = Source(module, selection, self.batches, content_key(self.key))
        executor = Executor.parse(options.executor)
        return LayerDatabase.build(folder, source, recipe, executor, self.recovery.progress)


def choose_levels(database: LayerDatabase, sparsity: float) -> dict[str, Level]:
    """Return the levels with the least sum of relative losses that keep the asked share of the weights.

    Args:
        database: Of the model that is to be pruned.
        sparsity: Share of the weights of its layers that go.

    Raises:
        UnsupportedModuleError: The pattern fits no layer.
        BudgetInfeasibleError: The database has no levels that are sparse enough.
    """
    options = {unit: (DENSE, *database.levels(unit)) for unit in database.units if database.levels(unit)}
    if not options:
        raise UnsupportedModuleError("the pattern fits none of the chosen layers", "Choose another --pattern")
    if all(levels[-1].kind == "nm" for levels in options.values()):
        return {unit: levels[-1] for unit, levels in options.items()}
    losses = {unit: [database.relative_loss(unit, level) for level in levels] for unit, levels in options.items()}
    kept = {unit: [float(database.nonzeros(unit, level)) for level in levels] for unit, levels in options.items()}
    budget = (1.0 - sparsity) * sum(counts[0] for counts in kept.values())
    chosen = distribute(losses, kept, budget)
    return {unit: options[unit][index] for unit, index in chosen.items()}


def _stage(sparsity: float, recovered: Recovered | None) -> Stage:
    if recovered is None:
        return Stage(sparsity, 0, 0, None, None)
    return Stage(sparsity, recovered.steps, recovered.kept_step, recovered.loss_before, recovered.loss_after)


def _layers(module: nn.Module, pruned: _Pruned) -> tuple[SparseLayer, ...]:
    found = []
    for name, level in pruned.levels.items():
        weight = module.get_parameter(f"{name}.weight")
        found.append(SparseLayer(name, weight.numel(), int((weight != 0).sum()), level, pruned.losses[name]))
    return tuple(found)
