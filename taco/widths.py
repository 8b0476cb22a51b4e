"""Which way the widths of a run are found: by MACs, by one measured ratio, or unit by unit in the latency loop."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from taco.estimate import Estimator, estimated_by
from taco.latency_search import LatencySearcher
from taco.options import ExportOptions
from taco.probes import Prober
from taco.profiling import Profiler
from taco.progress import Progress
from taco.search import Budget, Searcher


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
        """Return what the report tells of the latency loop when candidate `number` was taken; None without the loop."""
        if "choices" not in self.values:
            return None
        return {**self.values, "allocation": self.values["choices"][number]}


@dataclasses.dataclass(frozen=True, eq=False)
class WidthSearch:
    """Everything that finding widths needs; results are stored in the searcher's run.

    Attributes:
        searcher: Judges one allocation.
        profiler: Times units; used by the loop alone.
        prober: Cuts units and compares answers; used by the loop alone.
        budget: What was asked.
        options: Of the run: how widths are found where a clock decides, and the table where none can.
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
        budget, allocation = self.budget, self.options.allocation
        looped = budget.timed and allocation == "latency"
        dense_ms = self._dense_ms() if looped or budget.latency_ms is not None else None
        asked = budget.speedup
        if dense_ms is not None and budget.latency_ms is not None:
            asked = dense_ms / budget.latency_ms
        how = "find the widths by MACs" if asked is None else f"find the widths for {asked:.3g} times the speed"

        def find() -> dict[str, Any]:
            if looped and dense_ms is not None and asked is not None and asked > 1:
                loop = LatencySearcher(self.searcher, self.profiler, self.prober, dense_ms)
                table, probed = loop.table(self.progress), loop.probed(self.progress)
                with self.progress.step(how) as advance:
                    return loop.find(asked, table, probed, advance)
            with self.progress.step(how) as advance:
                return self.searcher.find(dataclasses.replace(budget, speedup=asked), advance)

        depends = {
            "dense": self.searcher.dense_artifact.sha256,
            "budget": dataclasses.asdict(budget),
            "allocation": allocation,
            "target": self.searcher.bench.key(),
        }
        return Found(self.searcher.rundir.json_step("widths", depends, find, measured=budget.timed), asked)

    def _estimated(self, table: Path) -> Found:
        """Find the widths by a table from elsewhere: no clock here can decide."""
        estimator = Estimator(self.searcher, self.profiler, self.prober, table, self.options.feedback)

        def find() -> dict[str, Any]:
            with self.progress.step("find the widths by the latency table"):
                return estimator.find(self.budget, self.progress)

        depends = {
            "dense": self.searcher.dense_artifact.sha256,
            "budget": dataclasses.asdict(self.budget),
            "target": self.searcher.bench.key(),
            "estimated_by": estimated_by(self.options),
        }
        return Found(self.searcher.rundir.json_step("estimated-widths", depends, find), None)

    def _dense_ms(self) -> float:
        """Time the dense model by itself, once: budgets in milliseconds start from it."""
        dense, bench = self.searcher.dense_artifact, self.searcher.bench

        def compute() -> float:
            with self.progress.step("time the dense model"):
                return bench.time({"dense": dense.path}).models["dense"].p50_ms

        depends = {"dense": dense.sha256, "target": bench.key()}
        return float(self.searcher.rundir.json_step("dense-latency", depends, compute, measured=True))
