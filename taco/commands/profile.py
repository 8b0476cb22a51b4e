"""`taco profile` and `taco profile show`: parse, call, print."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from taco.commands import arguments, printing
from taco.commands.config import DEFAULT_TARGET
from taco.errors import InputError
from taco.options import DEFAULT_MODEL

if TYPE_CHECKING:
    from collections.abc import Mapping

    from taco.attached.ondevice import Device
    from taco.latency.table import LatencyTable
    from taco.targets.loading import Target

app = typer.Typer(help="What every unit of a model costs on a device, at every width.", invoke_without_command=True)


@app.callback()
def profile(
    context: typer.Context,
    target: arguments.Target = DEFAULT_TARGET,
    model: arguments.Model = DEFAULT_MODEL,
    device: arguments.OneDevice = None,
    threads: arguments.Threads = None,
    max_seconds: Annotated[
        float | None,
        typer.Option(min=1, help="Begin no further unit after that.", show_default="600; 4 hours with TensorRT"),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Time everything even if there is a table.")] = False,
    into: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="For a Jetson that is not attached: put the blocks into the folder that you copy to it (an export's, "
            "or a new one). Its one command there times them; `taco profile collect` reads what came back.",
        ),
    ] = None,
    quiet: arguments.Quiet = False,
    debug: arguments.Debug = False,
) -> None:
    """Time every unit at up to 8 widths, in turns with the dense model; the table is kept for later runs."""
    del debug
    if context.invoked_subcommand is not None:
        return
    printing.log_to_stderr(quiet=quiet)
    from taco.address import parse_address
    from taco.attached.ondevice import attached, leased
    from taco.latency.asked import Asked
    from taco.targets.loading import load_target

    chosen = load_target(target)
    if into is not None:
        if device is not None or max_seconds is not None or again:
            raise InputError(
                "--into is for a device that is not attached", "Leave it out, or --device, --max-seconds and --again"
            )
        _carry(model, chosen, into, quiet=quiet)
        return
    with contextlib.ExitStack() as stack:
        there = None if device is None else stack.enter_context(attached(parse_address(device)))
        asked = None
        if there is not None or chosen.local:
            asked = Asked.of(model, dataclasses.asdict(chosen), threads, _machine(there))
            if not again and (there is None or there.emulated is None) and (known := asked.table()) is not None:
                _told(*known, already_there=True, quiet=quiet)
                return
        progress = printing.progress(quiet=quiet)
        with printing.waking_up(quiet=quiet):
            from taco.search.profile_job import Place, profile_model
        if there is not None:
            stack.enter_context(leased(there))
        found = profile_model(model, Place(chosen, threads, there), max_seconds, progress, again=again)
        if asked is not None:
            asked.remember(found.path)
    _told(found.table, found.path, already_there=found.already_there, quiet=quiet)


def _carry(model: str, target: Target, folder: Path, *, quiet: bool) -> None:
    progress = printing.progress(quiet=quiet)
    with printing.waking_up(quiet=quiet):
        from taco.field.unit_kit import carry_units
    count = carry_units(model, target, folder, progress)
    if quiet:
        typer.echo(str(folder))
        return
    printing.note(f"{folder} asks for {count} engines. Copy it to the device and run there: python3 agent.pyz jetson")
    printing.note(f"then copy it back and run: taco profile collect {folder}")


@app.command()
def collect(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Made with --into; it ran on its device.")],
    quiet: arguments.Quiet = False,
) -> None:
    """Keep what a copied folder timed on its device as that device's table."""
    from taco.field.unit_table import collect_units
    from taco.latency.table import cache_folder, save_cached

    table = collect_units(folder)
    _told(table, save_cached(cache_folder(), table), already_there=False, quiet=quiet)


def _machine(device: Device | None) -> Mapping[str, Any]:
    from taco.device.probe import probe

    return probe() if device is None else device.probe


def _told(table: LatencyTable, path: Path, *, already_there: bool, quiet: bool) -> None:
    if quiet:
        typer.echo(str(path))
        return
    _print(table)
    done = "was there already" if already_there else f"took {table.seconds:.0f} s"
    printing.note(f"{path} {done}: {table.timed} cells, {len(table.units)} units")


@app.command()
def show(
    table: Annotated[
        Path | None,
        typer.Argument(metavar="TABLE.json", help="What `taco profile` names.", show_default="the latest"),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw milliseconds against width, and a heat map.")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
) -> None:
    """Show a table; one from another machine counts as an estimate here and says so."""
    from taco.device.probe import probe
    from taco.latency.table import device_words, dump_table, read_table

    found = read_table(table or _latest())
    here = found.key.model_copy(update={"device": device_words(probe())})
    seen = found.seen_from(here)
    if plot is not None:
        from taco.latency.drawing import plot_table

        plot_table(seen, plot)
        printing.note(f"{plot} shows milliseconds against width")
    if json_output:
        typer.echo(dump_table(seen).decode(), nl=False)
    else:
        _print(seen)
    if seen is not found:
        printing.note(f"measured on another machine ({found.key.device.get('processor')}): an estimate here")


def _latest() -> Path:
    from taco.latency.table import cache_folder

    files = sorted(cache_folder().glob("*.json"), key=lambda path: path.stat().st_mtime)
    if not files:
        raise InputError(f"there is no latency table in {cache_folder()}", "Make one with `taco profile`")
    return files[-1]


def _print(table: LatencyTable) -> None:
    key = table.key
    Console(soft_wrap=True).print(
        f"{key.model}, {key.runtime} {key.runtime_version} {key.precision}, {key.threads} threads: dense "
        f"{table.dense_ms:.3f} ms",
        highlight=False,
    )
    if table.stand_in:
        printing.note("not run on hardware: no NVIDIA machine was found, so these are times of a stand-in")
    shown = Table(box=None, pad_edge=False, header_style="bold")
    shown.add_column("UNIT", overflow="fold")
    for column in ("DENSE MS", "WIDTH: MS (the block that holds it)", "± %", "SOURCE"):
        shown.add_column(column, overflow="fold", justify="left" if ":" in column else "right")
    for name, unit in table.units.items():
        narrower = "  ".join(f"{c.width}: {c.p50_ms:.3f}" for c in unit.cells[1:])
        spread = max(cell.spread for cell in unit.cells)
        sources = ", ".join(sorted({cell.source for cell in unit.cells}))
        shown.add_row(name, f"{unit.cells[0].p50_ms:.3f}", narrower or "-", f"{50 * spread:.1f}", sources)
    Console().print(shown)
    for name, reason in table.skipped.items():
        printing.note(f"{name} was not timed: {reason}")
