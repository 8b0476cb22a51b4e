"""Which way the widths of a run are found: by one ratio, or unit by unit; by MACs, or on measured latency."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from taco.latency_search import LatencySearcher, probed_once
from taco.limiting import Limiter
from taco.macs_search import MacsSearcher
from taco.micromodels import Holder, Unheld
from taco.probes import Probed, Prober
from taco.profiling import Profiler
from taco.progress import Progress
from taco.search import Budget, How, Searcher


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """What a search found.

    Attributes:
        values: JSON values, see `Searcher.find` and `LatencySearcher.find`.
        asked: Dense time over the budget; None where no clock decided.
    """

    values: Mapping[str, Any]
    asked: float | None

    def loop(self, number: int) -> dict[str, Any] | None:
        """Return what the report tells of a search unit by unit when candidate `number` was taken; None without one."""
        if "currency" not in self.values:
            return None
        choices = self.values.get("choices")
        return {**self.values, "allocation": choices[number] if choices else []}


@dataclasses.dataclass(frozen=True, eq=False)
class WidthSearch:
    """Everything that finding widths needs; results are stored in the searcher's run.

    Attributes:
        searcher: Judges one allocation.
        profiler: Times units; used by the loop alone.
        prober: Cuts units and compares answers; not used for one ratio.
        budget: What was asked.
        allocation: How widths are found.
        progress: Told about every step.
    """

    searcher: Searcher
    profiler: Profiler
    prober: Prober
    budget: Budget
    allocation: How
    progress: Progress

    def find(self) -> Found:
        """Find the widths, or take what the run holds.

        Raises:
            BudgetInfeasibleError: The budget cannot be reached; says what can.
        """
        budget, looped = self.budget, self.budget.timed and self.allocation == "latency"
        dense_ms = self._dense_ms() if looped or budget.latency_ms is not None else None
        asked = budget.speedup
        if dense_ms is not None and budget.latency_ms is not None:
            asked = dense_ms / budget.latency_ms
        how = "find the widths by MACs" if asked is None else f"find the widths for {asked:.3g} times the speed"

        def find() -> dict[str, Any]:
            timed = dense_ms is not None and asked is not None and asked > 1
            if self.allocation == "uniform" or (budget.timed and not timed and not budget.limits):
                with self.progress.step(how) as advance:
                    return self.searcher.find(dataclasses.replace(budget, speedup=asked), advance)
            if not budget.cuts:
                return self.searcher.find(budget, lambda _: None)
            limiter = Limiter(self.searcher, budget.limits, self._holders(budget))
            if looped and timed and dense_ms is not None and asked is not None:
                loop = LatencySearcher(self.searcher, self.profiler, self.prober, limiter, dense_ms)
                table, probed = loop.table(self.progress), self._probed()
                with self.progress.step(how) as advance:
                    return loop.find(asked, table, probed, advance)
            probed = self._probed()
            with self.progress.step(how) as advance:
                return MacsSearcher(self.searcher, self.prober, limiter).find(budget.macs or 1.0, probed, advance)

        depends = {
            "dense": self.searcher.dense_artifact.sha256,
            "budget": dataclasses.asdict(budget),
            "allocation": self.allocation,
            "target": self.searcher.bench.key(),
        }
        return Found(self.searcher.rundir.json_step("widths", depends, find, measured=budget.timed), asked)

    def _holders(self, budget: Budget) -> Mapping[str, Holder | Unheld]:
        return {} if budget.limits.memory_bytes is None else self.profiler.holders

    def _probed(self) -> Probed:
        return probed_once(self.searcher, self.prober, self.progress)

    def _dense_ms(self) -> float:
        """Time the dense model by itself, once: budgets in milliseconds start from it."""
        dense, bench = self.searcher.dense_artifact, self.searcher.bench

        def compute() -> float:
            with self.progress.step("time the dense model"):
                return bench.time({"dense": dense.path}).models["dense"].p50_ms

        depends = {"dense": dense.sha256, "target": bench.key()}
        return float(self.searcher.rundir.json_step("dense-latency", depends, compute, measured=True))
