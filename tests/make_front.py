"""A factory of valid fronts: figures are invented, but agree with each other."""

from __future__ import annotations

from typing import Any

from taco.front.dominance import Mark, dominated_by
from taco.front.schema import Front, FrontPoint, Kind, Ratio, Recommendation
from taco.metrics.accuracy import wilson
from taco.report.parts import Proportion
from taco.report.search_schema import DropFigures

N = 320
DENSE_MS = 4.6
#: name, kind, milliseconds, right of N
POINTS: tuple[tuple[str, Kind, float, int], ...] = (
    ("ours-4x", "ours", 1.12, 297),
    ("uniform-4x", "uniform", 1.15, 271),
    ("ours-3x", "ours", 1.5, 306),
    ("macs-3x", "macs", 1.58, 301),
    ("ours-2x", "ours", 2.2, 313),
    ("ort-int8", "runtime-int8", 2.9, 308),
    ("fp32", "fp32", 7.1, 315),
    ("dense", "dense", DENSE_MS, 314),
    ("dense-160x160", "resized", 2.7, 307),
    ("tf_efficientnet_lite2-dense", "beside", 6.9, 317),
)


def make_point(name: str, kind: Kind, ms: float, right: int, **changes: Any) -> FrontPoint:
    found = wilson(right, N)
    drop = 100 * (314 - right) / N
    cut = kind in ("ours", "uniform", "macs")
    fields: dict[str, Any] = {
        "name": name,
        "kind": kind,
        "model": "tf_efficientnet_lite2" if kind == "beside" else "tf_efficientnet_lite0",
        "made_by": "invented",
        "runtime": "ONNX Runtime",
        "precision": "fp32" if kind == "fp32" else "int8",
        "asked": 2.0 if cut else None,
        "p50_ms": ms,
        "ms": ms,
        "speedup": Ratio(value=DENSE_MS / ms, low=0.98 * DENSE_MS / ms, high=1.02 * DENSE_MS / ms),
        "speedup_fp32": Ratio(value=7.1 / ms, low=6.9 / ms, high=7.3 / ms),
        "accuracy": Proportion(percent=found.percent, low=found.low, high=found.high, n=found.n),
        "drop_points": drop,
        "drop_ci95": (drop - 2, drop + 2),
        "select": DropFigures(points=drop, low=drop - 5, high=drop + 5),
        "size_bytes": int(1e6 * ms),
        "macs": None if kind == "runtime-int8" else int(8e7 * ms),
        "params": None if kind == "runtime-int8" else int(1e6 * ms),
        "widths": {"blocks.1.0.conv_pwl": 64} if cut else None,
    }
    return FrontPoint.model_validate({**fields, **changes})


def make_front(points: tuple[tuple[str, Kind, float, int], ...] = POINTS, **changes: Any) -> Front:
    """Every kind of point; `changes` replace top-level fields."""
    made = sorted((make_point(*point) for point in points), key=lambda p: p.p50_ms)
    marks = [Mark.of(point) for point in made]
    kept = [
        p.model_copy(update={"dominated_by": dominated_by(mark, marks)}) for p, mark in zip(made, marks, strict=True)
    ]
    fields: dict[str, Any] = {
        "taco_version": "0.1.0",
        "created": "2026-11-26T10:00:00Z",
        "command": ["taco", "front", "my photos/", "--target", "host-cpu-int8"],
        "seed": 0,
        "task": "trap <1>",
        "classes": ["fox", "hare"],
        "shots": 16,
        "target": "host-cpu-int8",
        "threads": 2,
        "evaluated_on": "evaluation",
        "balanced": False,
        "random_weights": False,
        "limit_points": 1.0,
        "rounds": 25,
        "stopped_early": False,
        "measured_on": {"processor": "Intel N100"},
        "points": kept,
        "recommended": Recommendation(name="ours-2x", reason="the fastest that loses at most 1 point"),
        "warnings": ["no model of ours is both as fast and as right as tf_efficientnet_lite2-dense (6.90 ms, 99.1 %)"],
    }
    return Front.model_validate({**fields, **changes})
