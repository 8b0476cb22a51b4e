"""What a report says of the device: what it is, its own answers, its times in other states, and what disturbed them."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence

from taco.attached.fleet import Failed
from taco.attached.ondevice import WRONG_CLOCK_S
from taco.device.trt_engines import engine_file, engine_warnings
from taco.device.trt_preflight import NOT_HARDWARE
from taco.field.benching import told_minute
from taco.field.engine_judge import engines_section
from taco.metrics.gates import DEVICE_GATE, Gate
from taco.pipeline import Finished
from taco.report import device_schema, parts, schema
from taco.summaries.accuracy_section import proportion
from taco.summaries.unit_summary import sustained_minute

#: Name of the engine in the bundle on the device.
ENGINE = "model.engine"


def device_section(done: Finished) -> device_schema.DeviceSection | None:
    """Describe the attached device; None where there is none."""
    device = done.plan.device
    if device is None or done.on_device is None:
        return None
    there, bench, classes = done.on_device, done.bench, done.material.task.classes
    here_score, there_score = there.scores(classes)
    return device_schema.DeviceSection(
        address=device.address.text,
        board=device.board,
        os=str(device.probe["os"]),
        python=str(device.probe["python"]),
        runtime=there.runtime,
        provider=there.provider,
        emulated=device.emulated,
        deployed_to=None,
        images=len(there.labels),
        judged_images=there.judged,
        same_answers=there.same,
        here=proportion(here_score.top1),
        there=proportion(there_score.top1),
        per_class={
            name: None if a is None or b is None else (proportion(a), proportion(b))
            for (name, a), b in zip(here_score.per_class.items(), there_score.per_class.values(), strict=True)
        },
        unreadable=list(there.failures),
        cold_ms={} if bench is None else {n: t.cold_ms for n, t in bench.models.items() if t.cold_ms is not None},
        idle_ms=[] if bench is None else list(bench.idle_ms),
        sustained=[] if bench is None else [sustained_minute(told_minute(m)) for m in bench.sustained],
        unstable=[] if bench is None else list(bench.unstable),
        repeated=bench is not None and bench.repeated,
    )


def engines_run(done: Finished, checks: Sequence[Gate]) -> device_schema.EnginesRun | None:
    """Describe the engines on the attached device; None where TensorRT ran on none."""
    if done.engines is None or done.on_device is None:
        return None
    own = [parts.GateResult(**dataclasses.asdict(gate)) for gate in checks if gate.name == DEVICE_GATE]
    kind = "evaluation" if done.material.task.evaluation else "select"
    return engines_section(done.engines, done.on_device, done.bench, own, kind)


def engines_warning(done: Finished) -> str:
    """Say whether hardware has run the engines, and what accuracies are of."""
    if done.engines is None:
        return "the TensorRT path has not been run on hardware; accuracies are those of the ONNX file on this CPU"
    elsewhere = "accuracies outside of the part on the device are those of the ONNX file on this CPU"
    if done.engines["hardware"] is None:
        return f"{NOT_HARDWARE}: no NVIDIA machine was found, so every time here is that of a stand-in; {elsewhere}"
    return elsewhere


def engine_there(done: Finished) -> dict[str, tuple[str, str]]:
    """Return where the compressed engine lies on the device, and its SHA-256: the tested bytes are deployed."""
    if done.engines is None:
        return {}
    facts = done.engines["engines"]["compressed"]
    return {ENGINE: (engine_file("compressed", facts["key"]), facts["engine_sha256"])}


def device_warnings(done: Finished) -> list[str]:
    """Warn of a device that is absent, emulated, disturbed, or has the wrong time."""
    plan, device = done.plan, done.plan.device
    if device is None:
        if plan.target.local:
            return []
        nothing = "nothing was measured"
        how = "an estimate" if plan.budget.estimated else "MACs"
        chosen = nothing if plan.options.sparse else f"widths were chosen by {how} and {nothing}"
        return [f"no {plan.target.name} was attached: {chosen}"]
    found = []
    if device.emulated:
        found.append(
            f"{device.name} is emulated ({device.emulated}): its answers count, its times mean nothing and were not "
            f"taken; this report holds no result of a {plan.target.name}"
        )
    if not plan.target.may_be(device.board):
        found.append(
            f"{device.name} says that it is: {device.board}. What is told of it holds for no {plan.target.name}"
        )
    if abs(device.clock_off_s) > WRONG_CLOCK_S:
        found.append(f"the clock of {device.name} is {abs(device.clock_off_s):.0f} s off: its pictures get wrong dates")
    if done.engines is not None:
        timed = {} if done.bench is None else {name: timing.session for name, timing in done.bench.models.items()}
        engines = {name: {**facts, **timed.get(name, {})} for name, facts in done.engines["engines"].items()}
        found += engine_warnings(engines, done.engines["layers"])
    if done.bench is not None:
        found += [f"the measurement on {device.name} was disturbed: {reason}" for reason in done.bench.unstable]
    return found


def deployed(
    report: schema.Report, python: str, folder: str, others: Mapping[str, str | Failed] | None = None
) -> schema.Report:
    """Note where the bundle lies on the devices, and what runs it there.

    Args:
        report: Of the run.
        python: The interpreter of the first device that has the runtime, absolute.
        folder: On the first device.
        others: Address of another device -> folder there, or why it has none.
    """
    if report.device is None:
        return report
    device = report.device.model_copy(update={"deployed_to": folder})
    predict = shlex.join([python, f"{folder}/agent.pyz", "predict", folder])
    step = f"on the device, name pictures with: {predict} PICTURES"
    if report.engines_run is not None:
        step = (
            f"on the device, your program loads the engine that was timed and judged, {folder}/{ENGINE}, with "
            f"TensorRT {report.engines_run.tensorrt}"
        )
    failed = {address: outcome for address, outcome in (others or {}).items() if isinstance(outcome, Failed)}
    warnings = [f"{address} was not given the bundle: {outcome}" for address, outcome in failed.items()]
    units = report.units
    if units is not None:
        places = {address: outcome for address, outcome in (others or {}).items() if isinstance(outcome, str)}
        places[device.address] = folder
        placed = [u.model_copy(update={"deployed_to": places.get(u.address)}) for u in units.units]
        units = units.model_copy(update={"units": placed})
    told = {"device": device, "next_step": step, "units": units, "warnings": [*report.warnings, *warnings]}
    return report.model_copy(update=told)


def next_step(done: Finished) -> str | None:
    """What a person does on a device that is not attached."""
    plan = done.plan
    return None if plan.target.local or plan.device is not None else plan.target.instructions("model.onnx")
