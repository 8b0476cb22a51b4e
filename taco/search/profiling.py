"""Profile a model on this machine: every unit at every width, timed beside the whole dense model.

Each unit has its own run of the device agent, in which all of its widths and the dense model take turns. A cell is the
median over rounds of its time over the dense model's, times the dense model's p50 of all runs: a machine that changes
its speed between two runs, or for seconds within one, changes both alike (RUNTIMES.md, Measuring).
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import logging
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from taco.device.probe import probe
from taco.device.runtimes import RUNTIMES
from taco.device.trt_units import DENSE
from taco.errors import MeasurementError
from taco.exporters.protocol import Exporter
from taco.latency.software import software_digest
from taco.latency.table import TIME_LIMIT, LatencyTable, TableKey, UnitCells, ZerosGain, device_words
from taco.progress import Progress
from taco.rundir import content_key
from taco.search.micrographs import MicroGraphs, Widths, Writer, export_zeros
from taco.search.micromodels import Holder, Unheld, find_holders, whole_widths, widths_of
from taco.search.settling import Limits, Settler, Timer
from taco.targets.loading import Target
from taco.timing.cells import cell, gains, wholes
from taco.timing.timings import BenchResult
from taco.units import UnitMap, steps_of

log = logging.getLogger(__name__)

#: Asked of a table of one pass over all units: whether that will do.
Enough = Callable[[LatencyTable], bool]

#: Of the time in which rounds are repeated: for the first pass over all units, before those in doubt are timed again.
_FIRST_SHARE = 0.5


@dataclasses.dataclass(frozen=True, slots=True)
class _Timed:
    """What one pass over all units gave: signature -> times, and its files; seconds that are left to repeat some."""

    results: Mapping[str, BenchResult]
    models: Mapping[str, Mapping[str, Path]]
    complete: bool
    left_s: float


@dataclasses.dataclass(frozen=True, eq=False)
class Profiler:
    """Everything that profiling needs.

    Attributes:
        model: Eval mode; not modified.
        found: Its units.
        input_size: (channels, height, width).
        name: Of the model.
        target: In the precision that is used.
        threads: Threads of the timed models; None is every physical core.
        exporter: Of the target's runtime.
        timer: Times models.
        limits: How long that may take.
        whole_timer: Times whole models as the loop does, with longer rounds, because what a model takes in its first
            runs after others is no part of it, and while the dense model takes what it usually does. None is `timer`.
        machine: What an attached device said about itself (`taco.device.probe`); None is this machine.
        clock: Seconds, from anywhere.
    """

    model: nn.Module
    found: UnitMap
    input_size: tuple[int, int, int]
    name: str
    target: Target
    threads: int | None
    exporter: Exporter
    timer: Timer
    limits: Limits
    whole_timer: Callable[[Mapping[str, Path], float], BenchResult] | None = None
    machine: Mapping[str, Any] | None = None
    clock: Callable[[], float] = time.monotonic

    @property
    def settler(self) -> Settler:
        """What times until it is sure."""
        return Settler(self.timer, self.limits.most_rounds, self.clock)

    @functools.cached_property
    def holders(self) -> Mapping[str, Holder | Unheld]:
        """What is timed for every unit that a run may cut."""
        return find_holders(self.model, self.found, self.input_size)

    @functools.cached_property
    def widths(self) -> Mapping[str, tuple[int, ...]]:
        """The widths at which every unit is timed, the widest first."""
        units = self.found.unit_by_unit
        steps = steps_of(units, self.target.channel_multiple)
        return {u.name: widths_of(u, steps[u.name]) for u in units}

    @functools.cached_property
    def timeable(self) -> tuple[str, ...]:
        """The units that can be timed."""
        return tuple(name for name, holder in self.holders.items() if isinstance(holder, Holder))

    @functools.cached_property
    def whole_widths(self) -> Mapping[str, Mapping[str, int]]:
        """The whole models that are timed: name -> unit -> width."""
        held: dict[str, list[str]] = {}
        for name, holder in self.holders.items():
            if isinstance(holder, Holder):
                held.setdefault(holder.name, []).append(name)
        blocks = {u.name: held[u.name] for u in self.found.of("block") if u.name in held}
        return whole_widths({name: self.widths[name] for name in self.timeable}, blocks)

    @functools.cached_property
    def graphs(self) -> MicroGraphs:
        """What writes the models that are timed."""
        held = {name: holder for name, holder in self.holders.items() if isinstance(holder, Holder)}
        widths, writer = Widths(self.widths, self.whole_widths), Writer(self.target, self.exporter)
        return MicroGraphs(self.model, self.input_size, self.found, held, widths, writer)

    @functools.cached_property
    def architecture(self) -> str:
        """Hash of the units, what holds them, the widths that are asked for, and the input size."""
        asked = {name: [_signature(holder), list(self.widths[name])] for name, holder in self.holders.items()}
        return content_key([asked, list(self.input_size)])

    @functools.cached_property
    def first(self) -> Mapping[str, str]:
        """What is timed, every different thing once: signature -> the first unit that it stands for."""
        found: dict[str, str] = {}
        for name, holder in self.holders.items():
            if isinstance(holder, Holder):
                found.setdefault(holder.signature, name)
        return found

    def key(self) -> TableKey:
        """Return the key of the table that profiling would make.

        The head is no part of it: it is never cut, and so one table serves every task with its own number of classes.

        Raises:
            MeasurementError: The target is not this machine, or its runtime is missing.
        """
        target, machine = self.target, self.machine or probe()
        if self.machine is None and (missing := self.exporter.check(target)):
            raise MeasurementError(f"{target.name} cannot be timed here: {'; '.join(missing)}", "Aim at this machine")
        return TableKey(
            device=device_words(machine),
            runtime=target.runtime,
            runtime_version=machine["runtimes"][RUNTIMES[target.runtime]]["version"],
            provider=target.provider,
            precision=target.precision,
            threads=1 if target.runtime == "trt" else self._threads(machine),
            model=self.name,
            architecture=self.architecture,
            software=software_digest(),
        )

    def _threads(self, machine: Mapping[str, Any]) -> int:
        return self.threads or self.target.threads or int(machine["cores_physical"])

    def lacks(self, table: LatencyTable) -> bool:
        """Whether a time limit cut a table short, or an earlier version timed other whole models with it."""
        has = [dict(whole.widths) for whole in table.wholes]
        return table.unfinished or has != [dict(widths) for widths in self.whole_widths.values()]

    def profile(
        self,
        folder: Path,
        progress: Progress,
        dense: Path | None = None,
        earlier: LatencyTable | None = None,
        enough: Enough | None = None,
    ) -> LatencyTable:
        """Time every unit at every width.

        Args:
            folder: For files that need not survive; the caller removes it.
            progress: Told about every different unit.
            dense: The exported dense model; None exports it.
            earlier: A table of the same key that lacks something: only that is timed. Its dense time stays the
                measure, so that old and new cells compare.
            enough: Asked once all units were timed, none in doubt again and no whole models: whether that will do.

        Raises:
            MeasurementError: Nothing can be timed here, or a measurement failed.
        """
        begin = self.clock()
        folder.mkdir(parents=True, exist_ok=True)
        if dense is None:
            dense = self.graphs.dense(folder, progress)
        known = {} if earlier is None else dict(earlier.units)
        share = _FIRST_SHARE if enough is None else _FIRST_SHARE / 2
        timed = self._time_units(folder, progress, dense, {unit.signature for unit in known.values()}, share)
        if not timed.results and not known:
            reasons = {h.reason for h in self.holders.values() if isinstance(h, Unheld)}
            raise MeasurementError(
                f"{self.name}: no unit can be timed by itself: {'; '.join(reasons) or 'it has none'}",
                "Give --allocation uniform: one ratio for all units needs no times of single ones",
            )
        if enough is not None and earlier is None:
            table = self._table(self.settler.calm(timed.results), None, begin)
            if not table.unfinished and enough(table):
                return table
        results, settled = self._surer(timed, progress)
        table = self._table(results, earlier, begin)
        zeros = table.zeros or self._zeros(folder, progress, dense, begin)
        usual_ms = min([table.dense_ms, *(result.models[DENSE].p50_ms for result in results.values())])
        complete = len(table.units) == len(self.timeable)
        whole = self._wholes(folder, progress, dense, begin, usual_ms) if complete else None
        unsure = not settled if results or earlier is None else earlier.stopped_early
        spent = 0.0 if earlier is None else earlier.seconds
        return table.model_copy(
            update={
                "seconds": spent + self.clock() - begin,
                "stopped_early": unsure,
                "zeros": zeros,
                "wholes": wholes(whole, self.whole_widths, table.dense_ms) if whole is not None else (),
            }
        )

    def _table(self, results: Mapping[str, BenchResult], earlier: LatencyTable | None, begin: float) -> LatencyTable:
        """Return the table of what was timed, without whole models and not known to be sure."""
        if earlier is None:
            samples = [ms for result in results.values() for ms in result.models[DENSE].samples_ms]
            dense_ms, dense_n = float(np.median(samples)), len(samples)
        else:
            dense_ms, dense_n = earlier.dense_ms, earlier.dense_n
        units = ({} if earlier is None else dict(earlier.units)) | self._cells(results, dense_ms)
        return LatencyTable(
            key=self.key(),
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            seconds=self.clock() - begin,
            stopped_early=True,
            dense_ms=dense_ms,
            dense_n=dense_n,
            units={name: units[name] for name in self.holders if name in units},
            skipped={
                name: holder.reason if isinstance(holder, Unheld) else TIME_LIMIT
                for name, holder in self.holders.items()
                if name not in units
            },
            zeros=() if earlier is None else earlier.zeros,
            wholes=(),
        )

    def _time_units(
        self, folder: Path, progress: Progress, dense: Path, known: Collection[str], share: float
    ) -> _Timed:
        """Time all widths of every signature not known, with such a share of the time in which rounds are repeated."""
        first = {signature: name for signature, name in self.first.items() if signature not in known}
        results, models, names = dict[str, BenchResult](), dict[str, dict[str, Path]](), list(first.values())
        begin, timing_s, repeat_s = self.clock(), 0.0, self.limits.repeat_s
        with progress.step("time every unit at every width", len(first)) as advance:
            for done, (signature, name) in enumerate(first.items()):
                if self.clock() - begin > self.limits.max_seconds:
                    log.warning("%d of %d different units are left out: the time limit", len(first) - done, len(first))
                    break
                files = self.graphs.unit(name, folder / signature, names[done + 1 :])
                models[signature] = {DENSE: dense, **files}
                began = self.clock()
                share_s = (share * repeat_s - timing_s) / (len(first) - done)
                results[signature] = self.settler.settle(models[signature], share_s)
                timing_s += self.clock() - began
                advance(1)
        return _Timed(results, models, len(results) == len(first), repeat_s - timing_s)

    def _surer(self, timed: _Timed, progress: Progress) -> tuple[dict[str, BenchResult], bool]:
        """Time again what is in doubt; returns calm rounds, and whether all intervals are small."""
        results: Mapping[str, BenchResult] = timed.results
        if self.settler.matters(results):
            with progress.step("time units again that are in doubt"):
                results = self.settler.again(results, timed.models, self.clock() + timed.left_s)
        return self.settler.calm(results), timed.complete and self.settler.settled(results)

    def _zeros(self, folder: Path, progress: Progress, dense: Path, begin: float) -> tuple[ZerosGain, ...]:
        """Time the dense model with zeros in its weights against itself."""
        if self.clock() - begin > self.limits.max_seconds:
            return ()
        share_s = self.limits.repeat_s / len(self.first)
        with progress.step("time the dense model with zeros in its weights"):
            result = self.settler.settle({DENSE: dense, **export_zeros(dense, folder)}, share_s)
        return gains(result)

    def _wholes(
        self, folder: Path, progress: Progress, dense: Path, begin: float, usual_ms: float
    ) -> BenchResult | None:
        """Time whole models that are smaller; None where there is no time or nothing smaller."""
        if self.clock() - begin > self.limits.max_seconds or not self.whole_widths:
            return None
        with progress.step("time smaller whole models"):
            models = {DENSE: dense, **self.graphs.wholes(folder)}
            return self.timer(models, 0.0) if self.whole_timer is None else self.whole_timer(models, usual_ms)

    def _cells(self, results: Mapping[str, BenchResult], dense_ms: float) -> dict[str, UnitCells]:
        kinds = {u.name: u.kind for u in self.found.unit_by_unit}
        return {
            name: UnitCells(
                kind=kinds[name],
                holder=holder.name,
                signature=holder.signature,
                cells=tuple(cell(results[holder.signature], width, dense_ms) for width in self.widths[name]),
            )
            for name, holder in self.holders.items()
            if isinstance(holder, Holder) and holder.signature in results
        }


def _signature(holder: Holder | Unheld) -> str:
    return holder.signature if isinstance(holder, Holder) else f"not timed: {holder.reason}"
