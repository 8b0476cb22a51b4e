"""`taco inspect MODEL`: the units of a model, drawn and as a table, and what a plan would take."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from taco.commands import printing

if TYPE_CHECKING:
    from taco.surgery.anatomy import Anatomy, Sizes


def inspect(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Any timm model.")],
    plan: Annotated[
        float | None,
        typer.Option(metavar="R", min=0.0, max=1.0, help="Show what keeping this part of every width would take."),
    ] = None,
    drop: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="Plan to leave out residual blocks with such names; may be given again."),
    ] = None,
    multiple: Annotated[int, typer.Option(min=1, help="Planned channels are multiples of this.")] = 8,
    size: Annotated[int | None, typer.Option(min=8, metavar="PIXELS", help="Side of the picture.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Show what can be made smaller in a model, and what stays dense and why. No weights are needed."""
    with printing.waking_up(quiet=json_output):
        from taco.model import load_generalist
        from taco.surgery.anatomy import PlanOptions, take_apart
    generalist = load_generalist(model, random_weights=True)
    channels, height, width = generalist.preprocessing.input_size
    input_size = (channels, size or height, size or width)
    planned = PlanOptions(1.0 if plan is None else plan, multiple, tuple(drop or ()))
    asked = plan is not None or drop
    anatomy = take_apart(generalist.module, model, input_size, planned if asked else None)
    if json_output:
        typer.echo(json.dumps(anatomy.as_json(), indent=1))
    else:
        _show(anatomy)


def _show(anatomy: Anatomy) -> None:
    console = Console(soft_wrap=True)
    console.print(f"{anatomy.model} at {'x'.join(map(str, anatomy.input_size))}: {_words(anatomy.sizes)}")
    if anatomy.planned_sizes is not None:
        console.print(f"planned: {_words(anatomy.planned_sizes)}")
    for line in _drawing(anatomy):
        console.print(line, highlight=False, markup=False)
    console.print(_table(anatomy))
    for block in anatomy.found.dense:
        printing.note(f"{block.name} stays dense: {block.reason}")


def _drawing(anatomy: Anatomy) -> list[str]:
    from taco.surgery.anatomy import draw

    return draw(anatomy)


def _words(sizes: Sizes) -> str:
    return (
        f"{sizes.params / 1e6:.2f} M parameters, {sizes.macs / 1e6:.0f} M multiply-accumulates, "
        f"at most {sizes.peak_activation_bytes / 1e6:.1f} MB of activations at a time"
    )


def _table(anatomy: Anatomy) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("UNIT", overflow="fold")
    table.add_column("KIND")
    for column in ("WIDTH", "STEP", "AT", "READERS", "PARAMS A STEP", "KMACS A STEP"):
        table.add_column(column, justify="right", no_wrap=True)
    for unit in anatomy.found.units:
        table.add_row(
            unit.name,
            unit.kind,
            str(unit.width),
            str(unit.multiple),
            "x".join(map(str, unit.spatial)) or "-",
            str(len(unit.consumers)) if unit.consumers else "-",
            str(unit.parameters * unit.multiple),
            f"{unit.macs * unit.multiple / 1e3:.1f}",
        )
    return table
