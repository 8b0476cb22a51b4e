"""Find the width of every unit by its own time and loss on this device: profile, allocate, measure, correct, repeat."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from taco.allocate import Allocation
from taco.latency.levels import Choice, Level, levels_of
from taco.latency.losses import Chosen, Currency, UnitLoss, choose_currency
from taco.latency.rounds import Options, Round, best_round, latency_rounds, narrower
from taco.latency.table import LatencyTable
from taco.probes import Probed, Prober
from taco.profile_job import profile_or_load
from taco.profiling import Profiler
from taco.progress import Advance, Progress
from taco.search import Searcher
from taco.units import steps_of

log = logging.getLogger(__name__)
_PROBED = TypeAdapter(Probed)

#: Choices kept for the case that a final measurement falls short.
_SPARE = 2


@dataclasses.dataclass(frozen=True, eq=False)
class LatencySearcher:
    """Everything that the loop needs.

    Attributes:
        searcher: Cuts, exports and times one allocation.
        profiler: Times units; its model has the specialist's structure.
        prober: Cuts units and looks at the answers.
        dense_ms: The dense model, measured end to end before anything else.
    """

    searcher: Searcher
    profiler: Profiler
    prober: Prober
    dense_ms: float

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
        chosen = self.currency(probed)
        options = self.options(table, self.losses(probed), chosen.currency)

        def measure(choice: Choice, predicted_ms: float) -> float:
            measured = self.dense_ms / self._ratio(choice, speedup)
            log.info("predicted %.3f ms, measured %.3f ms, asked %.3f ms", predicted_ms, measured, budget_ms)
            advance(1)
            return measured

        scale = self.dense_ms / table.dense_ms
        rounds: list[Round] = list(latency_rounds(options, self.dense_ms, budget_ms, scale, measure))
        best = best_round(rounds, budget_ms, self.dense_ms, self._price)
        spare = narrower(options, best, rounds[-1].line, _SPARE)
        return {
            "candidates": [dataclasses.asdict(self.allocation(c)) for c in (best.choice, *spare)],
            "choices": [choice_json(options, c) for c in (best.choice, *spare)],
            "budget_ms": budget_ms,
            "rounds": [{"predicted_ms": r.predicted_ms, "measured_ms": r.measured_ms} for r in rounds],
            "profile": profile_json(table, options),
            "currency": dataclasses.asdict(chosen),
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

    def currency(self, probed: Probed) -> Chosen:
        """Return in which currency losses add up best."""
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
        """Return a choice with the units that it leaves dense."""
        dense = {name: s.unit.width for name, s in self.searcher.solutions.items()}
        widths = {**dense, **choice.widths}
        return Allocation(sum(widths.values()) / sum(dense.values()), widths)


def choice_json(options: Options, choice: Choice) -> list[dict[str, Any]]:
    """Return a choice unit by unit, for the report."""
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


def profile_json(table: LatencyTable, options: Options) -> dict[str, Any]:
    """Return what the report tells of a table."""
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
