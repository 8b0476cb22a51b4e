"""Milliseconds against width: one staircase for every different unit, and a heat map of all units."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from taco.errors import InputError
from taco.files import write_atomically
from taco.latency.table import LatencyTable, UnitCells

_INK, _QUIET, _GRID, _HATCH = "#1d242b", "#55606b", "#dfe4e8", "#9aa3ab"
#: Told apart in grey too: by darkness, line and mark.
_STYLES = (("#10263f", "-", "o"), ("#b5540b", "--", "s"), ("#3a7d44", "-.", "^"), ("#8b8f98", ":", "D"))
_NAMED = 4
_COLUMNS = 16
#: Narrow, so that letters stay readable where a telephone shows the picture 390 pixels wide.
_WIDTH_INCHES = 4.2
_LETTERS, _SMALL = 8.0, 7.5


def plot_table(table: LatencyTable, path: Path) -> None:
    """Draw and write a PNG.

    Raises:
        InputError: `path` is no PNG, or the table has no unit.
        TacoError: It cannot be written.
    """
    if path.suffix.lower() != ".png":
        raise InputError(f"--plot {path} is no PNG", "Give a name that ends in .png")
    if not table.units:
        raise InputError("the table has no unit to draw", "Make it again with `taco profile`")
    rows = len(table.units)
    figure = Figure(figsize=(_WIDTH_INCHES, 4.6 + 0.22 * rows), dpi=220, layout="constrained")
    stairs, heat = figure.subplots(2, 1, height_ratios=[4.0, 0.6 + 0.22 * rows])
    _stairs(stairs, table)
    _heat(figure, heat, table)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_atomically(path, buffer.getvalue())


def heat_map(table: LatencyTable) -> npt.NDArray[np.float64]:
    """Return (units, columns) milliseconds at shares of the dense width from one column's share to all of it.

    NaN where the width is below what was timed.
    """
    shares = np.arange(1, _COLUMNS + 1) / _COLUMNS
    return np.array([[_at(unit, share) for share in shares] for unit in table.units.values()], np.float64)


def _at(unit: UnitCells, share: float) -> float:
    width = share * unit.cells[0].width
    if width < unit.cells[-1].width:
        return float("nan")
    widths, times = zip(*((cell.width, cell.p50_ms) for cell in reversed(unit.cells)), strict=True)
    return float(np.interp(width, widths, times))


def _stairs(axes: Axes, table: LatencyTable) -> None:
    distinct = {unit.signature: (name, unit) for name, unit in reversed(table.units.items())}
    ranked = sorted(distinct.values(), key=lambda item: item[1].cells[0].p50_ms, reverse=True)
    for number, (name, unit) in enumerate(ranked):
        dense = unit.cells[0].width
        shares, times = [c.width / dense for c in unit.cells], [c.p50_ms for c in unit.cells]
        errors = [c.spread * c.p50_ms / 2 for c in unit.cells]
        if number < _NAMED:
            colour, line, mark = _STYLES[number]
            axes.errorbar(
                shares, times, errors, color=colour, linestyle=line, marker=mark, markersize=4, label=name, capsize=2
            )
        else:
            axes.plot(shares, times, color=_GRID, linewidth=1.2, zorder=0)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_formatter(PercentFormatter(1, 0))
    axes.set_xlabel("width kept", color=_QUIET, fontsize=_LETTERS)
    axes.set_ylabel("ms of the block that holds it", color=_QUIET, fontsize=_LETTERS)
    axes.grid(color=_GRID, linewidth=0.8)
    axes.legend(
        loc="upper left",
        bbox_to_anchor=(0, -0.16),
        frameon=False,
        fontsize=_SMALL,
        title=f"the slowest of {len(ranked)} different units",
        title_fontsize=_SMALL,
    )
    _dress(axes)
    key = table.key
    axes.set_title(
        f"{key.model}: {key.runtime} {key.runtime_version}, {key.precision},\n{key.threads} threads; "
        f"whole dense model {table.dense_ms:.2f} ms",
        loc="left",
        color=_INK,
        fontsize=_LETTERS,
    )


def _heat(figure: Figure, axes: Axes, table: LatencyTable) -> None:
    values = heat_map(table)
    image = axes.imshow(values, aspect="auto", cmap="Greys", vmin=0, interpolation="nearest")
    axes.patch.set(facecolor="white", edgecolor=_HATCH, hatch="/////", linewidth=0)
    middle = float(np.nanmax(values)) / 2
    for row, column in np.ndindex(*values.shape):
        if column % 4 == 3 and np.isfinite(values[row, column]):
            colour = "white" if values[row, column] > middle else _INK
            text = f"{values[row, column]:.2f}"
            edge = not np.isfinite(values[row, column - 1])  # what is hatched has no room for half of it
            x, side = (column - 0.4, "left") if edge else (column + 0.4, "right")
            axes.text(x, row, text, ha=side, va="center", fontsize=_SMALL, color=colour)
    axes.set_yticks(range(len(table.units)), labels=list(table.units), fontsize=_SMALL, color=_INK, parse_math=False)
    ticks = range(3, _COLUMNS, 4)
    axes.set_xticks(ticks, labels=[f"{100 * (tick + 1) // _COLUMNS}%" for tick in ticks])
    axes.set_xlabel("width kept; hatched: not timed", color=_QUIET, fontsize=_LETTERS)
    _dress(axes)
    bar = figure.colorbar(image, ax=axes, pad=0.02, aspect=30)
    bar.set_label("ms", color=_QUIET, fontsize=_LETTERS)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelcolor=_QUIET, labelsize=_SMALL)


def _dress(axes: Axes) -> None:
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.tick_params(length=0, which="both", labelcolor=_QUIET, labelsize=_SMALL)
