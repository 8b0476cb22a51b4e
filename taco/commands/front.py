"""`taco front`: parse, call, print."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from taco.commands import arguments, printing, width_arguments
from taco.commands.config import DEFAULT_TARGET, default_out, split_names
from taco.commands.flags import typed
from taco.commands.request import Request, make_request
from taco.errors import InputError
from taco.options import RECOVER_MINUTES, ExportOptions, make_options

if TYPE_CHECKING:
    from taco.front.schema import Front

_DEFAULT = ExportOptions(task=Path(), target=DEFAULT_TARGET, out=Path())
_FRONT = "The front"
#: A front has budgets of its own.
_NOT_USED = (
    *("speedup", "latency_ms", "macs", "sparsity", "pattern", "widths", "include", "exclude"),
    *("max_bytes", "max_macs", "max_memory", "latency_table", "feedback"),
)


def front(
    context: typer.Context,
    task: arguments.Task = None,
    target: arguments.Target = DEFAULT_TARGET,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of the result.",
            show_default="runs/front-TARGET",
            rich_help_panel=arguments.RUN,
        ),
    ] = None,
    device: arguments.Device = None,
    speedups: Annotated[
        str,
        typer.Option(
            metavar="X,...", help="Speeds that the small models aim at, over the dense one.", rich_help_panel=_FRONT
        ),
    ] = "1.5,2,3,4",
    beside: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL,...",
            help="Other timm models, shown dense beside it, such as a smaller one.",
            show_default="none",
            rich_help_panel=_FRONT,
        ),
    ] = None,
    pick: Annotated[
        str | None,
        typer.Option(
            metavar="POINT",
            help="Then make the whole bundle of one point, by its number or name: recovered fully, checked, measured.",
            show_default="none",
            rich_help_panel=_FRONT,
        ),
    ] = None,
    max_drop: Annotated[
        float,
        typer.Option(
            metavar="POINTS", help="What the recommended model may lose on held-out shots.", rich_help_panel=_FRONT
        ),
    ] = 1.0,
    classes: arguments.Classes = None,
    shots: arguments.Shots = _DEFAULT.shots,
    evaluation: arguments.Evaluation = None,
    images: arguments.Images = None,
    boxes: arguments.Boxes = None,
    crop: arguments.Crop = None,
    class_map: arguments.ClassMap = None,
    model: arguments.Model = _DEFAULT.model,
    input_size: arguments.InputSize = None,
    weights: arguments.Weights = None,
    head: arguments.Head = _DEFAULT.head,
    recover_minutes: arguments.RecoverMinutes = _DEFAULT.recover_minutes,
    unlabelled: arguments.Unlabelled = None,
    from_run: arguments.FromRun = None,
    config: arguments.Config = None,
    quiet: arguments.Quiet = False,
    verbose: arguments.Verbose = False,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print front.json.", rich_help_panel=arguments.RUN)
    ] = False,
    split_by: arguments.SplitWhat = _DEFAULT.split_by,
    max_images: arguments.MaxImages = _DEFAULT.max_images,
    search: width_arguments.SearchHow = _DEFAULT.search,
    search_evaluations: width_arguments.SearchEvaluations = _DEFAULT.search_evaluations,
    compute: arguments.Compute = _DEFAULT.compute,
    threads: arguments.Threads = None,
    seed: arguments.Seed = _DEFAULT.seed,
    random_weights: arguments.RandomWeights = False,
    debug: arguments.Debug = False,
) -> None:
    """Show how fast which accuracy is on a device: several budgets beside all that one would do instead."""
    del debug
    given = typed(context, locals())
    request = make_request(given, config, takes_widths=False)
    printing.log_to_stderr(quiet=quiet, verbose=verbose)
    options, notes = _options(request, given, max_drop)
    for text in () if quiet else notes:
        printing.note(text)
    asked = _numbers(speedups)
    progress = printing.progress(quiet=quiet)
    with printing.waking_up(quiet=quiet):
        from taco import api
        from taco.front.job import FrontOptions
    how = FrontOptions(asked, () if beside is None else split_names(beside), max_drop)
    found = api.front(options, how, progress, ["taco", *sys.argv[1:]], pick)
    if json_output:
        typer.echo(found.front.model_dump_json(indent=1))
    elif not quiet:
        _print(found.front, found.page)
        if found.export is not None:
            printing.result(found.export.report, found.export.folder, already_done=found.export.already_done)


def _options(request: Request, given: dict[str, object], max_drop: float) -> tuple[ExportOptions, list[str]]:
    """Return the options of a front, and what a person should be told of them."""
    request.check_task()
    left_out = [field for field in _NOT_USED if field in request.values]
    values = {field: value for field, value in request.values.items() if field not in _NOT_USED}
    values |= {"allocation": "latency", "max_drop": max_drop}
    values.setdefault("recover_minutes", RECOVER_MINUTES)  # a front has small models too
    target = str(values["target"])
    if "out" not in given and values["out"] == default_out(target):
        values["out"] = Path("runs") / f"front-{target}"
    told = [f"a front has its own budgets: {', '.join(left_out)} of the settings is not used"] if left_out else []
    return make_options(values), [*request.notes, *told]


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(dict.fromkeys(float(part) for part in text.split(",") if part.strip()))
    except ValueError as error:
        raise InputError(f"--speedups {text}: numbers with commas between them", "For example 1.5,2,3,4") from error


def _print(front: Front, page: Path) -> None:
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("N", "MODEL", "MS", "TIMES AS FAST", "RIGHT", "LOST, POINTS", "FRONT"):
        shown.add_column(column, overflow="fold", justify="left" if column in ("MODEL", "FRONT") else "right")
    taken = None if front.recommended is None else front.recommended.name
    for number, point in enumerate(front.points, start=1):
        shown.add_row(
            str(number),
            point.name,
            f"{point.takes_ms:.2f}",
            f"{point.speedup.value:.2f}",
            f"{point.accuracy.percent:.1f} %",
            f"{point.drop_points:+.1f}",
            ("yes" if point.dominated_by is None else "") + (", recommended" if point.name == taken else ""),
            style="bold" if point.name == taken else "",
        )
    Console().print(shown)
    for warning in front.warnings:
        printing.note(f"warning: {warning}")
    if front.recommended is not None:
        printing.note(f"{front.recommended.name}: {front.recommended.reason}")
    printing.note(f"report    {page}")
