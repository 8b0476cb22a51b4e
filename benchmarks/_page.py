"""A benchmark's own part of a page, between two marks, and how its figures are told there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def save(file: Path, name: str, text: str) -> None:
    """Replace the part of a page between the marks of a benchmark; without marks it goes to the end.

    Args:
        file: The page; made where there is none.
        name: Of the benchmark.
        text: Without the marks.
    """
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    page = file.read_text(encoding="utf-8") if file.exists() else "# Benchmarks\n"
    before, _, rest = page.partition(begin)
    after = rest.partition(end)[2] or "\n"
    file.write_text(f"{before.rstrip()}\n\n{begin}\n{text}\n{end}{after}", encoding="utf-8")


def told_drop(cell: Mapping[str, Any]) -> str:
    """Return the points that a cell's model lost, with their interval."""
    return f"{cell['drop']:+.1f} ({cell['drop_low']:+.1f} to {cell['drop_high']:+.1f})"
