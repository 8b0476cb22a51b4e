"""What a person asks for: every flag of `taco-export`, validated once."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator

from taco.address import parse_address
from taco.errors import InputError

DEFAULT_MODEL = "tf_efficientnet_lite0"
#: Least confidence of a detection that counts.
MIN_CONFIDENCE = 0.2
_COMPUTE = re.compile(r"auto|cpu|cuda(:\d+)?")
SplitBy = Literal["auto", "location", "sequence", "image"]
Pattern = Literal["unstructured", "2:4", "4-block"]
Calibration = Literal["task", "agnostic"]
#: Percent by which something may be faster on this device where another one's small model is taken: a search of its own
#: leaves up to an eighth of the time to chance (judgement, docs/adr/0027).
TAKE_OVER = 5.0
Allocate = Literal["auto", "latency", "uniform"]
Search = Literal["dp", "spdy", "evopress"]

#: Minutes of recovery where none are asked: for what may be cut heavily, and for what loses little, which longer
#: recovery does not bring nearer (docs/adr/0013).
RECOVER_MINUTES, WITHIN_MINUTES = 5.0, 2.0


class ExportOptions(BaseModel):
    """Options of one export.

    Attributes:
        task: Image folder (one folder a class), CSV (`path,label`), COCO or COCO-CameraTraps JSON, Camtrap DP package.
        target: Name of a target.
        model: timm model.
        weights: Weight file; None looks for a pip package, then the hub.
        random_weights: Load nothing.
        classes: Only these classes; None takes all.
        class_map: JSON or CSV, class -> ImageNet label.
        head: auto, imagenet (cut to rows), fit, or keep.
        fine_tune: Also try a light fine-tune of the last blocks.
        input_size: Pixels of the shorter side of what the compressed model reads; auto lets the model's own size and
            smaller ones compete. None is the model's own, which the dense model that is compared with always reads.
        shots: Labelled pictures a class.
        images: Where the file names of a CSV or JSON start; None is the folder of that file.
        boxes: MegaDetector output: where the animals are.
        crop: Look at the boxes only; None does so where the animals have boxes.
        min_confidence: Least confidence of a detection that counts.
        max_images: Pictures a class that are read at most; 0 is no limit.
        split_by: What may not straddle the split; auto is the coarsest that the task tells.
        evaluation: The same forms as `task`; None takes what the shots leave.
        speedup: Asked ratio of dense to compressed time, measured.
        latency_ms: Asked milliseconds a picture, measured.
        allocation: How widths are found: every unit by its own loss and time (or multiply-accumulates), or one ratio;
            auto is unit by unit, and one ratio with `max_drop`.
        max_drop: Points that may be lost on the select pictures; the fastest such model is searched.
        search: How levels are chosen unit by unit: by the sum of losses, or by judging whole models too.
        search_evaluations: Most models that such a search judges.
        widths: JSON file, unit -> channels to keep, or a bundle's manifest; nothing is searched.
        latency_table: Table of a device that is not at hand; widths are then found by it, as an estimate.
        feedback: Folder that came back from its device: its times correct the estimate.
        macs: Share of the dense multiply-accumulates to keep.
        max_bytes: Limit on the shipped file's size, beside the budget.
        max_macs: Limit on the multiply-accumulates of one picture.
        max_memory: Limit on the bytes of activations at a time, as torch runs one picture.
        sparsity: Share of the weights to make zero, layer by layer; widths stay.
        pattern: Which weights may be zero together; None is unstructured where a sparsity is asked.
        include: Only layers that fit one of these globs become sparse.
        exclude: Layers that fit one of these globs stay dense.
        solver: Of sparse layers; auto takes the best that the layer's size allows.
        sequential: Solve sparse layers, and without recovery those that read cut channels, once more, each for the
            inputs that those before it have left.
        damping: Multiple of mean(diag H); None chooses it per layer on held-out pictures.
        calibration: On the task's own pictures, or on others (the control).
        agnostic_images: Pictures of anything, for the control.
        executor: Where the layers' problems are solved: local, local:N, dask://host:port or ray.
        compute: Where torch trains and asks the teacher: auto, cpu, cuda or cuda:N.
        recover_minutes: Time for distillation; 0 is none. Where none is given, `WITHIN_MINUTES` with a max_drop.
        unlabelled: Folder of the site's frames without labels, which distillation learns from too.
        threads: Threads of the timed model; None is the target's own choice.
        seed: Draws shots, folds and views.
        gate_drop: Points of accuracy that the exported file may lose against the dense specialist; None gates nothing.
        gate_class_drop: The same of the recall of each class.
        blank_recall: Percent of the empty frames that the exported file must recognise; 0 gates nothing.
        force: Ship what a gate refuses, marked.
        bake_preprocessing: Ship a second form of the model that takes pixels; None does so for CPUs elsewhere.
        runtime_device: OpenVINO's device: CPU, GPU or NPU; None is the target's own.
        device: Addresses of attached devices of the target's kind, as `taco.address` reads them; the first that can be
            reached decides the widths. None where there is none.
        sure: Percent of the sure answers that should be right; decides from which probability an answer is sure.
        out: Folder of the bundle.
        from_run: Folder of another run whose finished steps are taken over where they fit.
        take_over: With `max_drop`, percent by which this device's own table may have something faster for the same
            expected loss while the widths of `from_run` are taken; where it has more, this device has its own search.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    task: Path
    target: str
    model: str = DEFAULT_MODEL
    weights: Path | None = None
    random_weights: bool = False
    classes: tuple[str, ...] | None = None
    class_map: Path | None = None
    head: Literal["auto", "imagenet", "fit", "keep"] = "auto"
    fine_tune: bool = False
    input_size: int | Literal["auto"] | None = None
    shots: int = 16
    images: Path | None = None
    boxes: Path | None = None
    crop: bool | None = None
    min_confidence: float = MIN_CONFIDENCE
    max_images: int = 2000
    split_by: SplitBy = "auto"
    evaluation: Path | None = None
    speedup: float | None = None
    latency_ms: float | None = None
    max_drop: float | None = None
    allocation: Allocate = "auto"
    search: Search = "dp"
    search_evaluations: int = 100
    widths: Path | None = None
    latency_table: Path | None = None
    feedback: Path | None = None
    macs: float | None = None
    max_bytes: float | None = None
    max_macs: float | None = None
    max_memory: float | None = None
    sparsity: float | None = None
    pattern: Pattern | None = None
    include: tuple[str, ...] | None = None
    exclude: tuple[str, ...] | None = None
    solver: str = "auto"
    sequential: bool = True
    damping: float | None = None
    calibration: Calibration = "task"
    agnostic_images: Path | None = None
    executor: str = "local"
    compute: str = "auto"
    recover_minutes: float = RECOVER_MINUTES
    unlabelled: Path | None = None
    threads: int | None = None
    seed: int = 0
    gate_drop: float | None = None
    gate_class_drop: float | None = None
    blank_recall: float = 50.0
    force: bool = False
    bake_preprocessing: bool | None = None
    runtime_device: Literal["CPU", "GPU", "NPU"] | None = None
    device: tuple[str, ...] | None = None
    sure: float = 95.0
    out: Path
    from_run: Path | None = None
    take_over: float = TAKE_OVER

    @field_validator("device", mode="before")
    @classmethod
    def _one_device(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="before")
    @classmethod
    def _usual_minutes(cls, values: object) -> object:
        if not isinstance(values, dict) or values.get("recover_minutes") is not None:
            return values
        usual = RECOVER_MINUTES if values.get("max_drop") is None else WITHIN_MINUTES
        return {**values, "recover_minutes": usual}

    @property
    def sparse(self) -> bool:
        """Whether weights are to become zero, rather than channels to go."""
        return self.zeros is not None

    @property
    def zeros(self) -> float | None:
        """The share of weights that is to become zero; None where none is."""
        return 0.5 if self.pattern == "2:4" else self.sparsity

    @property
    def mask(self) -> Pattern:
        """Which weights may become zero together."""
        return self.pattern or "unstructured"


def make_options(values: dict[str, object]) -> ExportOptions:
    """Validate what was asked.

    Raises:
        InputError: A value is out of range, or two exclude each other.
    """
    try:
        options = ExportOptions.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{_flag(str(first['loc'][0]))}: {first['msg']}", "See `taco-export --help`") from error
    _check(options)
    return options


def _flag(field: str) -> str:
    return {"task": "TASK", "evaluation": "--eval", "from_run": "--from"}.get(field, "--" + field.replace("_", "-"))


def _check(options: ExportOptions) -> None:
    rules = (
        (
            options.shots >= 2,
            f"--shots {options.shots}: at least 2 pictures a class are needed (one to fit, one to select)",
        ),
        (options.speedup is None or options.macs is None, "--speedup and --macs exclude each other"),
        (
            options.speedup is None or 0 < options.speedup < math.inf,
            f"--speedup {options.speedup}: a finite ratio above 0",
        ),
        (
            options.macs is None or 0 < options.macs <= 1,
            f"--macs {options.macs}: a share above 0 and at most 1 is kept",
        ),
        (
            0 <= options.recover_minutes < math.inf,
            f"--recover-minutes {options.recover_minutes}: 0 is none, less cannot be",
        ),
        (bool(_COMPUTE.fullmatch(options.compute)), f"--compute {options.compute}: auto, cpu, cuda or cuda:N"),
        (0 <= options.seed < 2**32, f"--seed {options.seed}: a whole number from 0 to {2**32 - 1}"),
        (options.threads is None or options.threads >= 1, f"--threads {options.threads}: at least 1"),
        (options.weights is None or not options.random_weights, "--weights and --random-weights exclude each other"),
        (0 <= options.min_confidence <= 1, f"--min-confidence {options.min_confidence}: from 0 to 1"),
        (
            options.max_images == 0 or options.max_images >= options.shots,
            f"--max-images {options.max_images}: at least the {options.shots} shots, or 0 for all",
        ),
        *(
            (value is None or 0 <= value <= 100, f"--{flag} {value}: points from 0 to 100, as in 2")
            for flag, value in (("gate-drop", options.gate_drop), ("gate-class-drop", options.gate_class_drop))
        ),
        (0 <= options.blank_recall <= 100, f"--blank-recall {options.blank_recall}: a percentage; 0 is no such gate"),
        (0 < options.sure <= 100, f"--sure {options.sure}: a percentage above 0 and at most 100"),
        (options.boxes is None or options.crop is not False, "--boxes and --no-crop exclude each other"),
        *_input_size_rules(options),
        *_latency_rules(options),
        *_limit_rules(options),
        *_search_rules(options),
        *_sparsity_rules(options),
        (not options.fine_tune or options.head != "keep", "--fine-tune and --head keep exclude each other"),
        (options.classes is None or len(options.classes) >= 1, "--classes names no class"),
        (
            options.class_map is None or options.class_map.is_file(),
            f"--class-map {options.class_map}: there is no such file",
        ),
    )
    for holds, message in rules:
        if not holds:
            raise InputError(message, "See `taco-export --help`")
    if options.device is not None:
        addresses = [parse_address(text) for text in options.device]
        if not addresses or len(set(options.device)) < len(addresses):
            raise InputError("--device names no device, or one twice", "Name each device once")


def _input_size_rules(options: ExportOptions) -> tuple[tuple[bool, str], ...]:
    size = options.input_size
    return (
        (
            size in (None, "auto") or 32 <= int(size) <= 4096,
            f"--input-size {size}: pixels from 32 to 4096, as in 160, or auto",
        ),
        (
            size != "auto" or (options.max_drop is not None and options.allocation == "latency"),
            "--input-size auto needs --max-drop and --allocation latency: measured time and loss choose the size",
        ),
        (
            size is None or options.latency_table is None,
            "--input-size and --latency-table exclude each other: what a smaller input gains must be measured",
        ),
        (
            size is None or not options.sparse,
            "--input-size and --sparsity exclude each other: zeros are for the size of the file, and widths stay",
        ),
    )


def _latency_rules(options: ExportOptions) -> tuple[tuple[bool, str], ...]:
    asked = options.latency_ms
    others = (("speedup", options.speedup), ("macs", options.macs), ("sparsity", options.sparsity))
    return (
        (asked is None or 0 < asked < math.inf, f"--latency-ms {asked}: a finite number of milliseconds above 0"),
        *((asked is None or value is None, f"--latency-ms and --{flag} exclude each other") for flag, value in others),
        (asked is None or options.pattern != "2:4", "--pattern 2:4 excludes --latency-ms"),
        (
            options.latency_table is None or options.device is None,
            "--latency-table is for a device that is not at hand, and --device names one",
        ),
        (
            options.latency_table is None or options.max_drop is None,
            "--max-drop and --latency-table exclude each other: a table serves --latency-ms or --speedup",
        ),
        (
            options.latency_table is None or asked is not None or options.speedup is not None,
            "--latency-table needs --latency-ms or --speedup",
        ),
        (
            options.latency_table is None or options.allocation != "uniform",
            "--latency-table and --allocation uniform exclude each other: the table says what each unit takes",
        ),
        (options.feedback is None or options.latency_table is not None, "--feedback corrects a --latency-table"),
    )


def _limit_rules(options: ExportOptions) -> tuple[tuple[bool, str], ...]:
    limits = {name: getattr(options, name) for name in ("max_bytes", "max_macs", "max_memory")}
    asked = {_flag(name): value for name, value in limits.items() if value is not None}
    others = (
        (options.sparse, "--sparsity or --pattern 2:4"),
        (options.allocation == "uniform", "--allocation uniform"),
        (options.max_drop is not None, "--max-drop"),
        (options.widths is not None, "--widths"),
    )
    return (
        *(
            (0 < value < math.inf, f"{flag} {value}: a finite number above 0, as in 4e6")
            for flag, value in asked.items()
        ),
        *((not given, f"{flag} and {other} exclude each other") for flag in asked for given, other in others),
    )


def _search_rules(options: ExportOptions) -> tuple[tuple[bool, str], ...]:
    limit, asked = options.max_drop, {"max-drop": options.max_drop, "widths": options.widths}
    others = {
        "speedup": options.speedup,
        "latency-ms": options.latency_ms,
        "macs": options.macs,
        "sparsity": options.sparsity,
        "pattern": options.pattern,
    }
    timed = any(budget is not None for budget in (options.speedup, options.latency_ms, options.max_drop))
    by_unit = options.allocation == "latency" or (options.allocation == "auto" and limit is None)
    return (
        (limit is None or 0 <= limit <= 100, f"--max-drop {limit}: points from 0 to 100, as in 1"),
        *(
            (one is None or other is None, f"--{name} and --{flag} exclude each other")
            for name, one in asked.items()
            for flag, other in others.items()
        ),
        (options.max_drop is None or options.widths is None, "--max-drop and --widths exclude each other"),
        (options.widths is None or options.widths.is_file(), f"--widths {options.widths}: there is no such file"),
        (
            options.search == "dp" or (timed and by_unit),
            f"--search {options.search} chooses among measured levels: it needs --speedup or --latency-ms, or "
            "--allocation latency with --max-drop",
        ),
        (0 <= options.take_over < math.inf, f"--take-over {options.take_over}: percent from 0, as in 5"),
        (options.search_evaluations >= 1, f"--search-evaluations {options.search_evaluations}: at least 1"),
    )


def _sparsity_rules(options: ExportOptions) -> tuple[tuple[bool, str], ...]:
    sparsity, pattern, agnostic = options.sparsity, options.pattern, options.agnostic_images
    return (
        (sparsity is None or 0 < sparsity < 1, f"--sparsity {sparsity}: the share that becomes zero, as in 0.9"),
        (sparsity is None or options.speedup is None, "--sparsity and --speedup exclude each other"),
        (sparsity is None or options.macs is None, "--sparsity and --macs exclude each other"),
        (
            pattern != "2:4" or (options.speedup is None and options.macs is None),
            "--pattern 2:4 excludes --speedup and --macs",
        ),
        (
            pattern != "2:4" or sparsity in (None, 0.5),
            f"--pattern 2:4 makes half of the weights zero, and --sparsity {sparsity} asks for something else",
        ),
        (pattern in (None, "2:4") or sparsity is not None, f"--pattern {pattern} needs --sparsity, as in 0.9"),
        (
            options.sparse or (options.include is None and options.exclude is None),
            "--include and --exclude name layers for --sparsity or --pattern 2:4",
        ),
        (
            options.damping is None or 0 <= options.damping < math.inf,
            f"--damping {options.damping}: a number from 0, as in 0.01",
        ),
        (options.calibration == "task" or agnostic is not None, "--calibration agnostic needs --agnostic-images DIR"),
        (options.calibration == "agnostic" or agnostic is None, "--agnostic-images needs --calibration agnostic"),
        (agnostic is None or agnostic.is_dir(), f"--agnostic-images {agnostic}: there is no such folder"),
    )
