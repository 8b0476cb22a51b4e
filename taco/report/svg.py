"""Matplotlib figures as inline SVG that follows the page's light or dark colours.

Figures are drawn in key colours, which stand for roles; in the SVG text each is replaced by a CSS variable of the page
with a fall-back. Text stays text, in the page's own font. Equal input gives equal bytes.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.typing import RcKeyType

WIDTH = 400
"""Drawing width in CSS pixels: small enough to stay readable on a telephone, where the page scales it to fit."""

DPI = 72
FONT_SIZE = 12.5

INK = "#010203"
QUIET = "#020304"
GRID = "#030405"
DENSE = "#040506"
SMALL = "#050607"
BASELINE = "#060708"

_VARIABLES = {
    INK: "var(--ink, #1d242b)",
    QUIET: "var(--quiet, #55606b)",
    GRID: "var(--grid, #dfe4e8)",
    DENSE: "var(--dense, #8593a0)",
    SMALL: "var(--small, #0b6a86)",
    BASELINE: "var(--baseline, #b98a2f)",
}
_TAG = re.compile(r"<[^<>]*>")
_REFERENCE = re.compile(r"""((?:\sid|href)="#?|url\(#)""")
_FONT = re.compile(r"font: ([\d.]+)px [^;\"]*")
_STYLE: dict[RcKeyType, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "taco-export",
    "font.size": FONT_SIZE,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": QUIET,
    "axes.facecolor": "none",
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "axes.unicode_minus": True,
    "text.usetex": False,
}


@dataclass(frozen=True, slots=True)
class Margins:
    """Room around the axes, CSS pixels."""

    left: float
    right: float = 14
    top: float = 34
    bottom: float = 44


def canvas(height: float, margins: Margins) -> tuple[Figure, Axes]:
    """An empty figure of the page's width with one plain axes.

    Args:
        height: CSS pixels.
        margins: Room for labels.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH / DPI, height / DPI), dpi=DPI)
        figure.patch.set_visible(False)
        box = (
            margins.left / WIDTH,
            margins.bottom / height,
            (WIDTH - margins.left - margins.right) / WIDTH,
            (height - margins.top - margins.bottom) / height,
        )
        axes = figure.add_axes(box)
        _plain(axes)
    return figure, axes


def _plain(axes: Axes) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0, pad=6, labelsize=FONT_SIZE)
    axes.set_axisbelow(True)


def panels(heights: Sequence[float], margins: Margins, gap: float = 16) -> tuple[Figure, list[Axes]]:
    """An empty figure of the page's width with plain axes above each other; only the last one names its columns.

    Args:
        heights: Of the axes from top to bottom, CSS pixels.
        margins: Room around all of them.
        gap: Between two, CSS pixels.
    """
    whole = margins.top + sum(heights) + gap * (len(heights) - 1) + margins.bottom
    below = margins.bottom + sum(heights[1:]) + gap * (len(heights) - 1)
    figure, first = canvas(whole, Margins(margins.left, margins.right, margins.top, below))
    found = [first]
    with mpl.rc_context(_STYLE):
        for number, height in enumerate(heights[1:], start=1):
            bottom = margins.bottom + sum(heights[number + 1 :]) + gap * (len(heights) - 1 - number)
            width = (WIDTH - margins.left - margins.right) / WIDTH
            found.append(figure.add_axes((margins.left / WIDTH, bottom / whole, width, height / whole), sharex=first))
    for axes in found:
        _plain(axes)
    for axes in found[:-1]:
        axes.tick_params(labelbottom=False)
    return figure, found


def render(figure: Figure, key: str, label: str) -> str:
    """One `<svg>` element.

    Args:
        figure: Drawn with the key colours of this module.
        key: Prefix of every id in the element, unique on the page.
        label: What the picture shows, for those who cannot see it.
    """
    buffer = io.StringIO()
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        # Class names may hold letters that matplotlib's own font lacks; the browser's font shows them.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    body = _TAG.sub(lambda tag: _adapt(tag.group(), key), text[text.index("<svg") :])
    opening, rest = body.split(">", 1)
    box = re.findall(r'viewBox="[^"]*"', opening)[0]
    return f'<svg {box} role="img" aria-label="{escape(label)}">{_without_metadata(rest)}'.strip()


def _adapt(tag: str, key: str) -> str:
    """Own ids, the page's colours and the page's font in one tag, and no XML namespace, which HTML does without."""
    tag = _REFERENCE.sub(rf"\g<1>{key}-", tag.replace("xlink:href", "href"))
    for colour, variable in _VARIABLES.items():
        tag = tag.replace(colour, variable)
    return _FONT.sub(r"font-size: \1px", tag)


def _without_metadata(body: str) -> str:
    return re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
