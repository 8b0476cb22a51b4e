"""Widths for a device that is not at hand, by a latency table from elsewhere: an estimate, never a result.

The table predicts the whole model by a straight line through the dense one. A folder that came back from its device
tells what the dense and the compressed model really took there, and corrects that line, as the loop does with every
measurement (`taco.latency.rounds`). Without one, the dense time is that of the profiled model with its own head.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from taco.errors import BudgetInfeasibleError, InputError
from taco.files import sha256_of
from taco.latency.levels import dense
from taco.latency.rounds import AIM, Line, Options, within
from taco.latency.table import LatencyTable, read_table
from taco.latency_search import LatencySearcher, choice_json, profile_json
from taco.options import ExportOptions
from taco.probes import Prober
from taco.profiling import Profiler
from taco.progress import Progress
from taco.report.read import read_report
from taco.report.schema import Report
from taco.search import Budget, Searcher


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
        searcher: Holds the solutions; times nothing here.
        profiler: Knows the units; times nothing here.
        prober: Cuts units and looks at the answers.
        file: The latency table.
        feedback: Folder that came back from its device; None without.
    """

    searcher: Searcher
    profiler: Profiler
    prober: Prober
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
                    f"Make one: taco profile --model {profiler.name} --target {profiler.target.name} --device URL",
                )
        return table

    def find(self, budget: Budget, progress: Progress) -> dict[str, Any]:
        """Find the widths; returns JSON values as `LatencySearcher.find` does, without rounds, with `estimate`.

        Raises:
            InputError: The table or what came back does not fit this run.
            BudgetInfeasibleError: By the table no widths are fast enough.
        """
        table = self.table()
        loop = LatencySearcher(self.searcher, self.profiler, self.prober, table.dense_ms)
        probed = loop.probed(progress)
        chosen = loop.currency(probed)
        options = loop.options(table, loop.losses(probed), chosen.currency)
        report = None if self.feedback is None else self._came_back(self.feedback, table)
        dense_ms, line = _line(options, table, report)
        budget_ms = dense_ms / budget.speedup if budget.speedup is not None else float(budget.latency_ms or dense_ms)
        choice = within(options, line, AIM * budget_ms)
        predicted = line.predict(choice.table_ms)
        if predicted > budget_ms:
            raise BudgetInfeasibleError(
                f"{budget_ms:.3g} ms cannot be reached by inner widths, by the table {self.file.name}: the fastest "
                f"model is estimated at {predicted:.3g} ms, the dense one at {dense_ms:.3g} ms",
                f"Ask for --latency-ms {predicted:.3g} or more, or choose a smaller --model",
            )
        return {
            "candidates": [dataclasses.asdict(loop.allocation(choice))],
            "choices": [[{**unit, "source": "estimated"} for unit in choice_json(options, choice)]],
            "budget_ms": budget_ms,
            "rounds": [],
            "profile": profile_json(table, options),
            "currency": dataclasses.asdict(chosen),
            "estimate": {
                "dense_ms": dense_ms,
                "compressed_ms": predicted,
                "device": _device(table),
                "corrected": report is not None,
                "stand_in": table.stand_in or _is_stand_in(report),
            },
        }

    def _came_back(self, folder: Path, table: LatencyTable) -> Report:
        """Read what a folder found on its device.

        Raises:
            InputError: It has not run there, or is of another model, precision or runtime.
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
                raise InputError(f"--feedback {folder} is of another {what} ({there}) than this run ({here})")
        known = {layer.unit for layer in report.layers}
        if missing := sorted(set(table.units) - known):
            raise InputError(f"--feedback {folder} knows no unit {missing[0]!r}", "Give a folder of the same --model")
        return report


def _line(options: Options, table: LatencyTable, report: Report | None) -> tuple[float, Line]:
    """Return the dense model's time and the line that predicts, milliseconds."""
    at_dense = dense(options).table_ms
    if report is None or report.latency_ms is None or report.speedup is None:
        return table.dense_ms, Line.through(at_dense, table.dense_ms, 1.0)
    dense_ms = report.latency_ms.dense.p50
    kept = {layer.unit: layer.kept for layer in report.layers}
    at_kept = sum(table.units[name].at(kept[name]).p50_ms for name in options)
    points = [(at_dense, dense_ms), (at_kept, dense_ms / report.speedup)]
    return dense_ms, Line.fit(points if at_kept < at_dense else points[:1], dense_ms / table.dense_ms)


def _device(table: LatencyTable) -> str:
    told = table.key.device
    name = next((told[key] for key in ("hardware", "board", "processor") if told.get(key, "unknown") != "unknown"), "?")
    return f"{name}, {told['power_mode']}" if "power_mode" in told else name


def _is_stand_in(report: Report | None) -> bool:
    return report is not None and report.engines_run is not None and report.engines_run.hardware is None
