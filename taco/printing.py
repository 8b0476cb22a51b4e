"""What the command line prints: progress and notes on stderr, results on stdout."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from taco.progress import PlainProgress, Progress, TerminalProgress

if TYPE_CHECKING:
    from taco.pipeline import Plan
    from taco.report.schema import Report
    from taco.targets.loading import Target


def progress(*, quiet: bool) -> Progress:
    """Return bars on a terminal, log lines elsewhere."""
    console = Console(stderr=True)
    return TerminalProgress(console) if console.is_terminal and not quiet else PlainProgress()


def waking_up(*, quiet: bool) -> contextlib.AbstractContextManager[object]:
    """Show that torch is being imported, which takes seconds."""
    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        return contextlib.nullcontext()
    return console.status("starting torch")


def error(text: str) -> None:
    """Print one error."""
    console = Console(stderr=True, soft_wrap=True)
    console.print(Text("Error: ", style="bold red") + Text(text), highlight=False)


def note(text: str) -> None:
    """Print one note on stderr."""
    Console(stderr=True, soft_wrap=True).print(Text(text), highlight=False)


def targets(found: Sequence[Target]) -> None:
    """Print one line a target."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("TARGET", "RUNTIME", "PRECISION", "MEASURED", "WHAT IT IS"):
        table.add_column(column, overflow="fold")
    runtimes = {"ort": "ONNX Runtime", "ov": "OpenVINO", "trt": "TensorRT"}
    for target in found:
        where = "here" if target.local else "on the device"
        table.add_row(target.name, runtimes[target.runtime], target.precision, where, target.description)
    Console(soft_wrap=False).print(table)


def plan(found: Plan) -> str:
    """Describe what a run will do."""
    options, budget = found.options, found.budget
    how = f"--speedup {budget.speedup:g}, measured" if budget.speedup else f"--macs {budget.macs:g}"
    widths = sum(u.width for u in found.units.units)
    lines = [
        f"task      {found.listings.task.name}: {len(found.listings.task.pictures)} pictures of "
        f"{len(found.listings.task.classes)} classes, {options.shots} shots a class",
        f"model     {found.generalist.name}, weights from {found.generalist.weights_source}",
        f"head      {options.head}",
        f"target    {found.target.name}: {found.target.description}",
        f"budget    {how}",
        f"units     {len(found.units.units)} inner widths, {widths} channels, multiples of "
        f"{found.target.channel_multiple}; {len(found.units.dense)} chains stay dense",
        f"recovery  {options.recover_minutes:g} minutes",
        f"out       {options.out}",
        "Nothing was done (--dry-run).",
    ]
    if found.generalist.random_weights:
        lines.insert(2, "WARNING   random weights: every accuracy will be meaningless")
    return "\n".join(lines)


def result(report: Report, folder: Path, *, already_done: bool) -> None:
    """Print what came out: accuracy, size, speed and where the report lies."""
    console = Console(soft_wrap=True)
    if already_done:
        console.print(f"This run is already finished in {folder}; nothing was done.", highlight=False)
    if report.model.random_weights:
        console.print(Text("RANDOM WEIGHTS: every accuracy is meaningless", style="bold red"))
    for name, value in _lines(report):
        console.print(Text(f"{name:<10}", style="bold") + Text(value), highlight=False)
    for warning in report.warnings:
        console.print(Text("warning   ", style="yellow") + Text(warning), highlight=False)
    if report.next_step:
        console.print(Text("next      ", style="bold") + Text(report.next_step), highlight=False)
    console.print(Text("report    ", style="bold") + Text(str(folder / "report.html")), highlight=False)


def _lines(report: Report) -> list[tuple[str, str]]:
    lines = [("accuracy", _accuracy(report)), ("size", _size(report))]
    latency = report.latency_ms
    if latency is None or report.speedup is None:
        return [*lines, ("speed", f"not measured; widths chosen by {report.chosen_by}")]
    rounds = report.speedup_rounds or []
    spread = f"{min(rounds):.2f} to {max(rounds):.2f} over {len(rounds)} rounds" if rounds else ""
    speed = (
        f"{report.speedup:.2f} times as fast, measured on this machine ({spread}): "
        f"{latency.dense.p50:.2f} ms -> {latency.compressed.p50:.2f} ms a picture"
    )
    return [*lines, ("speed", speed)]


def _accuracy(report: Report) -> str:
    accuracy = report.accuracy
    if accuracy.dense is None or accuracy.exported is None or accuracy.drop_points is None:
        return "not judged"
    kind = "class-balanced accuracy" if accuracy.balanced else "accuracy"
    low, high = accuracy.drop_ci95 or (float("nan"), float("nan"))
    unseen = (
        "unseen pictures" if accuracy.evaluated_on == "evaluation" else "SELECT pictures (no unseen ones were left)"
    )
    return (
        f"dense {accuracy.dense.top1.percent:.1f} % -> exported {accuracy.exported.top1.percent:.1f} % "
        f"({kind} on {accuracy.exported.top1.n} {unseen}; drop {accuracy.drop_points:+.1f} points, "
        f"95 % interval {low:+.1f} to {high:+.1f})"
    )


def _size(report: Report) -> str:
    dense, small = report.size.dense, report.size.compressed
    return (
        f"{dense.bytes / 1e6:.1f} MB -> {small.bytes / 1e6:.1f} MB; "
        f"{dense.params / 1e6:.2f} M -> {small.params / 1e6:.2f} M parameters; "
        f"{dense.macs / 1e6:.0f} M -> {small.macs / 1e6:.0f} M multiply-accumulates"
    )
