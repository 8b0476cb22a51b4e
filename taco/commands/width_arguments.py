"""The experts' flags of `taco export` that say how widths are found, as typer types."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from taco.commands.arguments import EXPERT
from taco.options import Allocate, Search

Allocation = Annotated[
    Allocate,
    typer.Option(
        metavar="HOW",
        help="How widths are found. latency: every unit by its own loss and measured time, or with --macs by its "
        "multiply-accumulates; residual blocks may be left out. uniform: one ratio for all. auto: latency, and uniform "
        "with --max-drop.",
        rich_help_panel=EXPERT,
    ),
]
SearchHow = Annotated[
    Search,
    typer.Option(
        metavar="METHOD",
        help="How widths are chosen unit by unit. dp: the least sum of losses. spdy, evopress: begin "
        "there, then judge whole models too.",
        rich_help_panel=EXPERT,
    ),
]
SearchEvaluations = Annotated[
    int, typer.Option(metavar="N", help="Models that spdy or evopress judge, at most.", rich_help_panel=EXPERT)
]
TakeOver = Annotated[
    float,
    typer.Option(
        metavar="PERCENT",
        help="With --max-drop and --from: take the small model of that run's device where by this device's own times "
        "nothing that should lose as little is more than so many percent faster; otherwise search here, which takes "
        "minutes. 1000: take it in any case.",
        rich_help_panel=EXPERT,
    ),
]
Widths = Annotated[
    Path | None,
    typer.Option(
        metavar="RUN|FILE",
        help="Keep exactly these widths: a finished run (its size of pictures is kept too, and with --from of the same "
        "run the weights: the same small model for another device), or a JSON file of units and channels.",
        rich_help_panel=EXPERT,
    ),
]
LatencyTable = Annotated[
    Path | None,
    typer.Option(
        metavar="TABLE.json",
        help="For --speedup or --latency-ms of a device that is not at hand: find widths by a table that "
        "`taco profile` made there. An estimate, and marked as one everywhere.",
        rich_help_panel=EXPERT,
    ),
]
Feedback = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="With --latency-table: an earlier export's folder that came back from the device. Its times correct the "
        "estimate.",
        rich_help_panel=EXPERT,
    ),
]
