"""The part of `report.json` that tells how often which model is right."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from taco.report.parts import Frozen, Proportion


class Lost(Proportion):
    """Pictures with an animal that were called blank: nobody looks at them again."""

    count: int = Field(description="how many of the n pictures of classes other than the blank one")


class ModelAccuracy(Frozen):
    """Accuracy of one model on the evaluation pictures."""

    top1: Proportion
    per_class: dict[str, Proportion | None] = Field(description="recall; null where a class has no evaluation picture")
    animals_called_blank: Lost | None = Field(
        default=None, description="lost animals; null without a blank class, or without a picture of another class"
    )


class LightAccuracy(Frozen):
    """Accuracy (all pictures alike, never balanced) on the evaluation pictures of one kind of light."""

    dense: Proportion
    exported: Proportion


class Abstention(Frozen):
    """From which probability an answer counts as sure; others are marked for a person to look at."""

    threshold: float = Field(description="least softmax probability of a sure answer, chosen on the select pictures")
    asked_percent: float = Field(description="how many percent of the sure answers should be right")
    select_sure: Proportion = Field(description="share of sure answers on the select pictures")
    select_right: Proportion | None = Field(description="how many of them are right; null where none is sure")
    eval_sure: Proportion | None = Field(description="the same on the evaluation pictures; null without any")
    eval_right: Proportion | None


class Confused(Frozen):
    """Pictures of one class that were given one answer; counts of 0 are left out."""

    true: str
    answer: str
    count: int


class CalibrationBin(Frozen):
    """Answers whose probability lies above `low` and at most at `high`; means in percent."""

    low: float
    high: float
    n: int
    confidence: float
    right: float


class CalibrationError(Frozen):
    """Whether probabilities mean what they say (Guo et al., ICML 2017, eq. 3)."""

    error: float = Field(description="expected calibration error over 15 bins of equal width, percent points")
    bins: list[CalibrationBin] = Field(description="those that hold answers")


class CoveragePoint(Frozen):
    """What a threshold would do; percent."""

    threshold: float
    sure: float = Field(description="sure answers of all")
    right: float = Field(description="right ones of the sure answers")


class Detail(Frozen):
    """The exported model in detail, on the judged pictures."""

    balanced: Proportion = Field(description="mean of the class recalls")
    precision: dict[str, Proportion | None] = Field(description="null for a class that is never the answer")
    worst: str | None = Field(description="class with the lowest recall; null where every one is always right")
    confusion: list[Confused]
    calibration: CalibrationError
    coverage: list[CoveragePoint] = Field(description="from the surest answers alone to all answers")


class Paired(Frozen):
    """The dense specialist (first) and the exported model (second) on the same pictures."""

    both: int
    only_first: int
    only_second: int
    neither: int
    p: float = Field(description="McNemar's exact two-sided test that they are equally often right")


class Answers(Frozen):
    """What the exported model said of each judged picture, so that two runs can be compared picture by picture."""

    ids: list[str] = Field(description="which picture: a hash of its file's size, first 64 KiB and box")
    truth: list[int] = Field(description="place of the true class among the task's classes")
    said: list[int] = Field(description="place of the answer among the task's classes")

    @model_validator(mode="after")
    def _they_pair_up(self) -> Answers:
        if not len(self.ids) == len(self.truth) == len(self.said):
            raise ValueError("there is not one true class and one answer for each picture")
        return self


class AccuracySection(Frozen):
    """Dense specialist, compressed torch model and exported file on the same pictures."""

    evaluated_on: Literal["evaluation", "select", "none"] = Field(
        description="`select`: no evaluation pictures were left, so pictures that also guided choices were used"
    )
    balanced: bool = Field(description="top1 is the mean of the class recalls because classes are unequal")
    dense: ModelAccuracy | None
    compressed: ModelAccuracy | None
    exported: ModelAccuracy | None
    drop_points: float | None = Field(description="dense minus exported, percent points; positive is a loss")
    drop_ci95: tuple[float, float] | None = Field(description="paired 95 % interval of drop_points")
    by_light: dict[Literal["day", "infrared"], LightAccuracy] = Field(
        description="kinds of light that occur among the judged pictures"
    )
    blank_class: str | None = Field(description="the class of empty frames, whose recall is told apart; null without")
    abstention: Abstention
    before_recovery_top1: float | None = Field(description="compressed model before distillation, percent")
    detail: Detail | None = Field(default=None, description="of the exported model; null where nothing was judged")
    paired: Paired | None = Field(default=None, description="null where nothing was judged")
    answers: Answers | None = Field(default=None, description="null where nothing was judged, or a file was gone")
