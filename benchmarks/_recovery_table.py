"""The table and the picture of docs/evidence.md from the cells of `benchmarks.recovery`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.figure import Figure

from benchmarks._page import save, told_drop

_METHODS = ("dense", "unrecovered", "cross-entropy", "logits", "ours")
_COLOURS = {
    "dense": "#8593a0",
    "unrecovered": "#c9ced3",
    "cross-entropy": "#b98a2f",
    "logits": "#7a5ea8",
    "ours": "#0b6a86",
}

Cells = Sequence[Mapping[str, Any]]


def write_evidence(results: Path, evidence: Path) -> str:
    """Replace the part between the marks, or append it, and draw the picture; returns the table."""
    cells = [json.loads(path.read_bytes()) for path in sorted(results.glob("*-seed*.json"))]
    if not cells:
        return "no cells\n"
    text = table(cells)
    draw(cells, evidence.parent / "images" / "recovery.svg")
    save(evidence, "recovery", f"{text}\n![Accuracy against pictures a class](images/recovery.svg)")
    return text


def table(cells: Cells) -> str:
    """Return Markdown: a row for each task, k and seed, and a mean over the seeds where there are several."""
    lines = [
        "| task | k | seed | steps | " + " | ".join(_METHODS) + " | ours, drop (95 %) | on its own shots, CE / ours |",
        "|" + "---|" * (len(_METHODS) + 6),
    ]
    for task, k in sorted({(c["task"], c["k"]) for c in cells}):
        here = [c for c in cells if (c["task"], c["k"]) == (task, k)]
        seeds = sorted({c["seed"] for c in here})
        for seed in seeds:
            row = {c["method"]: c for c in here if c["seed"] == seed}
            shown = " | ".join(_shown(row.get(method)) for method in _METHODS)
            lines.append(
                f"| {task} | {k} | {seed} | {_steps(row)} | {shown} | {_drop(row.get('ours'))} | {_own(row)} |"
            )
        if len(seeds) > 1:
            means = " | ".join(_mean([c for c in here if c["method"] == method]) for method in _METHODS)
            lines.append(f"| {task} | {k} | mean | | {means} | | |")
    n = sorted({c["n"] for c in cells})
    lines += [
        "",
        f"Percent right (95 % interval), class-balanced where classes differ in number; {n[0]} to {n[-1]} evaluation "
        "pictures, the same for every k of a task and seed.",
    ]
    return "\n".join(lines) + "\n"


def draw(cells: Cells, path: Path) -> None:
    """Draw accuracy against k, a panel for each task: seeds as dots with intervals, means as lines."""
    tasks = sorted({c["task"] for c in cells})
    figure = Figure(figsize=(4.6 * len(tasks), 3.8), layout="constrained")
    for number, task in enumerate(tasks, start=1):
        axes = figure.add_subplot(1, len(tasks), number)
        ks = sorted({c["k"] for c in cells if c["task"] == task})
        for shift, method in enumerate(_METHODS):
            here = [c for c in cells if (c["task"], c["method"]) == (task, method)]
            if not here:
                continue
            colour = _COLOURS[method]
            for c in here:
                x = ks.index(c["k"]) + 0.07 * (shift - 2)
                axes.plot([x, x], [c["low"], c["high"]], color=colour, alpha=0.35, linewidth=1.5)
                axes.plot(x, c["percent"], "o", color=colour, markersize=4)
            own = sorted({c["k"] for c in here})
            means = [mean(c["percent"] for c in here if c["k"] == k) for k in own]
            axes.plot([ks.index(k) + 0.07 * (shift - 2) for k in own], means, color=colour, label=method)
        axes.set_xticks(range(len(ks)), labels=[str(k) for k in ks])
        axes.set_xlabel("pictures a class")
        axes.set_ylabel("right, %")
        axes.set_title(f"species that ImageNet {'has' if task == 'known' else 'has not'}", loc="left", fontsize=10)
        axes.grid(axis="y", color="#dfe4e8")
        axes.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


def _shown(cell: Mapping[str, Any] | None) -> str:
    return "-" if cell is None else f"{cell['percent']:.1f} ({cell['low']:.1f} to {cell['high']:.1f})"


def _mean(cells: Cells) -> str:
    return f"{mean(c['percent'] for c in cells):.1f}" if cells else "-"


def _drop(cell: Mapping[str, Any] | None) -> str:
    return "-" if cell is None else told_drop(cell)


def _own(row: Mapping[str, Mapping[str, Any]]) -> str:
    shown = [f"{row[m]['fit_percent']:.0f}" if m in row else "-" for m in ("cross-entropy", "ours")]
    return " / ".join(shown)


def _steps(row: Mapping[str, Mapping[str, Any]]) -> str:
    return next((str(row[m]["steps"]) for m in ("cross-entropy", "logits", "ours") if m in row), "-")
