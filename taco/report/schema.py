"""`report.json`: everything the report page shows, so that the page can be drawn again from this file alone.

ARCHITECTURE section 8 defines every number. Accuracies are percent (0-100). Times are milliseconds. What was not
measured is null, never filled in; NaN and infinity, which JSON cannot hold, are refused.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from taco.report.accuracy_schema import AccuracySection
from taco.report.device_schema import DeviceSection, EnginesRun
from taco.report.parts import Frozen, GateResult, Latency
from taco.report.search_schema import DropSearchSection, LevelSearch
from taco.report.units_schema import UnitsSection

SCHEMA_VERSION = 1


class TaskSection(Frozen):
    """What was asked: the classes and how many pictures served what."""

    name: str
    classes: list[str]
    shots: int = Field(description="labelled pictures a class asked for; fit and select are parts of it")
    fit_images: int
    select_images: int
    eval_images: int = Field(description="pictures used for nothing but this report; 0 in true few-shot")
    skipped: list[str] = Field(description="pictures that could not be used, each 'path: reason'")
    split_by: Literal["location", "sequence", "image"] = Field(
        description="what may not have pictures among the shots and in the evaluation"
    )
    held_back: int = Field(description="pictures used for nothing, because a shot's place, burst or copy is in them")
    duplicates: int = Field(description="pictures that are copies or near copies of another one")
    cropped: bool = Field(description="the model looks at boxes around the animals, not at whole frames")
    unlabelled_images: int = Field(default=0, description="frames without labels that recovery learnt from too")
    unlabelled_copies: int = Field(
        default=0,
        description="frames left out: they show evaluation or select pictures (copies, bursts) or one another again",
    )


class HeadCandidate(Frozen):
    """A head that was considered."""

    name: str
    percent: float = Field(description="class-balanced accuracy on shots that it did not see")
    chosen: bool


class ModelSection(Frozen):
    """The generalist and the head that made it a specialist."""

    name: str
    weights_source: str
    weights_sha256: str
    licence: str
    random_weights: bool
    head: str = Field(description="imagenet-rows | fit-ridge | fit-logistic | keep, with what chose it")
    head_candidates: list[HeadCandidate] = Field(default=[], description="what was compared; empty without a choice")


class RuntimeSection(Frozen):
    """What ran the model. `provider` and `version` are null where nothing was run for the target."""

    name: str
    version: str | None
    precision: str
    provider: str | None
    threads: int | None


class ModelSize(Frozen):
    """Size of one model; `bytes` is its ONNX file."""

    params: int
    nonzero: int
    macs: int
    bytes: int
    pictures: str | None = Field(None, description="what it reads, height x width in pixels; null in older reports")


class SizeSection(Frozen):
    """Sizes of the dense specialist and of the compressed one."""

    dense: ModelSize
    compressed: ModelSize


class LatencySection(Frozen):
    """Latencies of the dense specialist and of the compressed one, exported for the same target."""

    dense: Latency
    compressed: Latency


class Parity(Frozen):
    """Exported file against the compressed torch model on real pictures."""

    max_abs: float = Field(description="largest absolute difference of a logit")
    tolerance: float = Field(description="1e-3 of the logits' largest magnitude")
    argmax_agreement: float = Field(description="percent, over the pictures whose top-two margin is clear")
    counted: int = Field(description="how many pictures had a clear margin")
    images: int


class PutBackLayer(Frozen):
    """A layer that stays in fp32."""

    layer: str
    reason: str
    harm: float | None = Field(description="mean divergence in nats that INT8 of it causes on the select pictures")
    saved: float | None = Field(description="what INT8 of it saves, in `saved_in`")


class PrecisionSection(Frozen):
    """How INT8, which the target asks for, came about, or why it was given up."""

    asked: str
    used: str
    given_up: str | None = Field(description="why INT8 is not used; null where it is")
    faster_than_fp32: tuple[float, float, float] | None = Field(
        description="time of `compared_with` over that of INT8, of the same model: median of rounds and its interval; "
        "null where not measured"
    )
    compared_with: str = Field(default="fp32", description="what INT8 competes with on this target: fp32 or fp16")
    scheme: str = Field(description="kinds of activations and weights")
    layers: int
    quantised: int
    put_back: list[PutBackLayer]
    ranges: str
    bias_corrected: bool
    pictures: int = Field(description="how many pictures the ranges come from")
    divergence: float | None = Field(description="mean KL divergence from the torch model on the select pictures")
    drop_points: float | None = Field(description="lost against the torch model on the select pictures, points")
    evaluations: int
    saved_in: str
    rounding: str = Field(
        default="nearest", description="of weights: to the nearest step, or for the least error of outputs"
    )


class HalfSection(Frozen):
    """What floats of 16 bits, which an OpenVINO target asks for, are worth, or why they were given up."""

    asked: str = Field(description="bf16 or fp16")
    used: str
    given_up: str | None = Field(description="why they are not used; null where they are")
    faster_than_fp32: tuple[float, float, float] | None = Field(
        description="time of fp32 over theirs, of the same model: median of rounds and its interval; null where not "
        "measured"
    )
    realised: dict[str, int] = Field(
        description="kind and precision of the layers that do the arithmetic, read back from the runtime -> how many"
    )


class LayerWidth(Frozen):
    """One unit of the model and the width that was kept."""

    unit: str
    kind: str
    dense: int
    kept: int = Field(description="0 within a block that was left out, and for that block itself, whose width is 1")


class HeldLimit(Frozen):
    """A limit that was to hold beside the budget."""

    flag: str
    asked: float
    used: float = Field(description="counted on the compressed model before export")


class LatencyRound(Frozen):
    """One round of the loop: what was predicted of an allocation and what it took, end to end."""

    predicted_ms: float
    measured_ms: float = Field(description="dense p50 over the median of the interleaved rounds' ratios")


class UnitLevel(Frozen):
    """What the loop chose for one unit."""

    unit: str
    level: str = Field(description="as in width:64; drop: the block is left out, and with it units at width:0")
    latency_ms: float = Field(description="of the block that holds the unit, all else in it dense")
    dense_ms: float = Field(description="of the same block with the unit dense")
    loss: float = Field(description="in the run's currency, see currency")
    source: Literal["measured", "interpolated", "estimated"]


class LossCurrency(Frozen):
    """In which currency the loop added up what units lose, and how well each currency ranked models."""

    currency: Literal["shares", "logarithms", "probes"]
    correlations: dict[str, float] = Field(description="Spearman's, of the currency's sums with measured divergences")
    models: int = Field(description="models that were ranked, with every unit cut")


class BlocksSection(Frozen):
    """Residual blocks that could be left out, beside widths."""

    offered: dict[str, float] = Field(
        description="block -> change of the answers in nats when it alone is left out and the next layer refitted"
    )
    taken: list[str] = Field(description="blocks that were left out")
    harm_with: float | None = Field(
        default=None, description="change of the answers by the choice that leaves blocks out; null where none did"
    )
    harm_without: float | None = Field(
        default=None, description="by the choice of widths alone; null where it was not needed or met no budget"
    )


class ZerosGain(Frozen):
    """Time that zeros in the dense model's weights save on this device."""

    pattern: str
    percent: float
    low: float = Field(description="lower end of its interval")
    high: float


class ProfileSection(Frozen):
    """The latency table behind the loop."""

    device: str
    seconds: float
    cells: int = Field(description="different cells that were timed")
    unattributed_percent: float = Field(description="of the dense model's time that lies in no timed block")
    skipped: dict[str, str] = Field(description="units that could not be timed and stayed dense, and why")
    zeros: list[ZerosGain] = Field(default=[], description="what zeros would gain; the loop chooses among widths alone")
    unpaid: dict[str, list[int]] = Field(
        default={}, description="unit -> timed widths that are no faster than a wider one, and so were not offered"
    )


class RefitSection(Frozen):
    """How the layers that read cut channels were refitted before recovery; the nearer one to the dense is kept."""

    kept: Literal["one by one", "in order"] = Field(
        description="one by one: on the dense model's inputs; in order: on those that the layers before have left"
    )
    one_by_one: float | None = Field(description="distance from the dense model on select pictures; null: not finite")
    in_order: float | None = Field(description="the same, in order; null where that failed or is not finite")
    failed: str | None = Field(description="why refitting in order failed; null where it did not")


class Estimate(Frozen):
    """What a latency table from elsewhere predicts for a device that was not at hand. No result of it."""

    dense_ms: float
    compressed_ms: float
    device: str = Field(description="the device that the table is of, in words")
    corrected: bool = Field(description="by the times of a folder that came back from its device")
    stand_in: bool = Field(description="no NVIDIA machine but a stand-in for it gave the times")


class SparseLayer(Frozen):
    """One layer whose weights became zero."""

    name: str
    weights: int
    nonzero: int
    level: str = Field(description="what the last stage chose, as in unstructured:0.95")
    relative_loss: float = Field(description="squared output error of the last stage, as a share of the output")


class SparseStage(Frozen):
    """One prune and its recovery."""

    percent: float = Field(description="weights that are zero after it")
    steps: int
    kept_step: int
    loss_before: float | None
    loss_after: float | None


class SparsitySection(Frozen):
    """How weights became zero; percentages are of the weights of `layers`."""

    asked_percent: float
    pattern: Literal["unstructured", "2:4", "4-block"]
    percent: float
    weights: int
    nonzero: int
    layers: list[SparseLayer]
    dense: list[str] = Field(description="chosen layers that stayed dense, each 'layer: reason'")
    stages: list[SparseStage]
    packed_bytes: int = Field(description="of the packed file that `taco unpack` makes the ONNX file of")


class Step(Frozen):
    """One step of the run and its duration."""

    name: str
    seconds: float


class Report(Frozen):
    """The whole report."""

    schema_version: Literal[1] = 1
    taco_version: str
    created: str = Field(description="ISO 8601, UTC")
    command: list[str]
    seed: int
    task: TaskSection
    model: ModelSection
    target: str
    target_description: str
    local: bool = Field(description="the target is the machine that made this report, not a device elsewhere")
    runtime: RuntimeSection
    accuracy: AccuracySection
    size: SizeSection
    chosen_by: str = Field(description="what decided the widths: measured latency, MACs, or nothing was cut")
    width_ratio: float
    sparsity: SparsitySection | None = Field(default=None, description="null where no weight was to become zero")
    latency_ms: LatencySection | None
    latency_source: Literal["measured", "none"]
    device: DeviceSection | None = Field(default=None, description="null where no device was attached")
    units: UnitsSection | None = Field(
        default=None, description="the devices of one kind that were measured beside each other, or by `taco bench`"
    )
    measured_on: dict[str, str] | None = Field(description="machine, processor, system, governor, temperatures")
    baseline_fp32_ms: Latency | None
    speedup: float | None = Field(description="median of per-round ratios dense / compressed, interleaved")
    speedup_asked: float | None
    speedup_rounds: list[float] | None = Field(description="the per-round ratios behind speedup")
    budget_ms: float | None = Field(default=None, description="null where no clock decided unit by unit")
    rounds: list[LatencyRound] = Field(default=[], description="of the latency loop, in the order taken")
    allocation: list[UnitLevel] = Field(default=[], description="what the latency loop chose")
    profile: ProfileSection | None = Field(default=None, description="null without the latency loop")
    currency: LossCurrency | None = Field(default=None, description="null where one ratio was taken for all units")
    blocks: BlocksSection | None = Field(default=None, description="null where no block could be left out")
    limits: list[HeldLimit] = Field(default=[], description="what held beside the budget")
    spread: dict[str, float] = Field(
        default={}, description="each choice of equal budget that was compared -> change of the answers, in nats"
    )
    level_search: LevelSearch | None = Field(default=None, description="null where losses were only added up")
    max_drop: DropSearchSection | None = Field(default=None, description="null without --max-drop")
    estimate: Estimate | None = Field(default=None, description="null where no table from elsewhere chose the widths")
    parity: Parity
    precision: PrecisionSection | None = Field(default=None, description="null where the target asks for no INT8")
    half: HalfSection | None = Field(default=None, description="null where the target asks OpenVINO for no such floats")
    gates: list[GateResult] = Field(default=[], description="everything that was checked before shipping")
    shipped: Literal["yes", "forced", "no"] = Field(
        default="yes", description="no: a gate failed and nothing was shipped; forced: shipped all the same"
    )
    engines_run: EnginesRun | None = Field(
        default=None, description="what TensorRT did on the device; null until it has run there"
    )
    layers: list[LayerWidth]
    refit: RefitSection | None = Field(
        default=None, description="null where nothing was cut, where it was recovered, or with --no-sequential"
    )
    cut_heads: list[HeadCandidate] = Field(
        default=[], description="heads that were compared on what the cut left of the features; empty without a choice"
    )
    recovery: dict[str, float | int | str] | None = Field(description="steps, batch, learning rate, what was kept")
    next_step: str | None = Field(description="what to run on the device when it was absent")
    steps: list[Step]
    warnings: list[str]
    versions: dict[str, str]

    @model_validator(mode="after")
    def _answers_are_classes(self) -> Report:
        answers = self.accuracy.answers
        places = [] if answers is None else [*answers.truth, *answers.said]
        if places and not 0 <= min(places) <= max(places) < len(self.task.classes):
            raise ValueError("an answer is none of the task's classes")
        return self

    @model_validator(mode="after")
    def _emulated_times_are_none(self) -> Report:
        """An emulated device's times say nothing of the board: a report that holds any cannot be made."""
        if self.device is None or self.device.emulated is None:
            return self
        times = (self.latency_ms, self.baseline_fp32_ms, self.speedup, self.measured_on)
        if any(time is not None for time in times) or self.device.has_times:
            raise ValueError("the device is emulated, and its times are no result of a device")
        return self
