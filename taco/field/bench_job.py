"""`taco bench` as a whole: time a bundle on the devices, estimate a day's energy, and put it all into the report."""

from __future__ import annotations

import dataclasses
from typing import Any

from taco.address import Address
from taco.bundle import Bundle
from taco.errors import InputError
from taco.field.benching import BenchAsked, bench_bundle, bench_devices
from taco.metrics.energy import Duty, check_duty
from taco.report.read import read_report
from taco.summaries.unit_summary import add_to_report, unit_run, units_section, with_duty


@dataclasses.dataclass(frozen=True)
class BenchJob:
    """What is asked.

    Attributes:
        bundle: What is timed.
        addresses: Where; one, or several of one kind.
        asked: What is measured.
        day: A day's work, whose energy is estimated; None estimates nothing.
        command: The command line, for the report.
    """

    bundle: Bundle
    addresses: tuple[Address, ...]
    asked: BenchAsked
    day: Duty | None
    command: tuple[str, ...]


def check_day(
    frames_per_day: float | None, battery_wh: float | None, rest_w: float | None, active_w: float | None
) -> Duty | None:
    """Read what a day's work is.

    Raises:
        InputError: A figure is none, or one is given without the number of pictures.
    """
    if frames_per_day is None:
        given = {"battery-wh": battery_wh, "rest-w": rest_w, "active-w": active_w}
        if useless := [name for name, value in given.items() if value is not None]:
            raise InputError(f"--{useless[0]} needs a day's work", "Give --frames-per-day too, as in 2000")
        return None
    duty = Duty(frames_per_day, battery_wh, rest_w, active_w)
    check_duty(duty)
    return duty


def run_bench(job: BenchJob, *, into_report: bool) -> dict[str, Any]:
    """Measure.

    Args:
        job: What is asked.
        into_report: Whether the report in the bundle's folder gets it, and is drawn again.

    Returns:
        JSON values: of one device what `taco.field.benching.bench_bundle` tells, of several what `bench_devices` tells;
        beside that `duty` where a day's work was given, and `report`, the page, where it was drawn.

    Raises:
        BundleError: The folder holds no report to put it into.
        MeasurementError: No device could be measured.
    """
    if into_report:
        read_report(job.bundle.path)  # known before hours of work
    if len(job.addresses) == 1:
        found: dict[str, Any] = bench_bundle(job.bundle, job.addresses[0], job.asked)
        units = [found]
        slow: dict[str, float] = {}
    else:
        found = bench_devices(job.bundle, job.addresses, job.asked)
        units, slow = found["units"], (found["spread"] or {}).get("slow", {})
    section = units_section(job.bundle, [unit_run(unit) for unit in units], slow, job.command)
    if job.day is not None:
        section = with_duty(section, job.day)
        found["duty"] = {"unknown": section.no_duty} if section.duty is None else section.duty.model_dump(mode="json")
    if into_report:
        found["report"] = str(add_to_report(job.bundle.path, section).html)
    return found
