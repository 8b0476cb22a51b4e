"""The pictures of the latency loop: what each round predicted and measured, and what each unit's block takes now."""

from __future__ import annotations

from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from taco.latency.rounds import BAND
from taco.report.figures import Bars, draw_bars, legend
from taco.report.schema import Report
from taco.report.svg import DENSE, GRID, INK, SMALL, Margins, canvas, render
from taco.report.wording import counted

_FROM, _TO = 100 * BAND, 100.0


def round_marks(report: Report) -> str:
    """Predicted and measured time of every round, in percent of the budget, over the band that ends the loop.

    Raises:
        ValueError: The loop did not run.
    """
    if report.budget_ms is None or not report.rounds:
        raise ValueError("a report without rounds has no such picture")
    figure, axes = canvas(250, Margins(58, right=20))
    numbers = list(range(1, len(report.rounds) + 1))
    predicted = [100 * r.predicted_ms / report.budget_ms for r in report.rounds]
    measured = [100 * r.measured_ms / report.budget_ms for r in report.rounds]
    axes.axhspan(_FROM, _TO, color=DENSE, alpha=0.3, linewidth=0)
    for number, before, after in zip(numbers, predicted, measured, strict=True):
        axes.plot([number, number], [before, after], color=GRID, linewidth=2.5, zorder=1)
    axes.plot(numbers, predicted, color=INK, marker="o", markerfacecolor="none", markersize=9, linestyle="none")
    axes.plot(numbers, measured, color=SMALL, marker="o", markersize=7, linestyle="none")
    low, high = min(*predicted, *measured, _FROM), max(*predicted, *measured, _TO)
    axes.set_ylim(low - 0.12 * (high - low), high + 0.12 * (high - low))
    axes.set_xlim(0.5, len(numbers) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(axis="y", color=GRID, linewidth=1)
    axes.set_xlabel("round")
    axes.set_ylabel("of the budget, %")
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=INK, marker="o", markerfacecolor="none", markersize=9, linestyle="none"),
        Line2D([], [], color=SMALL, marker="o", markersize=7, linestyle="none"),
        Patch(color=DENSE, alpha=0.3),
    ]
    for handle, label in zip(handles, ("predicted", "measured", "aim"), strict=True):
        handle.set_label(label)
    legend(axes, handles)
    return render(
        figure, "rounds", f"Predicted and measured time in {counted(len(numbers), 'round')} of the latency loop"
    )


def block_times(report: Report) -> str:
    """Milliseconds of the block that holds each unit, of its dense milliseconds."""
    units = report.allocation
    return draw_bars(
        Bars(
            names=[unit.unit for unit in units],
            kept=[unit.latency_ms for unit in units],
            dense=[unit.dense_ms for unit in units],
            labels=[f"{unit.latency_ms:.2f}/{unit.dense_ms:.2f}" for unit in units],
            axis="milliseconds of its block",
            row="unit",
            title=f"Milliseconds of the blocks of {counted(len(units), 'unit')}, dense and as chosen",
            parts=("as chosen", "saved"),
        ),
        "times",
    )
