"""From a finished run to its report and its bundle."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy

import taco
from taco.bundle import Manifest, labels_file, publish
from taco.field.bench_kit import bench_kit
from taco.field.jetson_kit import jetson_kit
from taco.metrics.gates import Gate
from taco.pictures.bank import CROP_MARGIN
from taco.pipeline import Finished
from taco.recover import INTERRUPTED
from taco.report import parts, schema
from taco.report.max_drop import exceeds
from taco.report.search_schema import DropSearchSection
from taco.sparse.packing import PACKED_NAME
from taco.specialist.head import Candidate
from taco.steps.baking import BAKED_NAME
from taco.steps.checks import failed, half_section, loop_fields, precision_section
from taco.summaries.accuracy_section import abstention, accuracy_section, blank_class
from taco.summaries.device_summary import (
    device_section,
    device_warnings,
    engines_run,
    engines_warning,
    next_step,
)
from taco.summaries.fleet_summary import fleet_section, fleet_warnings
from taco.summaries.measurement import measurement_warnings
from taco.surgery.size import measure_size
from taco.timing.timings import ModelTiming
from taco.units import UnitMap
from taco.wording import asked_points

_PACKAGES = ("taco-export", "torch", "torchvision", "timm", "onnx", "onnxruntime", "openvino", "numpy", "pillow")


def make_report(
    done: Finished, checks: Sequence[Gate], seconds: Mapping[str, float], command: Sequence[str]
) -> schema.Report:
    """Assemble the report; every figure comes from the run, null where nothing was measured."""
    plan, options = done.plan, done.plan.options
    dense_widths = {u.name: u.width for u in plan.units.within_blocks}
    speedup = done.bench.speedup("dense", "compressed") if done.bench else None
    return schema.Report(
        taco_version=taco.__version__,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        command=list(command),
        seed=options.seed,
        task=_task(done),
        model=_model(done),
        target=plan.target.name,
        target_description=plan.target.description,
        local=plan.target.local,
        runtime=_runtime(done),
        accuracy=accuracy_section(done),
        size=schema.SizeSection(
            dense=_size(done.native.module, done.native.reads, done.dense.shipped.size_bytes),
            compressed=_size(
                done.cut.module, plan.generalist.preprocessing.input_size, done.compressed.shipped.size_bytes
            ),
        ),
        chosen_by=plan.budget.words,
        width_ratio=done.cut.ratio,
        sparsity=_sparsity(done),
        latency_ms=_latencies(done),
        latency_source="measured" if done.bench else "none",
        device=device_section(done),
        units=fleet_section(done, command),
        measured_on=dict(done.bench.measured_on) if done.bench else None,
        baseline_fp32_ms=_latency(done.bench.models["baseline_fp32"]) if done.bench else None,
        speedup=speedup.value if speedup else None,
        speedup_asked=done.asked,
        speedup_rounds=list(speedup.rounds) if speedup else None,
        **loop_fields(done),
        parity=schema.Parity(**dataclasses.asdict(done.judgement.parity)),
        precision=precision_section(done),
        half=half_section(done),
        gates=[parts.GateResult(**dataclasses.asdict(gate)) for gate in checks],
        engines_run=engines_run(done, checks),
        shipped="yes" if not failed(checks) else "forced" if options.force else "no",
        layers=[
            schema.LayerWidth(unit=u.name, kind=u.kind, dense=u.width, kept=done.cut.widths.get(u.name, u.width))
            for u in plan.units.units
            if u in plan.units.within_blocks or u.name in done.cut.widths
        ],
        refit=schema.RefitSection(**dataclasses.asdict(done.cut.refit)) if done.cut.refit else None,
        cut_heads=_heads(done.cut.head.candidates if done.cut.head else ()),
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
        "model": _model(done).model_dump(exclude={"head_candidates"}),
        "target": plan.target.name,
        "runtime": plan.target.runtime,
        "precision": done.target.precision,
        "provider": done.target.provider if done.target.runtime == "ov" else None,
        "crop_margin": CROP_MARGIN if plan.listings.cropped else None,
        "blank_class": blank_class(done),
        "sure_from": abstention(done).threshold,
        "allocation": dict(done.cut.widths),
        "seed": plan.options.seed,
    }


def _task(done: Finished) -> schema.TaskSection:
    task = done.material.task
    return schema.TaskSection(
        name=task.name,
        classes=list(task.classes),
        shots=done.plan.options.shots,
        fit_images=len(task.fit),
        select_images=len(task.select),
        eval_images=len(task.evaluation),
        skipped=[*(f"{s.path}: {s.reason}" for s in task.skipped), *done.unlabelled.skipped],
        split_by=task.split_by,
        held_back=task.held_back,
        duplicates=task.duplicates,
        cropped=done.plan.listings.cropped,
        unlabelled_images=len(done.unlabelled.views),
        unlabelled_copies=done.unlabelled.copies,
    )


def _heads(candidates: Iterable[Candidate]) -> list[schema.HeadCandidate]:
    return [schema.HeadCandidate(**dataclasses.asdict(candidate)) for candidate in candidates]


def _model(done: Finished) -> schema.ModelSection:
    generalist = done.plan.generalist
    return schema.ModelSection(
        name=generalist.name,
        weights_source=generalist.weights_source,
        weights_sha256=generalist.weights_sha256,
        licence=generalist.licence,
        random_weights=generalist.random_weights,
        head=done.specialist.head,
        head_candidates=_heads(done.specialist.candidates),
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
        threads=bench.threads if bench and target.runtime != "trt" else None,
    )


def _size(module: Any, reads: tuple[int, int, int], size_bytes: int) -> schema.ModelSize:
    size, pictures = measure_size(module, reads), f"{reads[1]}x{reads[2]}"
    return schema.ModelSize(
        params=size.params, nonzero=size.nonzero, macs=size.macs, bytes=size_bytes, pictures=pictures
    )


def _latencies(done: Finished) -> schema.LatencySection | None:
    if done.bench is None:
        return None
    return schema.LatencySection(
        dense=_latency(done.bench.models["dense"]), compressed=_latency(done.bench.models["compressed"])
    )


def _latency(timing: ModelTiming) -> parts.Latency:
    samples: npt.NDArray[np.float64] = np.round(timing.samples_ms, 4)
    return parts.Latency(
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
        "computed on": recovered.device or "a machine that did not say",
        "steps": recovered.steps,
        "kept step": recovered.kept_step,
        "ended early": recovered.ended or "no",
        "objective on select pictures before": _objective(recovered.loss_before),
        "objective on select pictures after": _objective(recovered.loss_after),
        "views in the teacher's bank": recovered.views,
        "size of the bank, MB": round(recovered.bank_bytes / 1e6, 1),
    }


def _objective(value: float) -> float | str:
    return round(value, 5) if math.isfinite(value) else "not finite"


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
    if done.unlabelled.skipped:
        found.append(f"{len(done.unlabelled.skipped)} unlabelled frames could not be used and were left out")
    if not task.evaluation:
        found.append("no pictures were left for evaluation: accuracies are on select pictures, which guided choices")
    if plan.generalist.random_weights:
        found.append("random weights: every accuracy is meaningless")
    found += [*device_warnings(done), *fleet_warnings(done)]
    if plan.target.runtime == "trt":
        found.append(engines_warning(done))
    if done.given_up is not None:
        found.append(done.given_up.words)
    if done.packed is not None and done.target.precision != "fp32":
        found.append(
            f"{done.target.precision.upper()} weights are not packed: aim at an fp32 target for a small file to send"
        )
    if done.asked is not None and done.asked <= 1 and done.dense.shipped.sha256 == done.compressed.shipped.sha256:
        found.append("the dense model already is inside the budget: it was kept as it is")
    found += measurement_warnings(done.bench)
    if done.drops is not None:
        drops = DropSearchSection.model_validate(done.drops)
        found += [text for text in (exceeds(drops, accuracy_section(done)), _nothing_held(done, drops)) if text]
    if units and done.cut.recovered is None and plan.options.recover_minutes > 0 and done.cut.ratio < 1:
        found.append("no recovery took place")
    return found + _recovery_warnings(done)


def _nothing_held(done: Finished, drops: DropSearchSection) -> str:
    if done.cut.ratio < 1:
        return ""
    limit = asked_points(drops.asked_points)
    reads = done.plan.generalist.preprocessing.input_size
    if reads != done.native.reads:
        if drops.shipped.points <= drops.asked_points:
            return ""
        return (
            f"pictures of {reads[1]}x{reads[2]} pixels alone cost more than {limit}: no channel was taken away. "
            "Ask for a larger --input-size"
        )
    return f"no smaller model loses at most {limit} on held-out shots: the dense one was kept"


def _recovery_warnings(done: Finished) -> list[str]:
    recovered, minutes = done.cut.recovered, done.plan.options.recover_minutes
    if recovered is None:
        return []
    if recovered.ended == INTERRUPTED:
        return ["recovery was interrupted: the best state so far is what you see; a new --out begins it again"]
    if recovered.steps == 0:
        return [f"{minutes:g} minutes were too short for any recovery step on this machine"]
    return []


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
