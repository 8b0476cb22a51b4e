"""What a run's report says of the other attached devices: their times and answers beside those of the first one."""

from __future__ import annotations

import datetime
import statistics
from collections.abc import Sequence

from taco.field.benching import told
from taco.field.device_judge import OnDevice
from taco.field.fleet_job import UnitResult
from taco.pipeline import Finished
from taco.report.units_schema import DeviceAnswers, UnitRun, UnitsSection
from taco.summaries.accuracy_section import proportion
from taco.summaries.unit_summary import unit_run, with_slow
from taco.timing.spread import spread
from taco.timing.timings import BenchResult


def fleet_section(done: Finished, command: Sequence[str]) -> UnitsSection | None:
    """Put the devices beside each other, the first one first; None where one or none was named."""
    first, missing = done.plan.device, done.plan.others.missing
    if first is None or not (done.units or missing):
        return None
    lead = UnitResult(first.address.text, first, done.bench, done.on_device)
    results = {unit.address: unit for unit in (lead, *done.units)}
    rounds = {address: _medians(unit.bench) for address, unit in results.items() if unit.bench is not None}
    apart = spread(rounds)
    units = [_unit(unit, done, leads=unit is lead) for unit in results.values()]
    units += [UnitRun(address=address, problem=str(failed)) for address, failed in missing.items()]
    return UnitsSection(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        command=list(command),
        model_sha256=done.compressed.shipped.sha256,
        units=with_slow(units, {} if apart is None else apart.slow),
    )


def fleet_warnings(done: Finished) -> list[str]:
    """Name the devices that could not be asked, and those whose answers are not trusted."""
    found = [f"{address} took no part: {failed}" for address, failed in done.plan.others.missing.items()]
    for unit in done.units:
        if unit.failed is not None:
            found.append(f"{unit.address} took no part: {unit.failed}")
        if unit.gate is not None and unit.gate.passed is False:
            found.append(
                f"{unit.address} is wrong more often than this machine with the same file ({unit.gate.measured}, "
                f"allowed: {unit.gate.limit}): it was not given the bundle"
            )
    return found


def _unit(unit: UnitResult, done: Finished, *, leads: bool) -> UnitRun:
    device = unit.device
    facts = {"device": unit.address, "emulated": device.emulated, "board": device.board}
    if unit.failed is not None:
        return UnitRun(address=unit.address, board=device.board, problem=str(unit.failed))
    answers = None if unit.answers is None else _answers(unit.answers, unit, done)
    if unit.bench is None:
        return UnitRun(address=unit.address, board=device.board, emulated=device.emulated, leads=leads, answers=answers)
    return unit_run({**facts, **told(unit.bench)}).model_copy(update={"leads": leads, "answers": answers})


def _answers(found: OnDevice, unit: UnitResult, done: Finished) -> DeviceAnswers:
    here, there = found.scores(done.material.task.classes)
    return DeviceAnswers(
        images=len(found.labels),
        same=found.same,
        here=proportion(here.top1),
        there=proportion(there.top1),
        passed=True if unit.gate is None else unit.gate.passed,
    )


def _medians(bench: BenchResult) -> list[float]:
    return [statistics.median(samples) for samples in bench.models["compressed"].rounds_ms]
