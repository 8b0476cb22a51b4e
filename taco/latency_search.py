"""Find the width of every unit by its own time and loss on this device: profile, allocate, measure, correct, repeat."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from taco.allocate import Allocation
from taco.ladder import Ladder, Rung
from taco.latency.levels import Choice, Level, choose, dense, fastest, levels_of
from taco.latency.levelsearch import Searching, Sought, search_levels
from taco.latency.losses import Chosen, Currency, UnitLoss, choose_currency
from taco.latency.rounds import Options, Round, best_round, latency_rounds, narrower, refined_rounds
from taco.latency.table import LatencyTable
from taco.options import ExportOptions
from taco.probes import Probed, Prober
from taco.profile_job import profile_or_load
from taco.profiling import Profiler
from taco.progress import Advance, Progress
from taco.remembered import Remembered
from taco.rundir import content_key
from taco.search import Searcher
from taco.units import steps_of

log = logging.getLogger(__name__)
_PROBED = TypeAdapter(Probed)

#: Choices kept for the case that a final measurement falls short.
_SPARE = 2
#: Steps from the dense model to the fastest of all, evenly in the logarithm of the table's time.
_RUNGS = 48


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Offered:
    """What may be chosen on one device.

    Attributes:
        table: Times.
        losses: Unit -> what it loses.
        chosen: The currency that losses count in.
        options: Unit -> its levels.
    """

    table: LatencyTable
    losses: Mapping[str, UnitLoss]
    chosen: Chosen
    options: Options


@dataclasses.dataclass(frozen=True, eq=False)
class LatencySearcher:
    """Everything that the loop needs.

    Attributes:
        searcher: Cuts, exports and times one allocation.
        profiler: Times units; its model has the specialist's structure.
        prober: Cuts units and looks at the answers.
        dense_ms: The dense model, measured end to end before anything else.
        how: Whether and how whole models are searched too.
    """

    searcher: Searcher
    profiler: Profiler
    prober: Prober
    dense_ms: float
    how: ExportOptions

    def find(self, speedup: float, table: LatencyTable, probed: Probed, advance: Advance) -> dict[str, Any]:
        """Find the allocation; returns JSON values so that the run can store them.

        Args:
            speedup: Dense time over the budget.
            table: From `table`.
            probed: From `probed`.
            advance: Called with 1 after every round.

        Returns:
            `candidates` as from `Searcher.find`; `choices`, the same unit by unit; `budget_ms`, `rounds`, `profile`
            and `currency` for the report.

        Raises:
            BudgetInfeasibleError: No round is fast enough; says how fast the fastest is, and how accurate.
        """
        budget_ms = self.dense_ms / speedup
        chosen = self._currency(probed)
        options = self.options(table, self.losses(probed), chosen.currency)

        def measure(choice: Choice, predicted_ms: float) -> float:
            measured = self.dense_ms / self._ratio(choice, speedup)
            log.info("predicted %.3f ms, measured %.3f ms, asked %.3f ms", predicted_ms, measured, budget_ms)
            advance(1)
            return measured

        scale = self.dense_ms / table.dense_ms
        rounds: list[Round] = list(latency_rounds(options, self.dense_ms, budget_ms, scale, measure))
        best = best_round(rounds, budget_ms, self.dense_ms, self._price)
        sought: list[Sought] = []
        if self.how.search != "dp":

            def search(table_ms: float) -> Choice:
                sought.append(self.search(options, table_ms))
                return sought[-1].choice

            searched = list(refined_rounds(best, budget_ms, search, measure))
            rounds += searched
            taken = [r for r in searched if r.measured_ms <= budget_ms]
            best = taken[-1] if taken else best
            sought = [found for found in sought if found.choice.widths == best.choice.widths]
        spare = narrower(options, best, rounds[-1].line, _SPARE)
        return {
            "candidates": [dataclasses.asdict(self.allocation(c)) for c in (best.choice, *spare)],
            "choices": [_as_json(options, c) for c in (best.choice, *spare)],
            "budget_ms": budget_ms,
            "rounds": [{"predicted_ms": r.predicted_ms, "measured_ms": r.measured_ms} for r in rounds],
            "profile": _profile(table, options),
            "currency": dataclasses.asdict(chosen),
            "search": self._told(sought[-1] if sought else None),
        }

    def ladder(self, progress: Progress) -> Ladder:
        """Return the best choices from the dense model down to the fastest of all; searched where that is asked."""
        offered = self.offered(progress)
        table, chosen, options = offered.table, offered.chosen, offered.options
        choices = [dense(options)]
        for table_ms in np.geomspace(choices[0].table_ms, fastest(options).table_ms, _RUNGS)[1:]:
            choice = choose(options, float(table_ms) * (1 + 1e-9))
            if choice.widths != choices[-1].widths:
                choices.append(choice)
        shared: dict[str, Any] = {"budget_ms": None, "rounds": [], "profile": _profile(table, options)}

        def rung(index: int) -> Rung:
            choice, sought = choices[index], None
            if index and self.how.search != "dp":
                with progress.step("search the levels of whole models"):
                    sought = self.search(options, choice.table_ms)
                choice = sought.choice
            told = {"currency": dataclasses.asdict(chosen), "search": self._told(sought)}
            return Rung(self.allocation(choice), {**shared, **told, "allocation": _as_json(options, choice)})

        return Ladder(len(choices), rung)

    def offered(self, progress: Progress) -> Offered:
        """Return what may be chosen: of this run, of the cache, or measured and probed now."""
        table, probed = self.table(progress), self.probed(progress)
        losses, chosen = self.losses(probed), self._currency(probed)
        return Offered(table, losses, chosen, self.options(table, losses, chosen.currency))

    def search(self, options: Options, table_ms: float) -> Sought:
        """Search whole models within a time by the table; values that are known from a killed run are not asked again.

        Args:
            options: From `options`.
            table_ms: Most milliseconds by the table.
        """
        rundir, how = self.searcher.rundir, self.how
        offered = {name: [(level.width, level.ms, level.loss) for level in levels] for name, levels in options.items()}
        asked = {"method": how.search, "evaluations": how.search_evaluations, "seed": how.seed, "table_ms": table_ms}
        judged = {**self.prober.key, "levels": offered}

        def compute() -> dict[str, Any]:
            known = Remembered(rundir.unfinished(f"level-search-{content_key(judged)}.jsonl"))
            searching = Searching(how.search, how.search_evaluations, how.seed, self.prober.harm)
            found = search_levels(options, table_ms, searching, known)
            return {**dataclasses.asdict(found), "choice": found.choice.widths}

        stored = rundir.json_step("level-search", {**judged, **asked}, compute)
        kept = stored["choice"]
        levels = {n: next(level for level in found if level.width == kept[n]) for n, found in options.items()}
        return Sought(**{**stored, "choice": Choice(levels)})

    def _told(self, sought: Sought | None) -> dict[str, Any] | None:
        if sought is None:
            return None
        return {
            "method": self.how.search,
            "evaluations": sought.evaluations,
            "divergence": sought.fitness,
            "divergence_dp": sought.fitness_dp if math.isfinite(sought.fitness_dp) else None,
        }

    def table(self, progress: Progress) -> LatencyTable:
        """Return the latency table: of this run, of the cache, or measured now."""
        profiler, scratch = self.profiler, self.searcher.scratch / "profile"
        dense = self.searcher.dense_artifact.path

        def compute() -> Any:
            return profile_or_load(profiler, scratch, progress, dense).table.model_dump(mode="json")

        depends = {"key": profiler.key().model_dump(mode="json"), "target": self.searcher.bench.key()}
        found = self.searcher.rundir.json_step("latency-table", depends, compute, measured=True)
        return LatencyTable.model_validate(found)

    def probed(self, progress: Progress) -> Probed:
        """Return the probes: of this run, or made now."""
        prober = self.prober

        def compute() -> Any:
            with progress.step("cut units alone and together, and compare answers", prober.total) as advance:
                return _PROBED.dump_python(prober.probe(advance), mode="json")

        return _PROBED.validate_python(self.searcher.rundir.json_step("probes", prober.key, compute))

    def losses(self, probed: Probed) -> dict[str, UnitLoss]:
        """Return what every unit loses."""
        return {
            name: UnitLoss(s.order.loss.numpy(), len(s.unit.consumers), probed.alone[name])
            for name, s in self.searcher.solutions.items()
        }

    def options(
        self, table: LatencyTable, losses: Mapping[str, UnitLoss], currency: Currency
    ) -> dict[str, list[Level]]:
        """Return the levels of every unit that was timed; the others stay dense."""
        solutions = self.searcher.solutions
        steps = steps_of((s.unit for s in solutions.values()), self.searcher.bench.target.channel_multiple)
        found = {}
        for name, loss in losses.items():
            if (unit := table.units.get(name)) is not None:
                kept = (loss.width, *range(unit.cells[-1].width, loss.width, steps[name]))
                found[name] = levels_of(unit, {width: loss.at(width, currency) for width in kept}, steps[name])
        return found

    def _price(self, choice: Choice) -> str:
        dense, cut = self.prober.right(choice.widths)
        return (
            f"before recovery it names {cut} of {len(self.prober.labels)} select pictures right, the dense one {dense}"
        )

    def _currency(self, probed: Probed) -> Chosen:
        chosen = choose_currency(self.losses(probed), probed.joint)
        told = ", ".join(f"{name} {value:.2f}" for name, value in chosen.correlations.items())
        log.info("losses count in %s: rank correlation over %d models: %s", chosen.currency, chosen.models, told)
        return chosen

    def _ratio(self, choice: Choice, threshold: float) -> float:
        """Return the measured speed-up of a choice; measured once, and stored for a run that goes on after a kill."""
        allocation, searcher = self.allocation(choice), self.searcher
        depends = searcher.timed_key(allocation, threshold)

        def compute() -> float:
            return searcher.time(allocation, threshold).value

        return float(searcher.rundir.json_step("round", depends, compute, measured=True))

    def allocation(self, choice: Choice) -> Allocation:
        """Return the widths of all units; those that were not timed stay dense."""
        dense = {name: s.unit.width for name, s in self.searcher.solutions.items()}
        widths = {**dense, **choice.widths}
        return Allocation(sum(widths.values()) / sum(dense.values()), widths)


def _as_json(options: Options, choice: Choice) -> list[dict[str, Any]]:
    return [
        {
            "unit": name,
            "level": f"width:{level.width}",
            "latency_ms": level.ms,
            "dense_ms": options[name][0].ms,
            "loss": level.loss,
            "source": level.source,
        }
        for name, level in choice.levels.items()
    ]


def _profile(table: LatencyTable, options: Options) -> dict[str, Any]:
    held: Mapping[str, float] = {unit.holder: unit.cells[0].p50_ms for unit in table.units.values()}
    offered = {name: {level.width for level in levels} for name, levels in options.items()}
    unpaid = {name: [c.width for c in table.units[name].cells if c.width not in offered[name]] for name in options}
    return {
        "device": table.key.device.get("processor", "unknown"),
        "seconds": table.seconds,
        "cells": table.timed,
        "unattributed_percent": 100 * (1 - sum(held.values()) / table.dense_ms),
        "skipped": dict(table.skipped),
        "zeros": [gain.model_dump() for gain in table.zeros],
        "unpaid": {name: widths for name, widths in unpaid.items() if widths},
    }
