"""The pictures of devices: their own recalls, times in other states, how far devices lie apart, hours of work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from taco.report.device_schema import DeviceSection, SustainedMinute
from taco.report.figures import MOST_CLASSES, draw_recalls, label_room, legend, short
from taco.report.parts import Proportion
from taco.report.svg import BASELINE, DENSE, GRID, INK, SMALL, Margins, canvas, panels, render
from taco.report.units_schema import UnitRun
from taco.report.wording import counted, place

_ROW = 30
_PANEL = 96


def drawn_classes(found: DeviceSection) -> list[str]:
    """The classes whose recalls are drawn: those with pictures on the device, its worst first."""
    pairs = {name: pair for name, pair in found.per_class.items() if pair is not None}
    return sorted(pairs, key=lambda name: pairs[name][1].percent)[:MOST_CLASSES]


def device_recalls(found: DeviceSection) -> str:
    """A dot and an interval a class: hollow for this machine, filled for the device."""
    names = drawn_classes(found)
    here: dict[str, Proportion | None] = {name: pair and pair[0] for name, pair in found.per_class.items()}
    there: dict[str, Proportion | None] = {name: pair and pair[1] for name, pair in found.per_class.items()}
    title = f"Recall of {len(names)} classes on this machine and on the device, with 95 % intervals"
    return draw_recalls(names, [(here, DENSE, "here"), (there, SMALL, "device")], "device-recall", title)


@dataclass(frozen=True, slots=True)
class TimesRow:
    """One row of times.

    Attributes:
        label: What it is of.
        warm_ms: Raw samples of warm runs; drawn as a line from the 10th to the 90th percentile and a dot at the median.
        single_ms: Single runs, a hollow dot each.
        slow: Whether it is drawn as the slow one.
    """

    label: str
    warm_ms: Sequence[float] = ()
    single_ms: Sequence[float] = ()
    slow: bool = False


def state_rows(warm_ms: Sequence[float], idle_ms: Sequence[float], cold_ms: Mapping[str, float]) -> list[TimesRow]:
    """The compressed model warm, after idling, and at its very first run; rows without a time are left out."""
    cold = [cold_ms["compressed"]] if "compressed" in cold_ms else []
    rows = (TimesRow("warm", warm_ms), TimesRow("after idling", (), idle_ms), TimesRow("very first", (), cold))
    return [row for row in rows if row.warm_ms or row.single_ms]


def unit_rows(units: Sequence[UnitRun]) -> list[TimesRow]:
    """A row a device that was timed: warm runs, and those after idling."""
    return [
        TimesRow(short(place(u.address)), u.models["compressed"].samples, u.idle_ms, u.slow is not None)
        for u in units
        if u.measured
    ]


def draw_times(rows: Sequence[TimesRow], anchor: str, title: str) -> str:
    """Draw rows of times over one axis of milliseconds.

    Args:
        rows: At least one, each with a time.
        anchor: Unique on the page.
        title: For those who cannot see it.
    """
    labels = [row.label for row in rows]
    figure, axes = canvas(len(rows) * _ROW + 82, Margins(label_room(labels), right=20))
    for number, row in enumerate(rows):
        _draw_row(axes, number, row)
    every = [time for row in rows for time in (*_ends(row), *row.single_ms)]
    room = 0.06 * (max(every) - min(every)) or 0.05 * max(every)
    axes.set_xlim(max(0.0, min(every) - room), max(every) + room)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks(np.arange(len(rows)), labels=labels, color=INK, parse_math=False)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.grid(axis="x", color=GRID, linewidth=1)
    axes.set_xlabel("milliseconds for one picture")
    legend(axes, _handles(rows))
    return render(figure, anchor, title)


def sustained_panels(minutes: Sequence[SustainedMinute], anchor: str, whose: str) -> str:
    """Draw the time of a picture by the minute, over the temperature and the clock where they were read.

    Args:
        minutes: At least one.
        anchor: Unique on the page.
        whose: The device, for those who cannot see the picture.
    """
    below = [
        ("\N{DEGREE SIGN}C", [minute.temperature_c for minute in minutes], BASELINE),
        ("MHz", [minute.clock_mhz for minute in minutes], INK),
        ("W", [minute.power_w for minute in minutes], INK),
    ]
    told = [(unit, values, colour) for unit, values, colour in below if any(v is not None for v in values)]
    figure, axes = panels([_PANEL + 24, *([_PANEL - 30] * len(told))], Margins(66, right=20))
    numbers = [minute.minute for minute in minutes]
    slow = _line(axes[0], numbers, [minute.p90 for minute in minutes], DENSE, "p90")
    middle = _line(axes[0], numbers, [minute.p50 for minute in minutes], SMALL, "p50 (median)")
    axes[0].set_ylabel("ms a picture")
    legend(axes[0], [middle, slow])
    for panel, (unit, values, colour) in zip(axes[1:], told, strict=True):
        _line(panel, numbers, [float("nan") if value is None else value for value in values], colour, unit)
        panel.set_ylabel(unit)
    for panel in axes:
        panel.yaxis.set_major_locator(MaxNLocator(nbins=3))
        panel.grid(axis="y", color=GRID, linewidth=1)
        panel.margins(y=0.18)
    axes[-1].set_xlim(min(numbers) - 0.5, max(numbers) + 0.5)
    axes[-1].xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes[-1].set_xlabel("minute of work without a pause")
    return render(figure, anchor, f"Time of one picture over {counted(len(minutes), 'minute')} of work on {whose}")


def _draw_row(axes: Axes, number: int, row: TimesRow) -> None:
    colour = BASELINE if row.slow else SMALL
    if row.warm_ms:
        axes.plot(_ends(row), [number, number], color=colour, linewidth=2.6, solid_capstyle="butt")
        marker = "s" if row.slow else "o"
        axes.plot([float(np.median(row.warm_ms))], [number], color=colour, marker=marker, markersize=7)
    axes.plot(
        list(row.single_ms),
        [number] * len(row.single_ms),
        color=INK,
        marker="o",
        markerfacecolor="none",
        markersize=7,
        linestyle="none",
    )


def _ends(row: TimesRow) -> list[float]:
    return [float(value) for value in np.quantile(row.warm_ms, (0.1, 0.9))] if row.warm_ms else []


def _handles(rows: Sequence[TimesRow]) -> list[Line2D]:
    warm = Line2D([], [], color=SMALL, marker="o", markersize=7, linewidth=2.6, label="warm runs")
    single = Line2D([], [], color=INK, marker="o", markerfacecolor="none", linestyle="none", label="single run")
    slow = Line2D([], [], color=BASELINE, marker="s", markersize=7, linewidth=2.6, label="slow")
    kinds = (
        (warm, any(row.warm_ms and not row.slow for row in rows)),
        (single, any(row.single_ms for row in rows)),
        (slow, any(row.slow for row in rows)),
    )
    return [handle for handle, there in kinds if there]


def _line(axes: Axes, numbers: Sequence[int], values: Sequence[float], colour: str, label: str) -> Line2D:
    style = (0, (2, 1.5)) if colour == DENSE else "-"
    few = len(numbers) <= 40
    (line,) = axes.plot(
        numbers,
        values,
        color=colour,
        linewidth=2.2,
        linestyle=style,
        marker="o" if few else "",
        markersize=4,
        label=label,
    )
    return line
