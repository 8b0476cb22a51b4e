"""`taco database build|show`: parse, call, print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from taco.commands import arguments, printing
from taco.options import ExportOptions, make_options

if TYPE_CHECKING:
    from taco.database.layers import LayerDatabase
    from taco.levels import Level

app = typer.Typer(help="Every layer at every level of compression: solved once, for any device and budget.")

_DEFAULT = ExportOptions(task=Path(), target="host-cpu", out=Path())
_HOW = "How"
_COLUMNS = 5
#: Of the dense width, at which losses are shown.
_SHARES = (0.75, 0.5, 0.25)


@app.command()
def build(
    task: Annotated[Path, typer.Argument(help="Your pictures, in any form that `taco export` takes.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the database.")],
    model: arguments.Model = _DEFAULT.model,
    weights: arguments.Weights = None,
    random_weights: arguments.RandomWeights = False,
    head: arguments.Head = _DEFAULT.head,
    shots: arguments.Shots = _DEFAULT.shots,
    levels: Annotated[
        str | None,
        typer.Option(
            metavar="LEVEL,...",
            help="Such as unstructured:0.9,nm:2:4,block:0.5.",
            show_default="12 sparsities from 30 to 98 %, and 2:4",
            rich_help_panel=_HOW,
        ),
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GLOB",
            help="Only layers with such names; may be given again.",
            show_default="all but the first convolution and the classifier",
            rich_help_panel=_HOW,
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="No layers with such names; may be given again.", rich_help_panel=_HOW),
    ] = None,
    widths: Annotated[
        bool,
        typer.Option(
            "--widths", help="Also every width of every unit that a run can cut, with its loss.", rich_help_panel=_HOW
        ),
    ] = False,
    executor: arguments.Executor = _DEFAULT.executor,
    calibration: arguments.CalibrationOn = _DEFAULT.calibration,
    agnostic_images: arguments.AgnosticImages = None,
    solver: arguments.Solver = _DEFAULT.solver,
    damping: Annotated[
        str,
        typer.Option(
            metavar="NUMBER",
            help="A multiple of mean(diag H). auto: what does best on held-out pictures, layer by layer.",
            rich_help_panel=arguments.EXPERT,
        ),
    ] = "auto",
    seed: arguments.Seed = _DEFAULT.seed,
    quiet: arguments.Quiet = False,
    debug: arguments.Debug = False,
) -> None:
    """Solve every layer at every level. Stopped, the same command goes on; done, it does nothing."""
    del debug
    printing.log_to_stderr(quiet=quiet)
    with printing.waking_up(quiet=quiet):
        from taco.database.recipe import DEFAULT_LEVELS, Recipe, read_damping
        from taco.executor import Executor
        from taco.field.database_job import DatabaseOptions, build_database
        from taco.levels import Level
    asked = {"task": task, "target": _DEFAULT.target, "out": out, "model": model, "weights": weights, "shots": shots}
    more = {"random_weights": random_weights, "head": head, "seed": seed}
    options = make_options({**asked, **more, "calibration": calibration, "agnostic_images": agnostic_images})
    chosen = DEFAULT_LEVELS if levels is None else tuple(Level.parse(text.strip()) for text in levels.split(","))
    how = DatabaseOptions(
        recipe=Recipe(chosen, solver, read_damping(damping)),
        include=tuple(include or ()),
        exclude=tuple(exclude or ()),
        executor=Executor.parse(executor),
        widths=widths,
    )
    built = build_database(options, how, printing.progress(quiet=quiet))
    if not quiet:
        count = sum(len(built.database.levels(unit)) for unit in built.database.units)
        done = "was there already" if built.already_done else "is ready"
        wide = f", {len(built.database.channel_units)} units at every width" if widths else ""
        printing.note(f"{out} {done}: {len(built.database.units)} layers, {count} solutions{wide}")


@app.command()
def show(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The --out folder of a build.")],
    json_output: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw loss against sparsity, one curve a layer.")
    ] = None,
) -> None:
    """Show what a database holds: each layer's loss at some levels, as a share of removing the whole layer."""
    from taco.database.layers import LayerDatabase

    database = LayerDatabase.open(folder)
    if plot is not None:
        from taco.allocation.curves import plot_losses

        plot_losses(database, plot)
        printing.note(f"{plot} shows loss against sparsity")
    if json_output:
        typer.echo(json.dumps(_as_json(database), indent=1))
    else:
        _print_table(database)
        _print_widths(database)


def _as_json(database: LayerDatabase) -> dict[str, Any]:
    units = {}
    for unit in database.units:
        entry = database.entry(unit)
        levels = {
            str(level): {
                "loss": database.loss(unit, level),
                "relative_loss": database.relative_loss(unit, level),
                "nonzeros": database.nonzeros(unit, level),
            }
            for level in database.levels(unit)
        }
        facts = {"shape": entry.shape, "solver": entry.inputs.solver, "damping": entry.damping}
        units[unit] = {**facts, "size_bytes": entry.size_bytes, "levels": levels}
    return {
        "finished": database.index.finished is not None,
        "units": units,
        "channels": {unit: _widths_json(database, unit) for unit in database.channel_units},
        "skipped": [skipped.model_dump() for skipped in database.skipped],
    }


def _widths_json(database: LayerDatabase, unit: str) -> dict[str, Any]:
    entry = database.channel_entry(unit)
    widths = {str(level): loss for level, loss in database.widths(unit).items()}
    return {"kind": entry.kind, "width": entry.width, "multiple": entry.multiple, "levels": widths}


def _print_widths(database: LayerDatabase) -> None:
    """Print what every unit loses at some shares of its width, of all that its readers give."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("UNIT", overflow="fold")
    for column in ("KIND", "WIDTH", "STEP", *(f"{share:.0%}" for share in _SHARES)):
        table.add_column(column, justify="right", no_wrap=True)
    for unit in database.channel_units:
        entry = database.channel_entry(unit)
        losses = {int(level.value or 0): loss for level, loss in database.widths(unit).items()}
        shown = [losses[min(losses, key=lambda w: abs(w - share * entry.width))] for share in _SHARES]
        cells = [f"{100 * loss:.2g} %" for loss in shown]
        table.add_row(unit, entry.kind, str(entry.width), str(entry.multiple), *cells)
    if table.row_count:
        Console().print(table)


def _print_table(database: LayerDatabase) -> None:
    levels = _some_levels(database)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("LAYER", overflow="fold")
    for column in ("SHAPE", *(_short(level) for level in levels), "DAMPING", "KB"):
        table.add_column(column, justify="right", no_wrap=True)
    for unit in database.units:
        entry = database.entry(unit)
        has = set(database.levels(unit))
        losses = [f"{100 * database.relative_loss(unit, level):.2g} %" if level in has else "-" for level in levels]
        shape = "x".join(map(str, entry.shape))
        table.add_row(unit, shape, *losses, f"{entry.damping:g}", f"{entry.size_bytes / 1e3:.0f}")
    Console().print(table)
    for skipped in database.skipped:
        at = "" if skipped.level is None else f" at {skipped.level}"
        printing.note(f"{skipped.layer} stays dense{at}: {skipped.reason}")
    if database.index.finished is None:
        printing.note("this build has not finished: the same `taco database build` goes on")


def _some_levels(database: LayerDatabase) -> list[Level]:
    """Return some levels of the layer that has most, from the gentlest to the sparsest."""
    most = max((database.levels(unit) for unit in database.units), key=len, default=())
    if len(most) <= _COLUMNS:
        return list(most)
    return [most[round(i * (len(most) - 1) / (_COLUMNS - 1))] for i in range(_COLUMNS)]


def _short(level: Level) -> str:
    return f"{100 * float(level.value or 0):g} %" if level.kind == "unstructured" else str(level.value or level.kind)
