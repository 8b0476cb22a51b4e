"""Which way the widths of a run are found: given, by one ratio, or unit by unit; by MACs, or on measured latency."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from taco.allocate import Allocation
from taco.options import ExportOptions
from taco.progress import Progress
from taco.search.budget import Budget, How, decide_allocation
from taco.search.earlier import Earlier
from taco.search.elsewhere import Elsewhere, look_elsewhere
from taco.search.estimate import Estimator, estimated_by
from taco.search.ladder import Ladder, Rung
from taco.search.latency_ladder import latency_ladder
from taco.search.latency_search import LatencySearcher
from taco.search.limiting import Limiter
from taco.search.macs_search import MacsSearcher
from taco.search.micromodels import Holder, Unheld
from taco.search.probes import Prober
from taco.search.profiling import Profiler
from taco.search.uniform import Searcher
from taco.search.unit_losses import probed_once
from taco.units import UnitMap

_LEAST_RATIO = 1e-3


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """What a search found.

    Attributes:
        values: JSON values, see `Searcher.find` and `LatencySearcher.find`.
        asked: Dense time over the budget; None where no clock decided.
    """

    values: Mapping[str, Any]
    asked: float | None

    @classmethod
    def given(cls, widths: Mapping[str, int], units: UnitMap) -> Found:
        """Return widths that a person gives as if they had been found."""
        dense = {unit.name: unit.width for unit in units.within_blocks}
        kept = sum(width for name, width in widths.items() if name in dense)
        allocation = Allocation(kept / max(1, sum(dense.values())), widths)
        return cls({"candidates": [dataclasses.asdict(allocation)]}, None)

    @property
    def usual_ms(self) -> float | None:
        """What the dense model usually takes, see `Bench.as_usual`; None where no clock decided unit by unit."""
        usual_ms = self.values.get("usual_ms")
        return None if usual_ms is None else float(usual_ms)

    def loop(self, number: int) -> dict[str, Any] | None:
        """Return what the report tells of a search unit by unit when candidate `number` was taken; None without one."""
        if "currency" not in self.values:
            return None
        choices = self.values.get("choices")
        if not choices:
            return {**self.values, "allocation": []}
        blocks, spread = self.values.get("blocks"), self.values.get("spread", {})
        gone = [unit["unit"] for unit in choices[number] if unit["level"] == "drop"]
        return {
            **self.values,
            "allocation": choices[number],
            "blocks": blocks and {**blocks, "taken": gone},
            "spread": {} if number else spread,  # a spare was compared with nothing
        }


@dataclasses.dataclass(frozen=True, eq=False)
class WidthSearch:
    """Everything that finding widths needs; results are stored in the searcher's run.

    Attributes:
        searcher: Judges one allocation.
        profiler: Times units; used by the loop alone.
        prober: Cuts units and compares answers; not used for one ratio.
        budget: What was asked.
        options: How widths are found, and the table where no clock can decide.
        progress: Told about every step.
    """

    searcher: Searcher
    profiler: Profiler
    prober: Prober
    budget: Budget
    options: ExportOptions
    progress: Progress

    def find(self) -> Found:
        """Find the widths, or take what the run holds.

        Raises:
            BudgetInfeasibleError: The budget cannot be reached; says what can.
        """
        if self.budget.estimated and self.options.latency_table is not None:
            return self._estimated(self.options.latency_table)
        budget, looped = self.budget, self.budget.timed and self.how == "latency"
        dense_ms = self.dense_ms() if looped or budget.latency_ms is not None else None
        asked = budget.speedup
        if dense_ms is not None and budget.latency_ms is not None:
            asked = dense_ms / budget.latency_ms
        how = "find the widths by MACs" if asked is None else f"find the widths for {asked:.3g} times the speed"

        def find() -> dict[str, Any]:
            timed = dense_ms is not None and asked is not None and asked > 1
            if self.how == "uniform" or (budget.timed and not timed and not budget.limits):
                with self.progress.step(how) as advance:
                    return self.searcher.find(dataclasses.replace(budget, speedup=asked), advance)
            if not budget.cuts:
                return self.searcher.find(budget, lambda _: None)
            if looped and timed and dense_ms is not None and asked is not None:
                loop = self.latency(dense_ms)
                offered = loop.offered(self.progress)
                with self.progress.step(how) as advance:
                    return loop.find(asked, offered, advance)
            probed = probed_once(self.searcher, self.prober, self.progress)
            with self.progress.step(how) as advance:
                return MacsSearcher(self.searcher, self.prober, self._limiter).find(budget.macs or 1.0, probed, advance)

        depends: dict[str, Any] = {
            "dense": self.searcher.dense_artifact.sha256,
            "budget": dataclasses.asdict(budget),
            "allocation": self.how,
            "target": self.searcher.bench.key(),
        }
        if looped:
            depends |= self._searched_how()
        return Found(self.searcher.rundir.json_step("widths", depends, find, measured=budget.timed), asked)

    def _estimated(self, table: Path) -> Found:
        """Find the widths by a table from elsewhere: no clock here can decide."""
        estimator = Estimator(self.profiler, self.latency, table, self.options.feedback)

        def find() -> dict[str, Any]:
            with self.progress.step("find the widths by the latency table"):
                return estimator.find(self.budget, self.progress)

        depends: dict[str, Any] = {
            "dense": self.searcher.dense_artifact.sha256,
            "budget": dataclasses.asdict(self.budget),
            "target": self.searcher.bench.key(),
            "estimated_by": estimated_by(self.options),
            **self._searched_how(),
        }
        return Found(self.searcher.rundir.json_step("estimated-widths", depends, find), None)

    def _searched_how(self) -> dict[str, Any]:
        """Return what a search of whole models depends on; empty without one."""
        options = self.options
        if options.search == "dp":
            return {}
        return {"search": [options.search, options.search_evaluations, options.seed]}

    @property
    def how(self) -> How:
        """Whether widths are found unit by unit or with one ratio."""
        return decide_allocation(self.options, self.budget)

    def elsewhere(self, earlier: Sequence[Earlier]) -> Elsewhere | None:
        """Return what searches for other devices took, weighed; None where nothing was, or no clock decides."""
        if self.how != "latency":
            return None
        return look_elsewhere(self.latency(self.dense_ms()), self.progress, earlier, self.options.take_over)

    def ladder(self) -> Ladder:
        """Return allocations from the dense model to the smallest, each faster by the table or narrower."""
        if self.how == "latency":
            return latency_ladder(self.latency(self.dense_ms()), self.progress)
        rungs = self.searcher.uniform
        return Ladder([_harm(rung.ratio) for rung in rungs], lambda index: Rung(rungs[index]))

    def latency(self, dense_ms: float) -> LatencySearcher:
        """Return what finds every unit's width by its own time and loss."""
        return LatencySearcher(self.searcher, self.profiler, self.prober, self._limiter, dense_ms, self.options)

    @property
    def _limiter(self) -> Limiter:
        holders: Mapping[str, Holder | Unheld] = {}
        if self.budget.limits.memory_bytes is not None:
            holders = self.profiler.holders
        return Limiter(self.searcher, self.budget.limits, holders)

    def dense_ms(self) -> float:
        """Time the dense model by itself, once: budgets in milliseconds start from it."""
        dense, bench = self.searcher.dense_artifact, self.searcher.bench

        def compute() -> float:
            with self.progress.step("time the dense model"):
                return bench.time({"dense": dense.path}).models["dense"].p50_ms

        depends = {"dense": dense.sha256, "target": bench.key()}
        return float(self.searcher.rundir.json_step("dense-latency", depends, compute, measured=True))


def _harm(ratio: float) -> float:
    """Return what one ratio for all widths is expected to lose, relative: the square of what goes over what stays.

    A judgement by what EfficientNet-Lite0 lost in one shot (docs/evidence.md, smaller widths, one ratio): at 0.75, 0.5
    and 0.35 of the multiply-accumulates about 0 to 1, 2 to 13 and 10 to 40 points.
    """
    return float(((1 - ratio) / max(ratio, _LEAST_RATIO)) ** 2)
