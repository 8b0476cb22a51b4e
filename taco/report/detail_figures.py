"""Pictures of mistakes: the confusion matrix, and accuracy against coverage."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from taco.report.accuracy_schema import CoveragePoint
from taco.report.figures import label_room, legend, short
from taco.report.svg import BASELINE, DENSE, GRID, INK, SMALL, Margins, canvas, render

_CELL = 24
#: Larger matrices have no room for the counts.
_MOST_COUNTED = 12
#: Then only one column in so many is numbered.
_EVERY = 5


class Cell(Protocol):
    """One count of a confusion matrix, of `taco.metrics.quality` or of a report."""

    @property
    def true(self) -> str:
        """The true class."""

    @property
    def answer(self) -> str:
        """The answer."""

    @property
    def count(self) -> int:
        """Pictures."""


def confusion_matrix(cells: Iterable[Cell], classes: Sequence[str]) -> str:
    """Draw a row for each true class and a column for each answer; the darker, the larger the share of the row.

    Args:
        cells: Non-zero counts; those of other classes are not drawn, but count for the shares.
        classes: What to draw, in this order.
    """
    labels = [f"{number}. {short(name)}" for number, name in enumerate(classes, start=1)]
    place = {name: number for number, name in enumerate(classes)}
    found = list(cells)
    totals: dict[str, int] = {}
    for cell in found:
        totals[cell.true] = totals.get(cell.true, 0) + cell.count
    figure, axes = canvas(len(classes) * _CELL + 78, Margins(label_room(labels)))
    for cell in found:
        if cell.true not in place or cell.answer not in place:
            continue
        row, column, share = place[cell.true], place[cell.answer], cell.count / totals[cell.true]
        colour = SMALL if row == column else BASELINE
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, color=colour, alpha=0.15 + 0.7 * share, linewidth=0))
        if len(classes) <= _MOST_COUNTED:
            axes.text(column, row, str(cell.count), ha="center", va="center", fontsize=12.5, color=INK)
    axes.set_xlim(-0.5, len(classes) - 0.5)
    axes.set_ylim(len(classes) - 0.5, -0.5)
    axes.set_yticks(range(len(classes)), labels=labels, color=INK, parse_math=False)
    told = range(0, len(classes), 1 if len(classes) <= _MOST_COUNTED else _EVERY)
    axes.set_xticks(told, labels=[str(number + 1) for number in told])
    axes.set_xlabel("answer, by number")
    axes.xaxis.set_label_position("bottom")
    return render(figure, "confusion", f"Confusion matrix of {len(classes)} classes")


def coverage_curve(points: Sequence[CoveragePoint], threshold: float, asked: float) -> str:
    """Draw how many of the sure answers are right, against how many are sure; the chosen threshold is marked."""
    figure, axes = canvas(270, Margins(66, right=20))
    sure, right = [point.sure for point in points], [point.right for point in points]
    line = Line2D(sure, right, color=SMALL, linewidth=2.4, label="right")
    axes.add_line(line)
    handles = [line]
    kept = [point for point in points if point.threshold >= threshold]
    if kept:
        dot = Line2D([kept[-1].sure], [kept[-1].right], color=SMALL, marker="o", linestyle="", label="limit")
        dot.set_clip_on(False)
        axes.add_line(dot)
        handles.append(dot)
    goal = Line2D([0, 100], [asked, asked], color=DENSE, linewidth=1.4, linestyle=(0, (2, 1.5)), label="asked")
    axes.add_line(goal)
    handles.append(goal)
    axes.set_xlim(0, 101)
    axes.set_ylim(max(0.0, 10 * (min([*right, asked]) // 10) - 5), 101)
    axes.grid(color=GRID, linewidth=1)
    axes.set_xlabel("answers that are sure, %")
    axes.set_ylabel("right, %")
    legend(axes, handles)
    return render(figure, "coverage", "Share of right answers against the share of sure answers")
