"""The gates of a finished run, and what its report says of INT8."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from taco.device.openvino_session import HINTS
from taco.formats.names import BLANK
from taco.metrics.accuracy import Score
from taco.metrics.gates import (
    Gate,
    agreement_gate,
    blank_recall_gate,
    class_drop_gates,
    conversion_gate,
    drop_gate,
    parity_gate,
    speed_gate,
    structure_gate,
)
from taco.pipeline import Finished
from taco.report import schema
from taco.report.search_schema import DropSearchSection, LevelSearch
from taco.steps.baking import baked_gate
from taco.steps.converting import floats_name


def gates_of(done: Finished) -> list[Gate]:
    """Check everything that must hold before a model is shipped."""
    judged, options, classes = done.judgement, done.plan.options, done.material.task.classes
    balanced = Score.from_predictions(judged.labels, judged.dense, classes).balanced
    shipped = done.compressed.shipped
    gates = [
        structure_gate(shipped.opset, shipped.nodes),
        parity_gate(judged.parity),
        *([agreement_gate(judged.agreement, shipped.precision)] if shipped.precision != "fp32" else []),
        conversion_gate(judged.labels, judged.compressed, judged.exported, balanced=balanced),
    ]
    if options.gate_drop is not None:
        gates.append(drop_gate(judged.labels, judged.dense, judged.exported, options.gate_drop, balanced=balanced))
    if options.gate_class_drop is not None:
        gates += class_drop_gates(judged.labels, judged.dense, judged.exported, classes, options.gate_class_drop)
    if BLANK in classes and options.blank_recall > 0:
        at = classes.index(BLANK)
        gates.append(blank_recall_gate(judged.labels, judged.exported, at, options.blank_recall))
    if done.baked is not None:
        gates.append(baked_gate(done.baked))
    if done.on_device is not None:
        gates.append(done.on_device.gate(judged, classes))
    return [*gates, *_speed(done)]


def failed(gates: Sequence[Gate]) -> list[str]:
    """Return the names of the gates that failed."""
    return [gate.name for gate in gates if gate.passed is False]


def _speed(done: Finished) -> list[Gate]:
    """Gate a model that was cut to be faster; zeros are for size, and a model that was not cut is the dense one."""
    if done.cut.sparsity is not None or done.dense.shipped.sha256 == done.compressed.shipped.sha256:
        return []
    ratio = done.bench.speedup("dense", "compressed") if done.bench else None
    return [speed_gate(None if ratio is None else (ratio.value, ratio.low, ratio.high))]


def precision_section(done: Finished) -> schema.PrecisionSection | None:
    """Say how INT8 came about; None where the target does not ask for it."""
    given_up = done.given_up
    artifact = done.compressed.shipped if given_up is None else given_up.tried
    found = artifact.quantisation
    if found is None:
        return None
    ratio = None if given_up is None else given_up.ratio
    if given_up is None and done.bench is not None:
        ratio = done.bench.speedup(floats_name(done.compressed), "compressed")
    facts = {key: value for key, value in dataclasses.asdict(found).items() if key != "put_back"}
    return schema.PrecisionSection(
        asked=done.plan.target.precision,
        used=done.target.precision,
        given_up=None if given_up is None else given_up.why,
        faster_than_fp32=None if ratio is None else (ratio.value, ratio.low, ratio.high),
        compared_with="fp16" if done.plan.target.runtime == "trt" else "fp32",
        put_back=[schema.PutBackLayer(**dataclasses.asdict(item)) for item in found.put_back],
        **facts,
    )


def half_section(done: Finished) -> schema.HalfSection | None:
    """Say what OpenVINO's floats of 16 bits are worth; None where the target does not ask for them."""
    asked, given_up = done.plan.target, done.given_up
    if asked.precision not in HINTS or asked.runtime != "ov":
        return None
    ratio = None if given_up is None else given_up.ratio
    if given_up is None and done.bench is not None:
        ratio = done.bench.speedup(floats_name(done.compressed), "compressed")
    return schema.HalfSection(
        asked=asked.precision,
        used=done.target.precision,
        given_up=None if given_up is None else given_up.why,
        faster_than_fp32=None if ratio is None else (ratio.value, ratio.low, ratio.high),
        realised=done.bench.models["compressed"].session["realised"] if done.bench else {},
    )


def loop_fields(done: Finished) -> dict[str, Any]:
    """Return the report's fields of searches, by accuracy or unit by unit; empty without them."""
    fields: dict[str, Any] = {}
    if done.drops is not None:
        fields["max_drop"] = DropSearchSection.model_validate(done.drops)
    found = done.loop
    if found is None:
        return fields
    blocks, searched = found.get("blocks"), found.get("search")
    fields |= {
        "currency": schema.LossCurrency(**found["currency"]),
        "blocks": None if blocks is None else schema.BlocksSection(**blocks),
        "limits": [schema.HeldLimit(**limit) for limit in found["limits"]],
    }
    fields["spread"] = found.get("spread", {})
    if "budget_ms" not in found:
        return fields
    return {
        **fields,
        "budget_ms": found["budget_ms"],
        "rounds": [schema.LatencyRound(**r) for r in found["rounds"]],
        "allocation": [schema.UnitLevel(**u) for u in found["allocation"]],
        "profile": schema.ProfileSection(**found["profile"]),
        "level_search": None if searched is None else LevelSearch(**searched),
        "estimate": schema.Estimate(**found["estimate"]) if "estimate" in found else None,
    }
