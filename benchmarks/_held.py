"""What a run of `--max-drop` kept and lost, for a cell's JSON."""

from __future__ import annotations

from typing import Any

from taco.report.schema import Report


def held(report: Report) -> dict[str, Any]:
    """Return the shares of widths and MACs that are left, and the points lost by the shots and on unseen pictures.

    Raises:
        ValueError: Of a run that was not asked for points.
    """
    if report.max_drop is None:
        raise ValueError("the run had no --max-drop")
    low, high = report.accuracy.drop_ci95 or (None, None)
    return {
        "kept": report.width_ratio,
        "macs": report.size.compressed.macs / report.size.dense.macs,
        "select_points": report.max_drop.shipped.points,
        "drop": report.accuracy.drop_points,
        "drop_low": low,
        "drop_high": high,
    }
