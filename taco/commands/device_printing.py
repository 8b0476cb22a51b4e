"""What the commands about devices print."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from taco.commands.printing import note
from taco.device.trt_preflight import NOT_HARDWARE

if TYPE_CHECKING:
    from taco.attached.ondevice import Deployed, Device

_SHOWN = (
    *(("device", "device"), ("board", "board"), ("processor", "processor"), ("os", "system"), ("machine", "machine")),
    *(("jetpack", "JetPack"), ("python", "Python"), ("cores_physical", "cores"), ("memory_total_mib", "memory, MiB")),
    *(("disk_free_mib", "disk free, MiB"), ("emulated", "EMULATED")),
)

_MOST_OPERATORS = 15


def examined(found: Mapping[str, Any]) -> None:
    """Print what `taco devices doctor` found."""
    console = Console(soft_wrap=True)
    state = found.get("telemetry") or {}
    rows = [(label, found.get(key)) for key, label in _SHOWN]
    rows += [("governor", state.get("governor")), ("power mode", state.get("power_mode"))]
    rows += [(name, entry["version"]) for name, entry in found["runtimes"].items()]
    for label, value in rows:
        if value not in (None, "", "unknown"):
            console.print(Text(f"{label:<16}", style="bold") + Text(str(value)), highlight=False)
    for lack in found["missing"]:
        line = Text("missing         ", style="bold red") + Text(f"{lack['what']} ({lack['why']})")
        console.print(line, highlight=False)
        console.print(Text("  do this:      ") + Text(lack["command"]), highlight=False)
    if not found["missing"]:
        console.print(Text("Nothing is missing.", style="green"))


def deployed(device: Device, done: Deployed) -> None:
    """Say on stderr what to run on the device."""
    if done.before is not None and done.before != Path(done.folder).name:
        note(f"It takes the place of {done.before}; back: taco deploy --rollback --device {device.address.text}")
    agent = shlex.join([str(device.probe["executable"]), f"{done.current}/agent.pyz"])
    current = shlex.quote(str(done.current))
    note(f"Name pictures on {device.name}: {agent} predict {current} PICTURES")
    note(f"Name new pictures as they arrive: {agent} watch {current} PICTURES RESULTS")
    note(f"At every start of the device: see {done.unit} there")


def benched_all(found: Mapping[str, Any]) -> None:
    """Print what `taco bench` measured: on one device everything, on several one line a device and the spread."""
    if "units" in found:
        _benched_units(found)
    else:
        benched(found)
    console = Console(soft_wrap=True)
    if (duty := found.get("duty")) is not None:
        for line in _day(duty):
            console.print(line, highlight=False, markup=False)
    if "report" in found:
        console.print(f"report {found['report']}", highlight=False, markup=False)


def _benched_units(found: Mapping[str, Any]) -> None:
    from taco.report.wording import factor

    console = Console(soft_wrap=True)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("DEVICE", "BOARD", "P50 ms", "P90 ms", "AFTER IDLE ms", "SPEED-UP"):
        table.add_column(column, overflow="fold")
    for unit in found["units"]:
        if not unit.get("models"):
            why = unit.get("problem") or f"emulated ({unit['emulated']}): no time is shown"
            table.add_row(Text(unit["device"]), Text(f"NOT MEASURED: {why}", style="bold red"), "", "", "", "")
            continue
        shown, speedup, idle = unit["models"]["compressed"], unit["speedup"], unit["idle_ms"]
        gained = "" if speedup is None else f"{speedup['value']:.2f}"
        after = f"{statistics.median(idle):.2f}" if idle else ""
        times = (f"{shown['p50']:.2f}", f"{shown['p90']:.2f}", after, gained)
        table.add_row(Text(unit["device"]), Text(unit["board"]), *times)
    console.print(table)
    apart = found["spread"]
    if apart is not None:
        told = f"{apart['slowest']} is the slowest: {factor(apart['ratio'])} the time of {apart['fastest']}"
        console.print(told, highlight=False, markup=False)
        for device, times_as_long in apart["slow"].items():
            note(f"SLOW: {device} takes {factor(times_as_long)} what the others take")
    for unit in found["units"]:
        for reason in unit.get("unstable", ()):
            note(f"UNSTABLE: {unit['device']}: {reason}")


def _day(duty: Mapping[str, Any]) -> Iterator[str]:
    if "unknown" in duty:
        yield f"energy of a day: unknown. {duty['unknown']}"
        return
    days = "" if duty["days"] is None else f"; {duty['days']:.1f} days on {duty['battery_wh']:g} Wh"
    yield (
        f"a day of {duty['frames_per_day']:g} pictures needs {duty['wh_per_day']:.2f} Wh, "
        f"{duty['model_percent']:.1f} % of it for the model ({duty['joules_per_frame']:.3g} J a picture){days}. "
        "AN ESTIMATE, which assumes:"
    )
    yield from (f"  - {assumption}" for assumption in duty["assumptions"])


def benched(found: Mapping[str, Any]) -> None:
    """Print what one device did."""
    console = Console(soft_wrap=True)
    if found["emulated"]:
        console.print(
            Text(
                f"NOT A MEASUREMENT: this device is emulated ({found['emulated']}); no time is shown", style="bold red"
            )
        )
        return
    told = (found["measured_on"].get(key) for key in ("board", "processor"))
    where = next((word for word in told if word not in (None, "", "unknown")), found["device"])
    console.print(Text(f"measured on {where}"), highlight=False)
    if found["measured_on"].get("hardware") == NOT_HARDWARE:
        console.print(Text(f"{NOT_HARDWARE}: these are times of a stand-in", style="bold red"), highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("MODEL", "P50 ms", "P90 ms", "MIN ms", "COLD ms", "N"):
        table.add_column(column)
    for name, model in found["models"].items():
        times = ("-" if model[key] is None else f"{model[key]:.2f}" for key in ("p50", "p90", "min", "cold"))
        table.add_row(Text(name), *times, str(model["n"]))
    console.print(table)
    if found["idle_ms"]:
        console.print(f"first run after idling: {', '.join(f'{ms:.2f}' for ms in found['idle_ms'])} ms")
    for point in found["sweep"]:
        medians = ", ".join(f"{name} {ms:.2f} ms" for name, ms in point["p50"].items())
        console.print(f"{point['threads']} threads: {medians}", highlight=False)
    for node in found["operators"][:_MOST_OPERATORS]:
        console.print(Text(f"{node['ms']:9.3f} ms  {node['op']:<20} {node['name']}"), highlight=False)
    for minute in found["sustained"]:
        console.print(
            f"minute {minute['minute']}: p50 {minute['p50_ms']:.2f} ms, p90 {minute['p90_ms']:.2f} ms, "
            f"{minute['conditions']}{_energy(minute)}",
            highlight=False,
        )
    for reason in found["unstable"]:
        note(f"UNSTABLE: {reason}")


def _energy(minute: Mapping[str, Any]) -> str:
    if minute["joules"] is None:
        return ""
    return f", {minute['watts']:.2f} W, {minute['joules']:.3g} J a picture ({minute['power_source']})"
