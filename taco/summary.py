"""From a finished run to its report and its bundle."""

from __future__ import annotations

import dataclasses
import datetime
import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import safetensors.numpy

import taco
from taco.abstain import Abstain, choose_threshold
from taco.accuracy import Proportion, Score, called, paired_drop, wilson
from taco.baking import BAKED_NAME
from taco.bench_kit import bench_kit
from taco.bundle import Manifest, labels_file, publish
from taco.checks import failed, loop_fields, precision_section
from taco.device_summary import busy_warnings, device_section, device_warnings, next_step
from taco.formats.names import BLANK
from taco.gates import Gate
from taco.jetson_kit import jetson_kit
from taco.packing import PACKED_NAME
from taco.pictures import CROP_MARGIN
from taco.pipeline import Finished
from taco.report import parts, schema
from taco.size import measure_size
from taco.timings import ModelTiming
from taco.units import UnitMap

_PACKAGES = ("taco-export", "torch", "torchvision", "timm", "onnx", "onnxruntime", "openvino", "numpy", "pillow")


def make_report(
    done: Finished, checks: Sequence[Gate], seconds: Mapping[str, float], command: Sequence[str]
) -> schema.Report:
    """Assemble the report; every figure comes from the run, null where nothing was measured."""
    plan, options, task = done.plan, done.plan.options, done.material.task
    dense_widths = {u.name: u.width for u in plan.units.within_blocks}
    speedup = done.bench.speedup("dense", "compressed") if done.bench else None
    return schema.Report(
        taco_version=taco.__version__,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        command=list(command),
        seed=options.seed,
        task=schema.TaskSection(
            name=task.name,
            classes=list(task.classes),
            shots=options.shots,
            fit_images=len(task.fit),
            select_images=len(task.select),
            eval_images=len(task.evaluation),
            skipped=[f"{s.path}: {s.reason}" for s in task.skipped],
            split_by=task.split_by,
            held_back=task.held_back,
            duplicates=task.duplicates,
            cropped=plan.listings.cropped,
        ),
        model=_model(done),
        target=plan.target.name,
        target_description=plan.target.description,
        local=plan.target.local,
        runtime=_runtime(done),
        accuracy=_accuracy(done),
        size=schema.SizeSection(
            dense=_size(done, done.specialist.module, done.dense.shipped.size_bytes),
            compressed=_size(done, done.cut.module, done.compressed.shipped.size_bytes),
        ),
        chosen_by=plan.budget.words,
        width_ratio=done.cut.ratio,
        sparsity=_sparsity(done),
        latency_ms=_latencies(done),
        latency_source="measured" if done.bench else "none",
        device=device_section(done),
        measured_on=dict(done.bench.measured_on) if done.bench else None,
        baseline_fp32_ms=_latency(done.bench.models["baseline_fp32"]) if done.bench else None,
        speedup=speedup.value if speedup else None,
        speedup_asked=done.asked,
        speedup_rounds=list(speedup.rounds) if speedup else None,
        **loop_fields(done),
        parity=schema.Parity(**dataclasses.asdict(done.judgement.parity)),
        precision=precision_section(done),
        gates=[parts.GateResult(**dataclasses.asdict(gate)) for gate in checks],
        shipped="yes" if not failed(checks) else "forced" if options.force else "no",
        layers=[
            schema.LayerWidth(unit=u.name, kind=u.kind, dense=u.width, kept=done.cut.widths.get(u.name, u.width))
            for u in plan.units.within_blocks
        ],
        recovery=_recovery(done),
        next_step=next_step(done),
        steps=[schema.Step(name=name, seconds=round(s, 3)) for name, s in seconds.items()],
        warnings=_warnings(done, len(dense_widths)),
        versions=_versions(),
    )


def write_bundle(done: Finished, checks: Sequence[Gate], folder: Path) -> Manifest:
    """Put the bundle's files in place, the manifest last; it names the gates that failed and were overruled."""
    plan = done.plan
    files: dict[str, Path | bytes] = {
        "model.onnx": done.compressed.shipped.path,
        "labels.txt": labels_file(done.material.task.classes),
        "preprocessing.json": (json.dumps(plan.generalist.preprocessing.to_dict(), indent=2) + "\n").encode(),
        "parity.safetensors": safetensors.numpy.save(
            {"input": done.judgement.parity_inputs, "logits": done.judgement.parity_logits}
        ),
    }
    if done.packed is not None:
        files[PACKED_NAME] = done.packed
    if done.baked is not None:
        files[BAKED_NAME] = done.baked.path
    if not plan.target.local:
        files |= jetson_kit(done) if plan.target.runtime == "trt" else bench_kit(done)
    return publish(folder, files, _manifest(done) | {"forced": failed(checks)})


def _manifest(done: Finished) -> dict[str, Any]:
    plan = done.plan
    return {
        "taco_version": taco.__version__,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "task": done.material.task.name,
        "classes": list(done.material.task.classes),
        "model": _model(done).model_dump(),
        "target": plan.target.name,
        "runtime": plan.target.runtime,
        "precision": done.target.precision,
        "provider": done.target.provider if done.target.runtime == "ov" else None,
        "crop_margin": CROP_MARGIN if plan.listings.cropped else None,
        "blank_class": _blank(done),
        "sure_from": abstention(done).threshold,
        "allocation": dict(done.cut.widths),
        "seed": plan.options.seed,
    }


def _model(done: Finished) -> schema.ModelSection:
    generalist = done.plan.generalist
    return schema.ModelSection(
        name=generalist.name,
        weights_source=generalist.weights_source,
        weights_sha256=generalist.weights_sha256,
        licence=generalist.licence,
        random_weights=generalist.random_weights,
        head=done.specialist.head,
    )


def _runtime(done: Finished) -> schema.RuntimeSection:
    names = {"ort": "ONNX Runtime", "ov": "OpenVINO", "trt": "TensorRT"}
    target, bench = done.plan.target, done.bench
    used = bench.models["compressed"] if bench else None
    return schema.RuntimeSection(
        name=names[target.runtime],
        version=used.runtime_version if used else None,
        precision=done.target.precision,
        provider=used.provider if used else None,
        threads=bench.threads if bench else None,
    )


def _accuracy(done: Finished) -> schema.AccuracySection:
    task, judged = done.material.task, done.judgement
    dense = Score.from_predictions(judged.labels, judged.dense, task.classes)
    drop = paired_drop(judged.labels, judged.dense, judged.exported, dense.balanced)
    before = Score.from_predictions(judged.labels, judged.stitched, task.classes)
    on: Literal["evaluation", "select"] = "evaluation" if task.evaluation else "select"
    return schema.AccuracySection(
        evaluated_on=on,
        balanced=dense.balanced,
        dense=model_accuracy(done, judged.dense),
        compressed=model_accuracy(done, judged.compressed),
        exported=model_accuracy(done, judged.exported),
        drop_points=drop.points,
        drop_ci95=(drop.low, drop.high),
        by_light=_by_light(done),
        blank_class=_blank(done),
        abstention=_abstention(done),
        before_recovery_top1=before.top1.percent if done.cut.recovered else None,
    )


def _blank(done: Finished) -> str | None:
    return BLANK if BLANK in done.material.task.classes else None


def _by_light(done: Finished) -> dict[Literal["day", "infrared"], schema.LightAccuracy]:
    judged, bank = done.judgement, done.material.bank
    infrared = np.array([bank.facts[p.view].infrared for p in done.material.judged])
    kinds: tuple[tuple[Literal["day", "infrared"], npt.NDArray[np.bool_]], ...]
    kinds = (("day", ~infrared), ("infrared", infrared))
    return {
        light: schema.LightAccuracy(
            dense=_proportion(wilson(int((judged.dense == judged.labels)[here].sum()), int(here.sum()))),
            exported=_proportion(wilson(int((judged.exported == judged.labels)[here].sum()), int(here.sum()))),
        )
        for light, here in kinds
        if here.any()
    }


def abstention(done: Finished) -> Abstain:
    """Return from which probability an answer is sure, chosen on the select pictures."""
    judged = done.judgement
    return choose_threshold(judged.select_shares, judged.select_labels, done.plan.options.sure)


def _abstention(done: Finished) -> schema.Abstention:
    chosen = abstention(done)
    judged = chosen.on(done.judgement.exported_shares, done.judgement.labels)
    unseen = bool(done.material.task.evaluation)
    return schema.Abstention(
        threshold=chosen.threshold,
        asked_percent=chosen.asked_percent,
        select_sure=_proportion(chosen.sure),
        select_right=_maybe(chosen.right),
        eval_sure=_proportion(judged.sure) if unseen else None,
        eval_right=_maybe(judged.right) if unseen else None,
    )


def _maybe(p: Proportion | None) -> parts.Proportion | None:
    return None if p is None else _proportion(p)


def model_accuracy(done: Finished, answers: npt.NDArray[np.int64]) -> schema.ModelAccuracy:
    """Score one model's answers on the judged pictures, (n,) int64."""
    labels, classes = done.judgement.labels, done.material.task.classes
    score = Score.from_predictions(labels, answers, classes)
    per_class = {name: _proportion(p) if p else None for name, p in score.per_class.items()}
    lost = called(labels, answers, classes.index(BLANK)) if BLANK in classes else None
    return schema.ModelAccuracy(
        top1=_proportion(score.top1),
        per_class=per_class,
        animals_called_blank=None if lost is None else schema.Lost(count=lost[0], **dataclasses.asdict(lost[1])),
    )


def _proportion(p: Proportion) -> parts.Proportion:
    return parts.Proportion(percent=p.percent, low=p.low, high=p.high, n=p.n)


def _size(done: Finished, module: Any, size_bytes: int) -> schema.ModelSize:
    size = measure_size(module, done.plan.generalist.preprocessing.input_size)
    return schema.ModelSize(params=size.params, nonzero=size.nonzero, macs=size.macs, bytes=size_bytes)


def _latencies(done: Finished) -> schema.LatencySection | None:
    if done.bench is None:
        return None
    return schema.LatencySection(
        dense=_latency(done.bench.models["dense"]), compressed=_latency(done.bench.models["compressed"])
    )


def _latency(timing: ModelTiming) -> schema.Latency:
    samples: npt.NDArray[np.float64] = np.round(timing.samples_ms, 4)
    return schema.Latency(
        n=timing.n,
        min=timing.min_ms,
        p50=timing.p50_ms,
        p90=timing.p90_ms,
        p99=timing.p99_ms,
        samples=samples.tolist(),
    )


def _recovery(done: Finished) -> dict[str, float | int | str] | None:
    recovered = done.cut.recovered
    if recovered is None:
        return None
    return {
        "minutes asked": done.plan.options.recover_minutes,
        "steps": recovered.steps,
        "kept step": recovered.kept_step,
        "objective on select pictures before": round(recovered.loss_before, 5),
        "objective on select pictures after": round(recovered.loss_after, 5),
    }


def _sparsity(done: Finished) -> schema.SparsitySection | None:
    found, packed = done.cut.sparsity, done.packed
    if found is None or packed is None:
        return None
    weights, nonzero = sum(x.weights for x in found.layers), sum(x.nonzero for x in found.layers)
    return schema.SparsitySection(
        asked_percent=100 * found.asked,
        pattern=found.pattern,
        percent=100 - 100 * nonzero / weights,
        weights=weights,
        nonzero=nonzero,
        layers=[schema.SparseLayer(**dataclasses.asdict(layer)) for layer in found.layers],
        dense=[f"{name}: {reason}" for name, reason in found.dense.items()],
        stages=[
            schema.SparseStage(
                percent=100 * stage.sparsity,
                steps=stage.steps,
                kept_step=stage.kept_step,
                loss_before=stage.loss_before,
                loss_after=stage.loss_after,
            )
            for stage in found.stages
        ],
        packed_bytes=len(packed),
    )


def _warnings(done: Finished, units: int) -> list[str]:
    plan, task = done.plan, done.material.task
    found = list(task.warnings)
    found += _dense(plan.units)
    if task.skipped:
        found.append(f"{len(task.skipped)} pictures could not be read and were left out")
    if not task.evaluation:
        found.append("no pictures were left for evaluation: accuracies are on select pictures, which guided choices")
    if plan.generalist.random_weights:
        found.append("random weights: every accuracy is meaningless")
    found += device_warnings(done)
    if plan.target.runtime == "trt":
        found.append(
            "the TensorRT path has not been run on hardware; accuracies are those of the ONNX file on this CPU"
        )
    if done.given_up is not None:
        found.append(f"INT8 was given up: {done.given_up.why}")
    if done.packed is not None and done.target.precision != "fp32":
        found.append(
            f"{done.target.precision.upper()} weights are not packed: aim at an fp32 target for a small file to send"
        )
    if done.asked is not None and done.asked <= 1:
        found.append("the dense model already is inside the budget: it was kept as it is")
    if done.bench and done.bench.stopped_early:
        found.append("the measurement was stopped at its time limit, before all rounds")
    found += busy_warnings(done)
    if units and done.cut.recovered is None and plan.options.recover_minutes > 0 and done.cut.ratio < 1:
        found.append("no recovery took place")
    if done.cut.recovered is not None and done.cut.recovered.steps == 0:
        found.append(f"{plan.options.recover_minutes:g} minutes were too short for any recovery step on this machine")
    return found


def _dense(units: UnitMap) -> list[str]:
    """Name what stays dense, one sentence a reason."""
    named: dict[str, list[str]] = {}
    for block in units.dense:
        named.setdefault(block.reason, []).append(block.name)
    return [
        f"{names[0]}{f' and {len(names) - 1} more stay' if len(names) > 1 else ' stays'} dense: {reason}"
        for reason, names in named.items()
    ]


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
