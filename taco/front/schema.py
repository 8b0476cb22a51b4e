"""`front.json`: every model that was made and measured for a front, so that the page can be drawn from it alone.

All times are of one interleaved run. Accuracies are percent, losses percent points (docs/definitions.md).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from taco.report.parts import Frozen, Proportion
from taco.report.search_schema import DropFigures

Kind = Literal["ours", "uniform", "macs", "dense", "resized", "fp32", "runtime-int8", "beside"]


class Ratio(Frozen):
    """How many times as fast as another model: the median over interleaved rounds, and its 95 % interval."""

    value: float
    low: float
    high: float


class FrontPoint(Frozen):
    """One model on one runtime."""

    name: str = Field(description="unique; what `--pick` takes, beside the number in the list")
    kind: Kind = Field(
        description="ours: every unit by its time and loss; uniform: one ratio; macs: MACs for time; dense, fp32: the "
        "dense specialist; resized: that for pictures of another size; runtime-int8: a dense model quantised by the "
        "runtime's own tool; beside: another dense model"
    )
    model: str = Field(description="timm's name")
    pictures: str | None = Field(default=None, description="height x width, pixels that it reads")
    made_by: str = Field(description="in words")
    runtime: str
    precision: str
    asked: float | None = Field(default=None, description="speed-up by the table that the widths were chosen for")
    p50_ms: float = Field(gt=0, description="median of all samples of the interleaved run")
    ms: float | None = Field(
        default=None,
        gt=0,
        description="where it lies in the front: the dense specialist's p50 over the speed-up over it, so that a "
        "machine that changes its speed meanwhile moves no model alone; null in older fronts, which lie by p50_ms",
    )
    speedup: Ratio = Field(description="over the dense specialist for the same target")
    speedup_fp32: Ratio = Field(
        description="over the dense specialist in fp32 under ONNX Runtime, or the target's runtime"
    )
    accuracy: Proportion = Field(description="on the judged pictures")
    drop_points: float = Field(description="dense specialist minus this model on the same pictures; positive is a loss")
    drop_ci95: tuple[float, float]
    select: DropFigures = Field(description="the same on the select pictures: what choices are made by")
    params: int | None = Field(default=None, description="null for files of a runtime's own tool")
    macs: int | None = None
    size_bytes: int
    steps: int = Field(default=0, description="of recovery")
    widths: dict[str, int] | None = Field(default=None, description="unit -> channels kept; null where nothing was cut")
    dominated_by: str | None = Field(
        default=None, description="a model that is no slower and no less right; null: front"
    )

    @property
    def takes_ms(self) -> float:
        """Milliseconds of one picture by which models are compared."""
        return self.p50_ms if self.ms is None else self.ms


class Recommendation(Frozen):
    """The point that the program would take, and why."""

    name: str
    reason: str


class Front(Frozen):
    """A whole front."""

    schema_version: Literal[1] = 1
    taco_version: str
    created: str = Field(description="ISO 8601, UTC")
    command: list[str]
    seed: int
    task: str
    classes: list[str]
    shots: int
    target: str
    threads: int
    evaluated_on: Literal["evaluation", "select"]
    balanced: bool = Field(description="accuracies are means of the classes' recalls")
    random_weights: bool
    limit_points: float = Field(description="what the recommendation may lose on the select pictures")
    rounds: int
    stopped_early: bool
    measured_on: dict[str, str]
    points: list[FrontPoint] = Field(min_length=1, description="the fastest first")
    recommended: Recommendation | None = Field(description="null where no model of ours may be chosen")
    warnings: list[str]

    @property
    def taken(self) -> FrontPoint | None:
        """The recommended point."""
        name = None if self.recommended is None else self.recommended.name
        return next((point for point in self.points if point.name == name), None)

    @model_validator(mode="after")
    def _names_are_unique_and_known(self) -> Front:
        names = [point.name for point in self.points]
        if len(set(names)) != len(names):
            raise ValueError(f"two points have one name: {names}")
        named = [point.dominated_by for point in self.points] + [self.recommended.name if self.recommended else None]
        if unknown := sorted({name for name in named if name is not None} - set(names)):
            raise ValueError(f"{unknown[0]!r} is no point")
        return self
