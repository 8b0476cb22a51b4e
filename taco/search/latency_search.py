"""Find the width of every unit by its own time and loss on this device: profile, allocate, measure, correct, repeat.

Blocks that may be left out compete with widths, in the same currency of losses. Every round measures the way to spend
its time that does least harm on the select pictures: with blocks left out, by widths alone, or with one ratio for all
units (`taco.search.least_harm`). Where whole models are searched, that begins with what this loop has found.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from taco.allocation.remembered import Remembered
from taco.latency.levels import Choice, Drop, Level, levels_of
from taco.latency.levelsearch import Searching, Sought, search_levels
from taco.latency.limits import Space
from taco.latency.losses import Chosen, Currency, UnitLoss, exchange_rate
from taco.latency.rounds import best_round, latency_rounds, narrower, refined_rounds
from taco.latency.table import LatencyTable
from taco.latency.wholes import known_wholes, left_ms, saved_share
from taco.options import ExportOptions
from taco.progress import Advance, Progress
from taco.rundir import content_key
from taco.search.bench import VALUE_RUNS
from taco.search.least_harm import LeastHarm, OneRatio
from taco.search.limiting import Limiter, Searched, within_limits
from taco.search.one_ratio import widest_of_one_ratio
from taco.search.probes import Probed, Prober
from taco.search.profile_job import profile_or_load
from taco.search.profiling import Enough, Profiler
from taco.search.sharing import layers_of, together_of
from taco.search.uniform import Searcher
from taco.search.unit_losses import allocation_of, currency_of, losses_of, probed_once
from taco.units import steps_of

log = logging.getLogger(__name__)
Options = Mapping[str, Sequence[Level]]

#: Choices kept for the case that a final measurement falls short.
_SPARE = 2


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Offered:
    """What may be chosen on one device.

    Attributes:
        table: Times.
        probed: What cuts did to the answers.
        losses: Unit -> what it loses.
        chosen: The currency that losses count in.
        space: Levels of units, and blocks that may be left out.
    """

    table: LatencyTable
    probed: Probed
    losses: Mapping[str, UnitLoss]
    chosen: Chosen
    space: Space

    def lost(self, name: str, width: int) -> float:
        """Return what a width of a unit loses."""
        return self.losses[name].at(width, self.chosen.currency)


@dataclasses.dataclass(frozen=True, eq=False)
class LatencySearcher:
    """Everything that the loop needs.

    Attributes:
        searcher: Cuts, exports and times one allocation.
        profiler: Times units; its model has the specialist's structure.
        prober: Cuts units and looks at the answers.
        limiter: What holds beside the budget.
        dense_ms: The dense model, measured end to end before anything else.
        how: Whether and how whole models are searched too.
    """

    searcher: Searcher
    profiler: Profiler
    prober: Prober
    limiter: Limiter
    dense_ms: float
    how: ExportOptions

    def find(self, speedup: float, offered: Offered, advance: Advance) -> dict[str, Any]:
        """Find the allocation; returns JSON values so that the run can store them.

        Args:
            speedup: Dense time over the budget.
            offered: From `offered`.
            advance: Called with 1 after every round.

        Returns:
            `candidates` as from `Searcher.find`; `choices`, the same unit by unit; `usual_ms`; `budget_ms`, `rounds`,
            `profile`, `currency`, `blocks`, `limits`, `spread` and `search` for the report.

        Raises:
            BudgetInfeasibleError: No round is fast enough; says how fast the fastest is, and how accurate.
        """
        space, usual_ms = offered.space, min(self.dense_ms, offered.table.dense_ms)

        def measure(choice: Choice, predicted_ms: float) -> float:
            measured = self.dense_ms / self._ratio(choice, speedup, usual_ms)
            asked_ms = self.dense_ms / speedup
            log.info("predicted %.3f ms, measured %.3f ms, asked %.3f ms", predicted_ms, measured, asked_ms)
            advance(1)
            return measured

        found = within_limits(self.limiter, space, lambda limited: self._attempt(speedup, offered, limited, measure))
        return {
            "candidates": [dataclasses.asdict(allocation_of(self.searcher, c)) for c in found.choices],
            "choices": [levels_as_json(space, c) for c in found.choices],
            "budget_ms": self.dense_ms / speedup,
            "usual_ms": usual_ms,
            "rounds": [{"predicted_ms": r.predicted_ms, "measured_ms": r.measured_ms} for r in found.rounds],
            "profile": profile_as_json(offered.table, space.options),
            "currency": dataclasses.asdict(offered.chosen),
            "limits": [dataclasses.asdict(h) for h in found.held],
            **found.compared,
            "search": self.told(found.sought),
        }

    def _one_ratio(self, offered: Offered) -> OneRatio | None:
        """Return one ratio for all units as a way to spend a time.

        With limits beside the budget, which one ratio need not hold, and where whole models are searched, it is not
        looked at.
        """
        if self.limiter.asked or self.how.search != "dp":
            return None

        def within_time(table_ms: float) -> Choice | None:
            return widest_of_one_ratio(
                self.searcher, offered.table, offered.space, offered.lost, lambda ms: ms <= table_ms
            )

        return within_time

    def _attempt(
        self, speedup: float, offered: Offered, space: Space, measure: Callable[[Choice, float], float]
    ) -> Searched:
        budget_ms, choose = self.dense_ms / speedup, LeastHarm(space, self.harm, self._one_ratio(offered))
        known = known_wholes(offered.table, space.options, self.dense_ms, space.together)
        rounds = list(latency_rounds(known, budget_ms, choose, measure))
        best = best_round(rounds, budget_ms, self.dense_ms, self._price)
        compared = choose.told(best.choice, {name: offered.probed.dropped[name] for name in space.drops})
        own = space if choose.left_out(best.choice) else dataclasses.replace(space, drops={})
        found: Sought | None = None
        if self.how.search != "dp":
            sought: list[Sought] = []

            def search(table_ms: float) -> Choice:
                sought.append(self.search(own, table_ms))
                return sought[-1].choice

            searched = list(refined_rounds(best, budget_ms, search, measure))
            rounds += searched
            taken = [r for r in searched if r.measured_ms <= budget_ms]
            best = taken[-1] if taken else best
            found = next((one for one in reversed(sought) if one.choice.widths == best.choice.widths), None)
        spare = narrower(own, best, best.line, _SPARE)
        return Searched((best.choice, *spare), tuple(rounds), sought=found, compared=compared)

    def offered(self, progress: Progress, given: LatencyTable | None = None) -> Offered:
        """Return what may be chosen: of this run, of the cache, or measured and probed now.

        Args:
            progress: Told about what takes time.
            given: Times from elsewhere; nothing is measured then.
        """
        table = self.table(progress) if given is None else given
        probed = probed_once(self.searcher, self.prober, progress)
        losses = losses_of(self.searcher, probed)
        chosen = currency_of(losses, probed)
        options = self.options(table, losses, chosen.currency)
        layers = {name: layers_of(self.searcher.solutions[name].unit) for name in options}
        whole = Space(options, together=together_of(options, table, layers, self.profiler.model))
        drops = self.drops(whole, table, probed, exchange_rate(losses, chosen.currency))
        return Offered(table, probed, losses, chosen, dataclasses.replace(whole, drops=drops))

    def search(self, space: Space, table_ms: float) -> Sought:
        """Search whole models within a time by the table; values that are known from a killed run are not asked again.

        Blocks stay or go as in the choice with the least sum of losses.

        Args:
            space: What may be chosen.
            table_ms: Most milliseconds by the table.

        Raises:
            BudgetInfeasibleError: Even the fastest levels take longer, or a limit cannot be held.
        """
        rundir, how, start = self.searcher.rundir, self.how, space.choose(table_ms)
        offered = {n: [(level.width, level.ms, level.loss) for level in own] for n, own in space.options.items()}
        gone = sorted(name for name in space.drops if name in start.levels)
        limits = [dataclasses.asdict(limit) for limit in space.limits]
        together = [group.units for group in space.together]
        judged = {**self.prober.key, "levels": offered, "gone": gone, "together": together}
        asked = {"method": how.search, "evaluations": how.search_evaluations, "seed": how.seed, "table_ms": table_ms}

        def compute() -> dict[str, Any]:
            known = Remembered(rundir.unfinished(f"level-search-{content_key(judged)}.jsonl"))
            searching = Searching(how.search, how.search_evaluations, how.seed, self.prober.harm)
            found = search_levels(space, table_ms, start, searching, known)
            return {**dataclasses.asdict(found), "choice": found.choice.widths}

        begun = {"start": start.widths, "limits": limits}
        stored = rundir.json_step("level-search", {**judged, **asked, **begun}, compute)
        kept = {n: w for n, w in stored["choice"].items() if n in space.options and w}
        levels = {n: next(level for level in space.options[n] if level.width == width) for n, width in kept.items()}
        return Sought(**{**stored, "choice": dataclasses.replace(start, levels={**start.levels, **levels})})

    def told(self, sought: Sought | None) -> dict[str, Any] | None:
        """Return what the report tells of a search of whole models, as JSON values."""
        if sought is None:
            return None
        return {
            "method": self.how.search,
            "evaluations": sought.evaluations,
            "divergence": sought.fitness,
            "divergence_dp": sought.fitness_dp if math.isfinite(sought.fitness_dp) else None,
        }

    def table(self, progress: Progress, enough: Enough | None = None) -> LatencyTable:
        """Return the latency table: of this run, of the cache, or measured now.

        Args:
            progress: Told about what is timed.
            enough: See `Profiler.profile`; what may have ended early is stored apart.
        """
        profiler, scratch = self.profiler, self.searcher.scratch / "profile"
        dense = self.searcher.dense_artifact.path

        def compute() -> Any:
            return profile_or_load(profiler, scratch, progress, dense, enough=enough).table.model_dump(mode="json")

        depends = {"key": profiler.key().model_dump(mode="json"), "target": self.searcher.bench.key()}
        name = "latency-table" if enough is None else "begun-latency-table"
        found = self.searcher.rundir.json_step(name, depends, compute, measured=True)
        return LatencyTable.model_validate(found)

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

    def drops(self, space: Space, table: LatencyTable, probed: Probed, rate: float | None) -> dict[str, Drop]:
        """Return the blocks that may be left out: those that were timed with a unit in them; none without a rate."""
        found: dict[str, Drop] = {}
        if rate is None:
            return found
        options, together = space.options, space.together
        share = saved_share(table, options, together)
        for block, harm in probed.dropped.items():
            units = tuple(name for name in options if table.units[name].holder == block)
            if units:
                dense_ms = {name: options[name][0].ms for name in units}
                whole_ms, source = statistics.fmean(dense_ms.values()), options[units[0]][0].source
                left = left_ms(dense_ms, share, together)
                found[block] = Drop(units, rate * max(0.0, harm), whole_ms, source, left)
        return found

    def harm(self, choice: Choice) -> float:
        """Return how far a choice changes the answers before recovery, nats; stored."""
        widths = choice.widths
        depends = {**self.prober.key, "widths": widths}
        return float(self.searcher.rundir.json_step("choice-harm", depends, lambda: self.prober.harm(widths)))

    def _price(self, choice: Choice) -> str:
        dense, cut = self.prober.right(allocation_of(self.searcher, choice).widths)
        return (
            f"before recovery it names {cut} of {len(self.prober.labels)} select pictures right, the dense one {dense}"
        )

    def _ratio(self, choice: Choice, threshold: float, usual_ms: float) -> float:
        """Return the measured speed-up of a choice; measured once, and stored for a run that goes on after a kill."""
        allocation, searcher = allocation_of(self.searcher, choice), self.searcher
        depends = searcher.timed_key(allocation, threshold)

        def compute() -> float:
            return searcher.time(allocation, threshold, usual_ms, VALUE_RUNS).value

        return float(searcher.rundir.json_step("round", depends, compute, measured=True))


def levels_as_json(space: Space, choice: Choice) -> list[dict[str, Any]]:
    """Return what the report tells of every unit, and of blocks that are left out."""
    options, drops = space.options, space.drops
    return [
        {
            "unit": name,
            "level": f"width:{level.width}" if name in options else "drop",
            "latency_ms": level.ms,
            "dense_ms": options[name][0].ms if name in options else drops[name].dense_ms,
            "loss": level.loss,
            "source": level.source,
        }
        for name, level in choice.levels.items()
    ]


def profile_as_json(table: LatencyTable, options: Options) -> dict[str, Any]:
    """Return what the report tells of the latency table."""
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
