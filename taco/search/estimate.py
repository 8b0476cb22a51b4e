"""Widths for a device that is not at hand, by a latency table from elsewhere: an estimate, never a result.

The table predicts the whole model by a straight line through the dense one. A folder that came back from its device
tells what the dense and the compressed model really took there, and corrects that line, as the loop does with every
measurement (`taco.latency.rounds`). Without one, the dense time is that of the profiled model with its own head.
Blocks that may be left out, limits beside the budget and a search of whole models take part as in the loop: none of
them asks a clock.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from taco.errors import BudgetInfeasibleError, InputError
from taco.files import sha256_of
from taco.latency.levels import Drops
from taco.latency.limits import Space
from taco.latency.rounds import AIM, Line, within
from taco.latency.table import LatencyTable, read_table
from taco.latency.together import total_ms
from taco.latency.wholes import known_wholes, left_ms, saved_share
from taco.options import ExportOptions
from taco.progress import Progress
from taco.report.read import read_report
from taco.report.schema import Report
from taco.search.budget import Budget
from taco.search.latency_search import (
    LatencySearcher,
    Offered,
    levels_as_json,
    profile_as_json,
)
from taco.search.limiting import Searched, within_limits
from taco.search.profiling import Profiler
from taco.search.unit_losses import allocation_of
from taco.search.with_or_without import with_or_without


def estimated_by(options: ExportOptions) -> dict[str, str] | None:
    """Return the hashes of what an estimate rests on; None where a clock or MACs decide.

    Raises:
        InputError: A file cannot be read.
    """
    if options.latency_table is None:
        return None
    files = {"table": options.latency_table}
    if options.feedback is not None:
        files["feedback"] = options.feedback / "report.json"
    try:
        return {name: sha256_of(file) for name, file in files.items()}
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read: {error.strerror}", "Check the path") from error


@dataclasses.dataclass(frozen=True, eq=False)
class Estimator:
    """Everything that an estimate needs.

    Attributes:
        profiler: Knows the units; times nothing here.
        loop: Dense milliseconds -> what knows losses, blocks and limits; times nothing here.
        file: The latency table.
        feedback: Folder that came back from its device; None without.
    """

    profiler: Profiler
    loop: Callable[[float], LatencySearcher]
    file: Path
    feedback: Path | None = None

    def table(self) -> LatencyTable:
        """Return the table.

        Raises:
            InputError: It cannot be read, or is of another model, runtime, precision or set of widths.
        """
        table, profiler = read_table(self.file), self.profiler
        pairs = (
            ("model", table.key.model, profiler.name),
            ("runtime", table.key.runtime, profiler.target.runtime),
            ("precision", table.key.precision, profiler.target.precision),
            ("widths or input size", table.key.architecture, profiler.architecture),
        )
        for what, there, here in pairs:
            if there != here:
                raise InputError(
                    f"the latency table {self.file} is of another {what} ({there}) than this run ({here})",
                    f"Make one: taco profile --model {profiler.name} --target {profiler.target.name} --device URL, or "
                    "with --into FOLDER for a Jetson that is not attached",
                )
        return table

    def find(self, budget: Budget, progress: Progress) -> dict[str, Any]:
        """Find the widths; returns JSON values as `LatencySearcher.find` does, without rounds, with `estimate`.

        Raises:
            InputError: The table or what came back does not fit this run.
            BudgetInfeasibleError: By the table no widths are fast enough, or a limit cannot be held.
        """
        table = self.table()
        report = None if self.feedback is None else self._came_back(self.feedback, table)
        loop = self.loop(table.dense_ms)
        offered = loop.offered(progress, table)
        space = offered.space
        dense_ms, budget_ms, line = _line(space, table, report, budget)
        found, blocks = self._searched(loop, offered, line, (dense_ms, budget_ms))
        choice = found.choices[0]
        return {
            "candidates": [dataclasses.asdict(allocation_of(loop.searcher, choice))],
            "choices": [[{**unit, "source": "estimated"} for unit in levels_as_json(space, choice)]],
            "budget_ms": budget_ms,
            "rounds": [],
            "profile": profile_as_json(table, space.options),
            "currency": dataclasses.asdict(offered.chosen),
            "blocks": blocks,
            "limits": [dataclasses.asdict(held) for held in found.held],
            "search": loop.told(found.sought),
            "estimate": {
                "dense_ms": dense_ms,
                "compressed_ms": line.predict(choice.table_ms),
                "device": _device(table),
                "corrected": report is not None,
                "stand_in": table.stand_in or _is_stand_in(report),
            },
        }

    def _searched(
        self, loop: LatencySearcher, offered: Offered, line: Line, times: tuple[float, float]
    ) -> tuple[Searched, dict[str, Any] | None]:
        """Return the choice within a time, and what the report tells of blocks.

        Args:
            loop: Knows losses and limits.
            offered: What may be chosen.
            line: Predicts the whole model.
            times: The dense model's and the budget, milliseconds. A dense model that is within it stays dense, unless
                a limit is asked.
        """
        dense_ms, budget_ms = times
        enough = dense_ms <= budget_ms
        aim_ms = dense_ms * (1 + 1e-9) if enough else AIM * budget_ms
        drops = offered.space.drops

        def attempt(space: Space) -> Searched:
            choice = within(space, line, aim_ms)
            predicted = line.predict(choice.table_ms)
            if not enough and predicted > budget_ms:
                raise BudgetInfeasibleError(
                    f"{budget_ms:.3g} ms cannot be reached by inner widths and blocks, by the table {self.file.name}: "
                    f"the fastest model is estimated at {predicted:.3g} ms, the dense one at {dense_ms:.3g} ms",
                    f"Ask for {reachable(loop.how, predicted, dense_ms)}, or choose a smaller --model",
                )
            if loop.how.search == "dp":
                return Searched((choice,), ())
            sought = loop.search(space, max(line.invert(aim_ms), choice.table_ms * (1 + 1e-9)))
            return Searched((sought.choice,), (), sought=sought)

        def search(blocks: Drops) -> Searched:
            return within_limits(loop.limiter, dataclasses.replace(offered.space, drops=blocks), attempt)

        if enough and not loop.limiter.asked:
            return Searched((offered.space.dense(),), ()), None
        found, blocks = with_or_without(search, drops, loop.harm, offered.probed)
        return found, blocks

    def _came_back(self, folder: Path, table: LatencyTable) -> Report:
        """Read what a folder found on its device.

        Raises:
            InputError: It has not run there, or is of another model or precision.
        """
        report, target = read_report(folder), self.profiler.target
        if report.latency_ms is None or report.speedup is None:
            raise InputError(
                f"--feedback {folder}: nothing was timed there yet", "Run it on its device first, and copy it back"
            )
        for what, there, here in (
            ("model", report.model.name, table.key.model),
            ("precision", report.runtime.precision, target.precision),
        ):
            if there != here:
                raise InputError(
                    f"--feedback {folder} is of another {what} ({there}) than this run ({here})",
                    "Give a folder of the same --model whose device used that precision: one that gave INT8 up counts "
                    "as FP16",
                )
        known = {layer.unit for layer in report.layers}
        if missing := sorted(set(table.units) - known):
            raise InputError(f"--feedback {folder} knows no unit {missing[0]!r}", "Give a folder of the same --model")
        return report


def reachable(asked: ExportOptions, fastest_ms: float, dense_ms: float) -> str:
    """Return what may be asked instead, with the flag that was used."""
    if asked.speedup is not None:
        return f"--speedup {math.floor(1000 * dense_ms / fastest_ms) / 1000:g} or less"
    return f"--latency-ms {math.ceil(1000 * fastest_ms) / 1000:g} or more"


def _line(space: Space, table: LatencyTable, report: Report | None, budget: Budget) -> tuple[float, float, Line]:
    """Return the dense model's time, the budget, and the line that predicts, milliseconds."""
    there = None if report is None or report.latency_ms is None else report.latency_ms
    dense_ms = table.dense_ms if there is None else there.dense.p50
    budget_ms = dense_ms / budget.speedup if budget.speedup is not None else float(budget.latency_ms or dense_ms)
    known = known_wholes(table, space.options, dense_ms, space.together)
    if report is not None and there is not None and report.speedup is not None:
        at_kept = _at(space, table, {layer.unit: layer.kept for layer in report.layers})
        if at_kept < known.wholes[0][0]:  # of this device and kind of choice: with dense it tells the slope
            return dense_ms, budget_ms, Line.fit([known.wholes[0], (at_kept, dense_ms / report.speedup)], known.scale)
    return dense_ms, budget_ms, known.line(AIM * budget_ms)


def _at(space: Space, table: LatencyTable, kept: Mapping[str, int]) -> float:
    """Return what the table says of widths, as `Choice.table_ms` counts: of a block that is left out what stays.

    Args:
        space: Only its units count.
        table: Times.
        kept: Unit -> width; 0 for all units of a block that is left out.
    """
    stays, gone = dict[str, float](), dict[str, dict[str, float]]()
    for name, levels in space.options.items():
        if kept[name]:
            stays[name] = table.units[name].at(kept[name]).p50_ms
        else:
            gone.setdefault(table.units[name].holder, {})[name] = levels[0].ms
    share = saved_share(table, space.options, space.together)
    left = (left_ms(times, share, space.together) for times in gone.values())
    return total_ms(stays, space.together) + math.fsum(left)


def _device(table: LatencyTable) -> str:
    told = table.key.device
    name = next((told[key] for key in ("hardware", "board", "processor") if told.get(key, "unknown") != "unknown"), "?")
    return f"{name}, {told['power_mode']}" if "power_mode" in told else name


def _is_stand_in(report: Report | None) -> bool:
    return report is not None and report.engines_run is not None and report.engines_run.hardware is None
