"""Loss against sparsity, one curve a layer: which layers can be thinned and which cannot."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from taco.database.layers import LayerDatabase
from taco.errors import InputError
from taco.files import write_atomically

_NAMED = 3
_INK, _QUIET, _GRID = "#1d242b", "#55606b", "#dfe4e8"
_FLOOR = 1e-6  # a loss of nothing has no place on a logarithmic axis


def plot_losses(database: LayerDatabase, path: Path) -> None:
    """Draw and write a PNG.

    Raises:
        InputError: The database has no layer at an unstructured level, or `path` is no PNG.
        TacoError: It cannot be written.
    """
    if path.suffix.lower() != ".png":
        raise InputError(f"--plot {path} is no PNG", "Give a name that ends in .png")
    curves = {unit: points for unit in database.units if (points := _curve(database, unit, "unstructured"))}
    if not curves:
        raise InputError(f"{database.folder} has no unstructured level to draw", "Build some: unstructured:0.9, say")
    figure = Figure(figsize=(9, 5.6), dpi=130, layout="constrained")
    axes = figure.add_subplot()
    depth = Normalize(0, max(1, len(database.units) - 1))
    shades = colormaps["viridis"]
    for number, unit in enumerate(database.units):
        shade = shades(depth(number))
        if unit in curves:
            axes.plot(*zip(*curves[unit], strict=True), color=shade, linewidth=1.1, alpha=0.8)
        if points := _curve(database, unit, "nm"):
            axes.plot(*zip(*points, strict=True), "D", color=shade, markersize=4, markeredgewidth=0)
    _name_the_worst(axes, curves)
    _dress(axes, database)
    bar = figure.colorbar(ScalarMappable(depth, shades), ax=axes, pad=0.13, aspect=40)
    bar.set_ticks([depth.vmin or 0, depth.vmax or 1], labels=["first", "last"])
    bar.set_label("place of the layer in the model", color=_QUIET)
    bar.outline.set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_atomically(path, buffer.getvalue())


def _curve(database: LayerDatabase, unit: str, kind: str) -> list[tuple[float, float]]:
    """Return (sparsity, relative loss) of a layer's levels of one kind, the gentlest first."""
    size = int(np.prod(database.entry(unit).shape))
    levels = [level for level in database.levels(unit) if level.kind == kind]
    return [(1 - database.nonzeros(unit, v) / size, max(_FLOOR, database.relative_loss(unit, v))) for v in levels]


def _name_the_worst(axes: Axes, curves: dict[str, list[tuple[float, float]]]) -> None:
    """Write the names of the layers that lose most, and of the one that loses least, beside their curves."""
    ranked = sorted(curves, key=lambda unit: np.mean([np.log(loss) for _, loss in curves[unit]]), reverse=True)
    named = [*ranked[:_NAMED], *ranked[_NAMED:][-1:]]
    place = np.inf
    for unit in sorted(named, key=lambda unit: -curves[unit][-1][1]):
        x, y = curves[unit][-1]
        place = min(float(np.log10(y)), place - 0.17)
        axes.annotate(
            unit,
            (x, y),
            (1.01, 10**place),
            textcoords=axes.get_yaxis_transform(),
            fontsize=8,
            color=_INK,
            va="center",
            annotation_clip=False,
        )


def _dress(axes: Axes, database: LayerDatabase) -> None:
    axes.set_yscale("log")
    axes.set_xlabel("weights removed", color=_QUIET)
    axes.set_ylabel("loss, as a share of removing the whole layer", color=_QUIET)
    axes.xaxis.set_major_formatter(PercentFormatter(1, 0))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _place: f"{100 * y:g}%"))
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.tick_params(length=0, which="both", colors=_QUIET)
    patterns = sorted({str(level.value) for u in database.units for level in database.levels(u) if level.kind == "nm"})
    beside = f", and {', '.join(patterns)} (diamonds)" if patterns else ""
    axes.set_title(f"Each layer alone, at every sparsity{beside}", loc="left", color=_INK, fontsize=11)
