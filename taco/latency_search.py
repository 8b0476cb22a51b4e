"""Find the width of every unit by its own time and loss on this device: profile, allocate, measure, correct, repeat.

Blocks that may be left out compete with widths, in the same currency of losses. Where some are taken, the search is
made without them too, and the select pictures decide: losses of neighbouring blocks do not add up as those of widths.
"""

from __future__ import annotations

import dataclasses
import logging
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter

from taco.allocate import Allocation
from taco.errors import BudgetInfeasibleError
from taco.latency.levels import Choice, Drop, Drops, Level, levels_of
from taco.latency.limits import Space
from taco.latency.losses import Chosen, Currency, UnitLoss, choose_currency, exchange_rate
from taco.latency.rounds import Round, best_round, latency_rounds, narrower
from taco.latency.table import LatencyTable
from taco.limiting import Held, Limiter, broken_error
from taco.probes import Probed, Prober
from taco.profile_job import profile_or_load
from taco.profiling import Profiler
from taco.progress import Advance, Progress
from taco.search import Searcher
from taco.units import lies_in, steps_of

log = logging.getLogger(__name__)
Options = Mapping[str, Sequence[Level]]
_PROBED = TypeAdapter(Probed)

#: Searches with a lower aim, where the count of the whole model is above a limit.
_TIGHTER = 4
#: Choices kept for the case that a final measurement falls short.
_SPARE = 2


@dataclasses.dataclass(frozen=True, slots=True)
class Searched:
    """What one search ended with.

    Attributes:
        choices: The choice, then the next faster ones.
        rounds: All that were made.
        held: What the choice uses of everything that is limited.
    """

    choices: tuple[Choice, ...]
    rounds: tuple[Round, ...]
    held: tuple[Held, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class LatencySearcher:
    """Everything that the loop needs.

    Attributes:
        searcher: Cuts, exports and times one allocation.
        profiler: Times units; its model has the specialist's structure.
        prober: Cuts units and looks at the answers.
        limiter: What holds beside the budget.
        dense_ms: The dense model, measured end to end before anything else.
    """

    searcher: Searcher
    profiler: Profiler
    prober: Prober
    limiter: Limiter
    dense_ms: float

    def find(self, speedup: float, table: LatencyTable, probed: Probed, advance: Advance) -> dict[str, Any]:
        """Find the allocation; returns JSON values so that the run can store them.

        Args:
            speedup: Dense time over the budget.
            table: From `table`.
            probed: From `probed`.
            advance: Called with 1 after every round.

        Returns:
            `candidates` as from `Searcher.find`; `choices`, the same unit by unit; `budget_ms`, `rounds`, `profile`,
            `currency` and `blocks` for the report.

        Raises:
            BudgetInfeasibleError: No round is fast enough; says how fast the fastest is, and how accurate.
        """
        losses, chosen = losses_of(self.searcher, probed), currency_of(self.searcher, probed)
        options = self.options(table, losses, chosen.currency)
        drops = self.drops(options, table, probed, chosen.currency)

        def search(blocks: Drops) -> Searched:
            return self._search(speedup, table, options, blocks, advance)

        found, rounds, blocks = with_blocks(search, drops, self.prober, probed)
        return {
            "candidates": [dataclasses.asdict(allocation_of(self.searcher, c)) for c in found.choices],
            "choices": [_as_json(options, drops, c) for c in found.choices],
            "budget_ms": self.dense_ms / speedup,
            "rounds": [{"predicted_ms": r.predicted_ms, "measured_ms": r.measured_ms} for r in rounds],
            "profile": _profile(table, options),
            "currency": dataclasses.asdict(chosen),
            "blocks": blocks,
            "limits": [dataclasses.asdict(h) for h in found.held],
        }

    def _search(
        self, speedup: float, table: LatencyTable, options: Options, drops: Drops, advance: Advance
    ) -> Searched:
        budget_ms = self.dense_ms / speedup

        def measure(choice: Choice, predicted_ms: float) -> float:
            measured = self.dense_ms / self._ratio(choice, speedup)
            log.info("predicted %.3f ms, measured %.3f ms, asked %.3f ms", predicted_ms, measured, budget_ms)
            advance(1)
            return measured

        def rounds_of(space: Space) -> list[Round]:
            scale = self.dense_ms / table.dense_ms
            return list(latency_rounds(space, self.dense_ms, budget_ms, scale, measure))

        def choices_of(space: Space, rounds: Sequence[Round]) -> list[Choice]:
            best = best_round(rounds, budget_ms, self.dense_ms, self._price)
            return [best.choice, *narrower(space, best, rounds[-1].line, _SPARE)]

        return within_limits(self.limiter, Space(options, drops), rounds_of, choices_of)

    def table(self, progress: Progress) -> LatencyTable:
        """Return the latency table: of this run, of the cache, or measured now."""
        profiler, scratch = self.profiler, self.searcher.scratch / "profile"
        dense = self.searcher.dense_artifact.path

        def compute() -> Any:
            return profile_or_load(profiler, scratch, progress, dense).table.model_dump(mode="json")

        depends = {"key": profiler.key().model_dump(mode="json"), "target": self.searcher.bench.key()}
        found = self.searcher.rundir.json_step("latency-table", depends, compute, measured=True)
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

    def drops(self, options: Options, table: LatencyTable, probed: Probed, currency: Currency) -> dict[str, Drop]:
        """Return the blocks that may be left out: those that were timed with a unit in them, and probed."""
        rate = exchange_rate(losses_of(self.searcher, probed), currency)
        found = {}
        for block, harm in probed.dropped.items() if rate is not None else ():
            units = tuple(name for name in options if table.units[name].holder == block)
            if units and rate is not None:
                dense = [options[name][0] for name in units]
                whole_ms = statistics.fmean(level.ms for level in dense)
                left_ms = sum(level.ms for level in dense) - whole_ms
                found[block] = Drop(units, rate * max(0.0, harm), whole_ms, dense[0].source, left_ms)
        return found

    def _price(self, choice: Choice) -> str:
        dense, cut = self.prober.right(allocation_of(self.searcher, choice).widths)
        return (
            f"before recovery it names {cut} of {len(self.prober.labels)} select pictures right, the dense one {dense}"
        )

    def _ratio(self, choice: Choice, threshold: float) -> float:
        """Return the measured speed-up of a choice; measured once, and stored for a run that goes on after a kill."""
        allocation, searcher = allocation_of(self.searcher, choice), self.searcher
        depends = searcher.timed_key(allocation, threshold)

        def compute() -> float:
            return searcher.time(allocation, threshold).value

        return float(searcher.rundir.json_step("round", depends, compute, measured=True))


def within_limits(
    limiter: Limiter,
    space: Space,
    rounds_of: Callable[[Space], Sequence[Round]],
    choices_of: Callable[[Space, Sequence[Round]], Sequence[Choice]],
) -> Searched:
    """Search until the choice holds every limit as counted on the whole model, aiming lower each time.

    Args:
        limiter: The limits.
        space: What may be chosen, without them.
        rounds_of: Searches a space.
        choices_of: Space and its rounds -> the choice, then further ones.

    Raises:
        LimitError: A limit cannot be held; says what was reached.
    """
    shrunk: dict[str, float] = {}
    rounds: list[Round] = []
    held: tuple[Held, ...] = ()
    for _ in range(_TIGHTER):
        limited = Space(limiter.fitting(space.options), space.drops, limiter.limits(shrunk))
        own = rounds_of(limited)
        rounds += own
        first, *more = choices_of(limited, own)
        held = limiter.held(allocation_of(limiter.searcher, first))
        broken = [h for h in held if h.broken]
        if not broken:
            kept = [c for c in more if not any(h.broken for h in limiter.held(allocation_of(limiter.searcher, c)))]
            return Searched((first, *kept), tuple(rounds), held)
        if any(h.flag == "--max-memory" for h in broken):
            break
        shrunk |= {h.flag: shrunk.get(h.flag, 1.0) * h.asked / h.used for h in broken}
    raise broken_error(held)


def with_blocks(
    search: Callable[[Drops], Searched], drops: Drops, prober: Prober, probed: Probed
) -> tuple[Searched, Sequence[Round], dict[str, Any] | None]:
    """Search with blocks that may be left out, and where some are, without; return the less harmful, and all rounds.

    Args:
        search: Blocks that may be left out -> what was found.
        drops: All of them.
        prober: Judges whole choices on the select pictures.
        probed: What every block does alone.

    Raises:
        BudgetInfeasibleError: Even with blocks left out nothing is fast enough.
    """
    first = search(drops)
    taken = [name for name in drops if first.choices[0].widths.get(name) == 0]
    told: dict[str, Any] = {"offered": {n: probed.dropped[n] for n in drops}, "taken": taken}
    if not taken:
        return first, first.rounds, told if drops else None
    told["harm_with"] = harm = prober.harm(first.choices[0].widths)
    try:
        second = search({})
    except BudgetInfeasibleError:  # only without some blocks it is fast enough
        return first, first.rounds, told
    told["harm_without"] = other = prober.harm(second.choices[0].widths)
    rounds = (*first.rounds, *second.rounds)
    return (first, rounds, told) if harm <= other else (second, rounds, {**told, "taken": []})


def probed_once(searcher: Searcher, prober: Prober, progress: Progress) -> Probed:
    """Return the probes: of this run, or made now."""

    def compute() -> Any:
        with progress.step("cut units alone and together, and compare answers", prober.total) as advance:
            return _PROBED.dump_python(prober.probe(advance), mode="json")

    return _PROBED.validate_python(searcher.rundir.json_step("probes", prober.key, compute))


def losses_of(searcher: Searcher, probed: Probed) -> dict[str, UnitLoss]:
    """Return what every unit loses; blocks, which have no widths, are missing."""
    return {
        name: UnitLoss(s.order.loss.numpy(), s.unit.parts, probed.alone[name])
        for name, s in searcher.solutions.items()
        if s.unit.kind != "block"
    }


def currency_of(searcher: Searcher, probed: Probed) -> Chosen:
    """Return the currency that ranks the probed models best, and log how well each does."""
    chosen = choose_currency(losses_of(searcher, probed), probed.joint)
    told = ", ".join(f"{name} {value:.2f}" for name, value in chosen.correlations.items())
    log.info("losses count in %s: rank correlation over %d models: %s", chosen.currency, chosen.models, told)
    return chosen


def allocation_of(searcher: Searcher, choice: Choice) -> Allocation:
    """Return the widths of all units: dense where a choice says nothing, 0 within a block that is left out."""
    units = {name: s.unit for name, s in searcher.solutions.items()}
    widths = {name: choice.widths.get(name, unit.width) for name, unit in units.items()}
    gone = [name for name, unit in units.items() if unit.kind == "block" and widths[name] == 0]
    widths |= {name: 0 for name, unit in units.items() if any(lies_in(unit, block) for block in gone)}
    channels = [name for name, unit in units.items() if unit.kind != "block"]
    kept, dense = sum(widths[name] for name in channels), sum(units[name].width for name in channels)
    return Allocation(kept / dense, widths)


def _as_json(options: Options, drops: Drops, choice: Choice) -> list[dict[str, Any]]:
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
