"""Small latency tables with made-up times."""

from __future__ import annotations

from collections.abc import Mapping

from taco.latency.table import Cell, LatencyTable, TableKey, UnitCells

KEY = TableKey(
    device={"machine": "x86_64", "processor": "N100"},
    runtime="ort",
    runtime_version="1.32.0",
    provider="CPUExecutionProvider",
    precision="fp32",
    threads=2,
    model="tiny",
    architecture="abc",
)


def make_cell(width: int, ms: float, spread: float = 0.01, min_ms: float | None = None) -> Cell:
    return Cell(
        width=width, min_ms=0.9 * ms if min_ms is None else min_ms, p50_ms=ms, n=30, spread=spread, source="measured"
    )


def make_unit(
    times: Mapping[int, float], signature: str = "s", spread: float = 0.01, min_ms: float | None = None
) -> UnitCells:
    """Cells of these widths and times; `min_ms` is the fastest run of all of them."""
    cells = tuple(make_cell(w, times[w], spread, min_ms) for w in sorted(times, reverse=True))
    return UnitCells(kind="inner", holder="blocks.0", signature=signature, cells=cells)


def make_table(dense_ms: float = 10.0, **units: Mapping[int, float]) -> LatencyTable:
    found = units or {"a": {64: 4.0, 32: 3.0, 16: 1.0}}
    return LatencyTable(
        key=KEY,
        created="2026-11-26T04:30:00+00:00",
        seconds=1.0,
        stopped_early=False,
        dense_ms=dense_ms,
        dense_n=100,
        units={name: make_unit(times) for name, times in found.items()},
        skipped={},
    )
