"""What the commands about devices print."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from taco.printing import note

if TYPE_CHECKING:
    from taco.ondevice import Deployed, Device

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
    agent = f"{device.agent.python} {done.current}/agent.pyz"
    note(f"Name pictures on {device.name}: {agent} predict {done.current} PICTURES")
    note(f"Name new pictures as they arrive: {agent} watch {done.current} PICTURES RESULTS")
    note(f"At every start of the device: see {done.unit} there")


def benched(found: Mapping[str, Any]) -> None:
    """Print what `taco bench` measured."""
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
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("MODEL", "P50 ms", "P90 ms", "MIN ms", "COLD ms", "N"):
        table.add_column(column)
    for name, model in found["models"].items():
        times = (f"{model[key]:.2f}" for key in ("p50", "p90", "min", "cold"))
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
            f"{minute['conditions']}",
            highlight=False,
        )
    for reason in found["unstable"]:
        note(f"UNSTABLE: {reason}")
