"""`taco report RUN` and `taco report diff A B`: parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from taco.commands import arguments, printing
from taco.errors import InputError
from taco.report.diff_schema import Difference

_DRAW = "draw"


class _RunOrCommand(TyperGroup):
    """`taco report RUN` is `taco report draw RUN`; a run in a folder named `diff` is `./diff`."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        """Put the command's name in front of a bare run."""
        if args and args[0] not in (*self.commands, "-h", "--help"):
            args = [_DRAW, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    help="Draw a run's report again, or compare two.\n\n`taco report RUN` draws report.html and report.md again from "
    "report.json alone.",
    cls=_RunOrCommand,
    no_args_is_help=True,
)

Run = Annotated[Path, typer.Argument(help="The --out folder of an export.", show_default=False)]


@app.command(_DRAW)
def draw(run: Run, debug: arguments.Debug = False) -> None:
    """Draw report.html and report.md again from report.json alone."""
    del debug
    from taco.report.read import read_report
    from taco.report.write import write_report

    typer.echo(str(write_report(read_report(run), run).html))


@app.command()
def diff(
    a: Annotated[Path, typer.Argument(metavar="A", help="The run to compare with.", show_default=False)],
    b: Annotated[Path, typer.Argument(metavar="B", help="The other run.", show_default=False)],
    page: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write the comparison as one page, too.")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print JSON on stdout, and nothing else.")] = False,
    debug: arguments.Debug = False,
) -> None:
    """Put two runs side by side: accuracy on common pictures, time on a common device, size, settings."""
    del debug
    if page is not None and (page.is_dir() or not page.parent.is_dir()):
        raise InputError(f"--html {page} cannot be a file there", "Give a file in a folder that exists")
    from taco.report.diff import compare
    from taco.report.read import read_report

    one, other = read_report(a), read_report(b)
    found = compare(one, other, (str(a), str(b)))
    if page is not None:
        from taco.files import write_atomically
        from taco.report.diff_page import diff_page
        from taco.report.html import page_html

        write_atomically(page, page_html(diff_page(found, one, other)).encode())
        printing.note(f"{page} shows the comparison")
    if json_output:
        typer.echo(found.model_dump_json(indent=2))
    else:
        _print(found)


def _print(found: Difference) -> None:
    from taco.report import wording

    console = Console(soft_wrap=True)
    console.print(Text(found.verdict, style="bold"), highlight=False)
    for warning in found.warnings:
        console.print(Text("warning   ", style="yellow") + Text(warning), highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("", "A", "B"):
        table.add_column(column, overflow="fold")
    change, speed = found.accuracy, found.speed
    table.add_row("right", *(wording.proportion(value) for value in (change.a, change.b)))
    times = (speed.a_ms, speed.b_ms)
    table.add_row("p50", *("not measured" if ms is None else wording.milliseconds(ms) for ms in times))
    for size in found.sizes:
        table.add_row(size.name, wording.amount(size.a), wording.amount(size.b))
    for setting in found.settings:
        table.add_row(Text(setting.name), Text(setting.a), Text(setting.b))
    console.print(table)
    if change.paired is not None:
        pair = change.paired
        console.print(
            f"right only in A: {pair.only_first}, only in B: {pair.only_second}, both: {pair.both}, neither: "
            f"{pair.neither}; McNemar's exact test: p = {pair.p:.2g}",
            highlight=False,
        )
    console.print(f"times: {speed.how}", highlight=False)
