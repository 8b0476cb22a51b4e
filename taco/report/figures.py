"""The pictures of a report: recall of each class, latency curves, widths kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from taco.report.parts import Latency, Proportion
from taco.report.schema import Report, SparsitySection
from taco.report.svg import BASELINE, DENSE, FONT_SIZE, GRID, INK, QUIET, SMALL, Margins, canvas, render

MOST_CLASSES = 20
MOST_NAMED_UNITS = 40
CURVE_POINTS = 120
_LETTER = 7.6
_MOST_LETTERS = 24


def shown_classes(report: Report) -> list[str]:
    """The classes that the picture of recalls shows: those with pictures, the worst exported recall first.

    Where not all fit, empty frames keep their place.
    """
    exported = report.accuracy.exported
    if exported is None:
        return []
    recalls = {name: recall for name, recall in exported.per_class.items() if recall is not None}
    worst_first = sorted(recalls, key=lambda name: recalls[name].percent)
    blank = report.accuracy.blank_class
    if blank is not None and blank in worst_first[MOST_CLASSES:]:
        return [*worst_first[: MOST_CLASSES - 1], blank]
    return worst_first[:MOST_CLASSES]


def timed_models(report: Report) -> list[tuple[str, Latency]]:
    """Name and latency of each model that was timed."""
    if report.latency_ms is None:
        return []
    models = [("dense", report.latency_ms.dense), ("compressed", report.latency_ms.compressed)]
    if report.baseline_fp32_ms is not None:
        models.append(("dense, fp32", report.baseline_fp32_ms))
    return models


def recall_dots(report: Report) -> str:
    """A dot and an interval a class: hollow and grey for dense, filled and coloured for exported."""
    names = shown_classes(report)
    models = ((report.accuracy.dense, DENSE, "dense"), (report.accuracy.exported, SMALL, "exported"))
    series = [(model.per_class, colour, label) for model, colour, label in models if model is not None]
    title = f"Recall of {len(names)} classes, dense and exported, with 95 % intervals"
    return draw_recalls(names, series, "recall", title)


def draw_recalls(
    names: Sequence[str], series: Sequence[tuple[Mapping[str, Proportion | None], str, str]], anchor: str, title: str
) -> str:
    """Draw a dot and an interval a class for each series of recalls.

    Args:
        names: Classes; each has a recall in one series at least.
        series: Recalls by class, key colour (DENSE is drawn hollow), and what they are of; two, or one.
        anchor: Unique on the page.
        title: For those who cannot see it.
    """
    labels = [short(name) for name in names]
    figure, axes = canvas(len(names) * 30 + 82, Margins(label_room(labels)))
    rows = np.arange(len(names), dtype=float)
    for (recalls, colour, _), offset in zip(series, (-0.17, 0.17), strict=False):
        _draw_recalls(axes, (rows + offset).tolist(), [recalls.get(name) for name in names], colour)
    low = min(recall.low for recalls, *_ in series for recall in map(recalls.get, names) if recall)
    axes.set_xlim(max(0.0, 10 * np.floor(low / 10)) - 1, 101)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_yticks(rows, labels=labels, color=INK, parse_math=False)
    axes.grid(axis="x", color=GRID, linewidth=1)
    axes.set_xlabel("pictures named right, %")
    legend(axes, [_dot(colour, label) for _, colour, label in series])
    return render(figure, anchor, title)


def latency_curves(report: Report) -> str:
    """Cumulative distributions of the raw samples."""
    models = [(name, latency) for name, latency in timed_models(report) if latency.samples]
    figure, axes = canvas(270, Margins(58, right=20))
    lines = [_line(name, latency) for name, latency in models]
    for line in lines:
        axes.add_line(line)
    low = min(min(latency.samples) for _, latency in models)
    high = max(float(np.quantile(latency.samples, 0.99)) for _, latency in models)
    room = 0.06 * (high - low) or 0.05 * high or 1.0
    axes.set_xlim(low - room, high + room)
    axes.set_ylim(-6, 104)
    axes.set_yticks([0, 25, 50, 75, 100])
    axes.grid(color=GRID, linewidth=1)
    axes.set_xlabel("milliseconds for one picture")
    axes.set_ylabel("pictures done, %")
    legend(axes, lines)
    return render(figure, "latency", "Cumulative distribution of the time for one picture")


@dataclass(frozen=True, slots=True)
class Bars:
    """A bar a row: the whole of it dense, the dark part kept.

    Attributes:
        names: Of the rows.
        kept: Length of each dark part.
        dense: Length of each whole bar.
        labels: Written behind each bar.
        axis: What a length is.
        row: What a row is.
        title: For those who cannot see it.
        parts: What the dark part and the rest of a bar are.
    """

    names: Sequence[str]
    kept: Sequence[float]
    dense: Sequence[float]
    labels: Sequence[str]
    axis: str
    row: str
    title: str
    parts: tuple[str, str] = ("kept", "taken away")


def width_bars(report: Report) -> str:
    """Channels kept of each unit, 0 in a block that was left out; with names while there is room for them."""
    units = [unit for unit in report.layers if unit.kind != "block"]
    return draw_bars(
        Bars(
            names=[unit.unit for unit in units],
            kept=[unit.kept for unit in units],
            dense=[unit.dense for unit in units],
            labels=[f"{unit.kept} / {unit.dense}" for unit in units],
            axis="channels",
            row="unit",
            title=f"Channels kept in {len(units)} units",
        ),
        "widths",
    )


def sparsity_bars(sparsity: SparsitySection) -> str:
    """Weights left in each layer, as a share; with names while there is room for them."""
    layers = sparsity.layers
    left = [100 * layer.nonzero / max(1, layer.weights) for layer in layers]
    return draw_bars(
        Bars(
            names=[layer.name for layer in layers],
            kept=left,
            dense=[100.0] * len(layers),
            labels=[f"{share:.1f} %" for share in left],
            axis="weights left, %",
            row="layer",
            title=f"Weights left in {len(layers)} layers",
        ),
        "sparsity",
    )


def draw_bars(bars: Bars, anchor: str) -> str:
    """Bars with names while there is room for them, numbered columns beyond that; `anchor` is unique on the page."""
    return (_named_bars if len(bars.names) <= MOST_NAMED_UNITS else _numbered_columns)(bars, anchor)


def _named_bars(bars: Bars, anchor: str) -> str:
    labels = [f"{number}. {short(name)}" for number, name in enumerate(bars.names, start=1)]
    figure, axes = canvas(len(labels) * 21 + 82, Margins(label_room(labels), right=62))
    rows = np.arange(len(labels))
    axes.barh(rows, bars.dense, height=0.66, color=DENSE, alpha=0.45)
    axes.barh(rows, bars.kept, height=0.66, color=SMALL)
    for row, (length, text) in enumerate(zip(bars.dense, bars.labels, strict=True)):
        axes.annotate(
            text,
            (length, row),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=11.5,
            color=QUIET,
            annotation_clip=False,
        )
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_yticks(rows, labels=labels, color=INK, parse_math=False)
    axes.grid(axis="x", color=GRID, linewidth=1)
    axes.set_xlabel(bars.axis)
    legend(axes, _width_handles(bars.parts))
    return render(figure, anchor, bars.title)


def _numbered_columns(bars: Bars, anchor: str) -> str:
    figure, axes = canvas(270, Margins(66))
    columns = np.arange(1, len(bars.names) + 1)
    axes.bar(columns, bars.dense, width=0.82, color=DENSE, alpha=0.45)
    axes.bar(columns, bars.kept, width=0.82, color=SMALL)
    axes.set_xlim(0, len(bars.names) + 1)
    axes.grid(axis="y", color=GRID, linewidth=1)
    axes.set_xlabel(f"{bars.row}, numbered as in the table")
    axes.set_ylabel(bars.axis)
    legend(axes, _width_handles(bars.parts))
    return render(figure, anchor, bars.title)


def _draw_recalls(axes: Axes, rows: Sequence[float], recalls: list[Proportion | None], colour: str) -> None:
    hollow = colour == DENSE
    for row, recall in zip(rows, recalls, strict=True):
        if recall is None:
            continue
        axes.plot([recall.low, recall.high], [row, row], color=colour, linewidth=1.6 if hollow else 2.6)
        face = "none" if hollow else colour
        dot = Line2D([recall.percent], [row], marker="o", color=colour, markerfacecolor=face, markersize=6.5)
        dot.set_clip_on(False)
        axes.add_line(dot)


def _line(name: str, latency: Latency) -> Line2D:
    line = Line2D(*_quantiles(latency.samples), drawstyle="steps-post")
    line.set_label(name)
    line.set_color({"dense": DENSE, "compressed": SMALL}.get(name, BASELINE))
    line.set_linewidth(3.0 if name == "compressed" else 2.0)
    if name not in {"dense", "compressed"}:
        line.set_linestyle((0, (2, 1.5)))
    return line


def _dot(colour: str, label: str) -> Line2D:
    face = "none" if colour == DENSE else colour
    return Line2D([], [], color=colour, marker="o", markerfacecolor=face, markersize=6.5, linewidth=1.6, label=label)


def _width_handles(parts: tuple[str, str]) -> list[Patch]:
    return [Patch(color=SMALL, label=parts[0]), Patch(color=DENSE, alpha=0.45, label=parts[1])]


def legend(axes: Axes, handles: Sequence[Line2D | Patch]) -> None:
    """In one row above the axes, where it hides nothing."""
    axes.legend(
        handles=list(handles),
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=len(handles),
        frameon=False,
        fontsize=FONT_SIZE,
        labelcolor=INK,
        handlelength=1.8,
        borderaxespad=0.2,
    )


def _quantiles(samples: Sequence[float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """At most `CURVE_POINTS` points of the empirical distribution: times in ms and percent done."""
    shares = np.linspace(0, 1, min(len(samples), CURVE_POINTS)) if len(samples) > 1 else np.array([1.0])
    times = np.quantile(np.asarray(samples), shares, method="inverted_cdf")
    return np.concatenate([times[:1], times]), np.concatenate([[0.0], 100 * shares])


def label_room(labels: Sequence[str]) -> float:
    """Room for labels on the left, CSS pixels."""
    return 16 + _LETTER * max((len(label) for label in labels), default=0)


def short(name: str) -> str:
    """One line of at most 24 letters; of a long name the beginning and the end stay."""
    flat = " ".join(name.split())
    return flat if len(flat) <= _MOST_LETTERS else f"{flat[:12]}\N{HORIZONTAL ELLIPSIS}{flat[-11:]}"
