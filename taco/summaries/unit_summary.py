"""What a report says of devices that were measured beside each other: from measurements to `report.json`."""

from __future__ import annotations

import datetime
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from taco.bundle import Bundle
from taco.metrics.energy import METER, Duty, Power, estimate
from taco.report import parts
from taco.report.device_schema import SustainedMinute
from taco.report.read import read_report
from taco.report.schema import Report
from taco.report.units_schema import DutySection, Ratio, ThreadsTime, UnitRun, UnitsSection
from taco.report.write import ReportPaths, write_report
from taco.timing.spread import differences


def unit_run(found: Mapping[str, Any]) -> UnitRun:
    """Make a record of what `taco.field.benching` tells of one device."""
    address = str(found["device"])
    if "problem" in found:
        return UnitRun(address=address, problem=found["problem"])
    if found["emulated"]:
        return UnitRun(address=address, emulated=found["emulated"], board=found["board"])
    models = found["models"]
    rest = found["rest"] or {"watts": None, "source": None}
    shown = models["compressed"]
    return UnitRun(
        address=address,
        board=found["board"],
        runtime=shown["runtime"],
        provider=shown["provider"],
        threads=found["threads"],
        models={name: _latency(model) for name, model in models.items()},
        speedup=None
        if found["speedup"] is None
        else Ratio(**{k: found["speedup"][k] for k in ("value", "low", "high")}),
        cold_ms={name: model["cold"] for name, model in models.items()},
        idle_ms=found["idle_ms"],
        sustained=[sustained_minute(minute) for minute in found["sustained"]],
        sweep=[ThreadsTime(**point) for point in found["sweep"]],
        rest_w=rest["watts"],
        rest_source=rest["source"],
        measured_on=found["measured_on"],
        unstable=found["unstable"],
        repeated=found["repeated"],
    )


def units_section(
    bundle: Bundle, units: Sequence[UnitRun], slow: Mapping[str, float], command: Sequence[str]
) -> UnitsSection:
    """Put the records of devices together.

    Args:
        bundle: What was timed.
        units: One a device.
        slow: Address -> how many times the others' median it takes, of the slow ones (`taco.timing.spread`).
        command: What measured them.
    """
    return UnitsSection(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        command=list(command),
        model_sha256=bundle.manifest.files[bundle.manifest.model_file].sha256,
        units=with_slow(units, slow),
    )


def with_slow(units: Sequence[UnitRun], slow: Mapping[str, float]) -> list[UnitRun]:
    """Mark the slow devices, and say in what they differ from the others."""
    states = {unit.address: unit.measured_on for unit in units if unit.measured_on is not None}
    marked = []
    for unit in units:
        if unit.address in slow and unit.measured_on is not None:
            others = [state for address, state in states.items() if address != unit.address]
            told = {"slow": slow[unit.address], "differs": differences(unit.measured_on, others)}
            marked.append(unit.model_copy(update=told))
        else:
            marked.append(unit)
    return marked


def with_duty(section: UnitsSection, duty: Duty) -> UnitsSection:
    """Add what a day of work needs, or why that is unknown.

    Raises:
        InputError: A day is too short for so many pictures.
    """
    unit = next((u for u in section.units if u.measured and _power(u) is not None), None)
    unit = unit or next((u for u in section.units if u.measured), None)
    if unit is None:
        return section.model_copy(update={"duty": None, "no_duty": "no device was timed"})
    active = Power(duty.active_w, METER) if duty.active_w is not None else _power(unit)
    rest = Power(duty.rest_w, METER) if duty.rest_w is not None else _rest(unit)
    lacking = [name for name, power in (("at work", active), ("between pictures", rest)) if power is None]
    if active is None or rest is None:
        why = (
            f"{unit.address} does not tell its power {' or '.join(lacking)}: measure with --sustained 5m and --idle on "
            "a board that does, or read a meter and give --active-w and --rest-w"
        )
        return section.model_copy(update={"duty": None, "no_duty": why})
    picture_ms = statistics.median(unit.idle_ms) if unit.idle_ms else unit.models["compressed"].p50
    found = estimate(duty, picture_ms, rest, active)
    made = DutySection(
        address=unit.address,
        frames_per_day=duty.frames_per_day,
        battery_wh=duty.battery_wh,
        picture_ms=picture_ms,
        rest_w=rest.watts,
        active_w=active.watts,
        joules_per_frame=found.joules_per_frame,
        wh_per_day=found.wh_per_day,
        model_percent=found.model_percent,
        days=found.days,
        assumptions=list(found.assumptions),
    )
    return section.model_copy(update={"duty": made, "no_duty": None})


def add_to_report(folder: Path, section: UnitsSection) -> ReportPaths:
    """Put what was measured into the report of a run, in place of an earlier measurement, and draw it again.

    Raises:
        BundleError: There is no report.
    """
    return write_report(with_units(read_report(folder), section), folder)


def with_units(report: Report, section: UnitsSection) -> Report:
    """Return the report with these devices; what the export itself measured is what was promised of them."""
    promised = None if report.latency_ms is None else report.latency_ms.compressed.p50
    return report.model_copy(update={"units": section.model_copy(update={"promised_ms": promised})})


def _power(unit: UnitRun) -> Power | None:
    """Return the mean power over the minutes of work that were read."""
    read = [(m.power_w, m.power_source) for m in unit.sustained if m.power_w is not None and m.power_source is not None]
    return Power(statistics.fmean(watts for watts, _ in read), read[0][1]) if read else None


def _rest(unit: UnitRun) -> Power | None:
    if unit.rest_w is None or unit.rest_source is None:
        return None
    return Power(unit.rest_w, unit.rest_source)


def sustained_minute(found: Mapping[str, Any]) -> SustainedMinute:
    """Make a record of a minute of work, out of `taco.field.benching.told_minute`."""
    return SustainedMinute(
        minute=found["minute"],
        n=found["n"],
        p50=found["p50_ms"],
        p90=found["p90_ms"],
        package_w=found["package_w"],
        conditions=found["conditions"],
        seconds=found["seconds"],
        temperature_c=found["temperature_c"],
        clock_mhz=found["clock_mhz"],
        power_w=found["watts"],
        power_source=found["power_source"],
        joules=found["joules"],
    )


def _latency(model: Mapping[str, Any]) -> parts.Latency:
    return parts.Latency(
        n=model["n"],
        min=model["min"],
        p50=model["p50"],
        p90=model["p90"],
        p99=model["p99"],
        samples=[round(sample, 4) for samples in model["rounds_ms"] for sample in samples],
    )
