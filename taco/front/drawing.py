"""The picture of a front: accuracy against measured latency, told apart by shape first and colour second."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from taco.front.schema import Front, FrontPoint, Kind
from taco.report.svg import BASELINE, DENSE, FONT_SIZE, GRID, INK, QUIET, SMALL, WIDTH, Margins, canvas, render

HEIGHT = 420
#: Points below the model that is most often right; what lies lower would press the others together.
_DEPTH = 30.0
_MARGINS = Margins(66, right=20, top=104)
#: CSS pixels that a number takes, and where it may stand beside its point.
_LETTER, _LINE = 9.0, 15.0
_PLACES = ((9, 9), (9, -9), (-9, 9), (-9, -9), (0, 15), (0, -15))


@dataclass(frozen=True, slots=True)
class Mark:
    """How a kind is drawn.

    Attributes:
        label: In the legend.
        shape: matplotlib's marker.
        colour: A key colour of the page.
        filled: Hollow otherwise.
    """

    label: str
    shape: str
    colour: str
    filled: bool


MARKS: Mapping[Kind, Mark] = {
    "ours": Mark("ours, unit by unit", "o", SMALL, True),
    "uniform": Mark("one ratio for all", "s", QUIET, False),
    "macs": Mark("by MACs", "^", QUIET, False),
    "dense": Mark("dense", "D", DENSE, True),
    "resized": Mark("dense, other pictures", "d", DENSE, True),
    "fp32": Mark("dense, fp32", "D", DENSE, False),
    "runtime-int8": Mark("runtime's own INT8", "X", BASELINE, True),
    "beside": Mark("another model, dense", "v", BASELINE, False),
}


def numbers(front: Front) -> dict[str, int]:
    """Return the number of every point, as in the list."""
    return {point.name: number for number, point in enumerate(front.points, start=1)}


def too_low(front: Front) -> list[FrontPoint]:
    """Return the points that the list has and the picture has not: nobody takes them."""
    best = max(point.accuracy.percent for point in front.points)
    return [point for point in front.points if point.accuracy.percent < best - _DEPTH]


def front_picture(front: Front) -> str:
    """Every point with its 95 % interval; ours that no other one of ours beats are joined; the front is numbered."""
    figure, axes = canvas(HEIGHT, _MARGINS)
    low_ones = too_low(front)
    shown = [point for point in front.points if point not in low_ones]
    for point in shown:
        _draw(axes, point)
    ours = _own_front(shown)
    axes.plot([p.takes_ms for p in ours], [p.accuracy.percent for p in ours], color=SMALL, linewidth=1.6, zorder=2)
    high = max(point.takes_ms for point in shown)
    axes.set_xlim(0, 1.08 * high)
    low = min(point.accuracy.low for point in shown)
    axes.set_ylim(max(0.0, low - 0.04 * (100 - low) - 0.5), 100 + 0.05 * (100 - low) + 0.5)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
    axes.grid(color=GRID, linewidth=1)
    axes.set_xlabel("milliseconds for one picture, measured")
    axes.set_ylabel("pictures named right, %")
    _number(axes, front, shown)
    present = [kind for kind in MARKS if any(point.kind == kind for point in shown)]
    axes.legend(
        handles=[_handle(MARKS[kind]) for kind in present],
        loc="lower left",
        bbox_to_anchor=(-0.12, 1.0),
        ncols=2,
        frameon=False,
        fontsize=FONT_SIZE,
        labelcolor=INK,
        handlelength=1.4,
        columnspacing=1.2,
        borderaxespad=0.2,
    )
    return render(figure, "front", f"Accuracy against measured milliseconds of {len(shown)} models")


def _draw(axes: Axes, point: FrontPoint) -> None:
    mark, shown = MARKS[point.kind], 1.0 if point.dominated_by is None else 0.55
    ends = [point.accuracy.low, point.accuracy.high]
    axes.plot([point.takes_ms] * 2, ends, color=mark.colour, linewidth=1.2, alpha=0.6 * shown, zorder=1)
    dot = Line2D([point.takes_ms], [point.accuracy.percent], **_style(mark), alpha=shown, zorder=3)
    dot.set_clip_on(False)
    axes.add_line(dot)


def _style(mark: Mark) -> dict[str, Any]:
    return {
        "marker": mark.shape,
        "color": mark.colour,
        "markerfacecolor": mark.colour if mark.filled else "none",
        "markeredgewidth": 1.6,
        "markersize": 8,
        "linestyle": "none",
    }


def _handle(mark: Mark) -> Line2D:
    return Line2D([], [], label=mark.label, **_style(mark))


def _own_front(points: Sequence[FrontPoint]) -> list[FrontPoint]:
    """Return ours that no faster one of ours is as right as, the fastest first."""
    kept: list[FrontPoint] = []
    for point in sorted((p for p in points if p.kind == "ours"), key=lambda p: (p.takes_ms, -p.accuracy.percent)):
        if not kept or point.accuracy.percent > kept[-1].accuracy.percent:
            kept.append(point)
    return kept


def _number(axes: Axes, front: Front, drawn: Sequence[FrontPoint]) -> None:
    """Write the numbers of the front and of the recommended point where they hide no other number."""
    named = numbers(front)
    taken = None if front.recommended is None else front.recommended.name
    shown = sorted(
        (p for p in drawn if p.dominated_by is None or p.name == taken),
        key=lambda p: (p.name != taken, p.takes_ms),
    )
    places: list[tuple[float, float]] = []
    for point in shown:
        x, y = _pixels(axes, point)
        for dx, dy in _PLACES:
            here = (x + dx, y + dy)
            free = all(abs(here[0] - u) > 2.4 * _LETTER or abs(here[1] - v) > _LINE for u, v in places)
            if free and _LETTER < here[0] < WIDTH - _LETTER:
                places.append(here)
                axes.annotate(
                    str(named[point.name]),
                    (point.takes_ms, point.accuracy.percent),
                    xytext=(dx, dy),
                    textcoords="offset points",
                    ha="center",
                    va="center",
                    color=INK,
                    fontsize=FONT_SIZE,
                    fontweight="bold" if point.name == taken else "normal",
                    annotation_clip=False,
                )
                break


def _pixels(axes: Axes, point: FrontPoint) -> tuple[float, float]:
    """Return where a point lies, CSS pixels from the lower left corner of the picture."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    inner = WIDTH - _MARGINS.left - _MARGINS.right, HEIGHT - _MARGINS.top - _MARGINS.bottom
    x = _MARGINS.left + inner[0] * (point.takes_ms - left) / (right - left)
    y = _MARGINS.bottom + inner[1] * (point.accuracy.percent - low) / (high - low)
    return x, y
