"""The part of the page that tells what a copied folder found on its device, and the label while it has not run."""

from __future__ import annotations

from taco.report import wording
from taco.report.device_schema import EngineFacts, EnginesRun, LayerProfile
from taco.report.page import Block, Folded, Note, Section, Table, Tone
from taco.report.schema import Report

NOT_HARDWARE = "not run on hardware"
_RESULT = {True: "passed", False: "FAILED", None: "not decided"}
_DASH = "\N{EN DASH}"


def not_on_hardware(report: Report) -> str:
    """Say that no device has run what this page is about; empty where one has, or where none has to."""
    if report.runtime.name != "TensorRT":
        return ""
    if report.engines_run is None:
        return f"{NOT_HARDWARE}: no {report.target} has built or run this model yet"
    if report.engines_run.hardware is None:
        return f"{NOT_HARDWARE}: no NVIDIA machine was found, so every time on this page is that of a stand-in"
    return ""


def broken_engines(report: Report) -> list[str]:
    """Return the names of the checks that failed on the device."""
    return (
        [] if report.engines_run is None else [gate.name for gate in report.engines_run.gates if gate.passed is False]
    )


def engine_sections(report: Report) -> tuple[Section, ...]:
    """Return what was found on the device; nothing until it has run."""
    found = report.engines_run
    if found is None:
        return ()
    blocks: list[Block] = [_note(report, found), Table((), _machine(found), numeric=False), _accuracy(found)]
    if found.gates:
        rows = tuple((gate.name, _RESULT[gate.passed], gate.measured, gate.limit) for gate in found.gates)
        blocks.append(Table(("check on the device", "result", "found", "allowed"), rows, numeric=False))
    blocks.append(_engines(found))
    blocks += [Folded(f"Where the time of {name} goes", _layers(layers)) for name, layers in found.layers.items()]
    text = "The engine is another program than the file it was built from; this is what it did on the device itself."
    title = "On the device" if report.device is None else "The engines on the device"
    return (Section("engines", title, text, tuple(blocks)),)


def _note(report: Report, found: EnginesRun) -> Note:
    label = not_on_hardware(report)
    if label:
        return Note(f"{label[:1].upper()}{label[1:]}.", Tone.BAD)
    broken = broken_engines(report)
    if broken:
        return Note(f"FAILED: {', '.join(broken)}. Do not use these engines.", Tone.BAD)
    if not found.gates:
        return Note("No pictures were in the folder: the engines' accuracy is unknown.", Tone.WARN)
    return Note("The engines answer as the files they were built from.", Tone.GOOD)


def _machine(found: EnginesRun) -> tuple[tuple[str, str], ...]:
    free = "unknown" if found.memory_free_mib is None else f"{wording.amount(found.memory_free_mib)} MiB"
    typing = "strongly typed" if found.strongly_typed else "weakly typed"
    return (
        ("hardware", found.hardware or NOT_HARDWARE),
        ("GPU", f"{found.gpu or 'unknown'}, compute capability {found.compute_capability or 'unknown'}"),
        ("TensorRT", f"{found.tensorrt}, {typing} networks (options of {found.recipe})"),
        ("Jetson Linux", found.jetson_linux),
        ("power mode", found.power_mode),
        ("free memory before the build", free),
        ("scratch memory of the builder", f"{wording.amount(found.workspace_mib)} MiB"),
    )


def _accuracy(found: EnginesRun) -> Block:
    if not found.accuracy:
        return Note("Accuracy was not measured on the device.", Tone.WARN)
    rows = tuple(
        (name, wording.percent(score.percent), wording.interval(score.low, score.high), wording.amount(score.n))
        for name, score in found.accuracy.items()
    )
    caption = "Share of all pictures; classes are not weighed."
    if found.evaluated_on == "select":
        caption += " These pictures also guided choices: likely too good."
    return Table(("engine", "right", "95 % interval", "pictures"), rows, caption)


def _engines(found: EnginesRun) -> Table:
    rows = tuple(
        (
            name,
            facts.precision,
            wording.duration(facts.build_s),
            wording.size(facts.engine_bytes),
            _sparse(facts),
            wording.amount(facts.skipped),
            f"{max(facts.unstable_percent):.1f} %" if facts.unstable_percent else "steady",
            facts.key,
        )
        for name, facts in found.engines.items()
    )
    columns = ("engine", "precision", "build", "size", "2:4 kernels", "kernels not tried", "unsteady runs", "key")
    caption = "2:4: layers that got a sparse kernel, of those that could. Not tried: memory was short at build time."
    return Table(columns, rows, caption, numeric=False)


def _sparse(facts: EngineFacts) -> str:
    if facts.eligible is None or facts.chosen is None:
        return _DASH
    return f"{facts.chosen} of {facts.eligible}"


def _layers(profile: LayerProfile) -> Table:
    rows = [
        (row.module, wording.bare_milliseconds(row.ms), wording.percent(row.percent), ", ".join(row.units) or _DASH)
        for row in profile.modules
    ]
    lost = wording.percent(profile.unattributed_percent)
    rows.append(("unattributed", _DASH, lost, _DASH))
    shared = wording.percent(profile.shared_percent)
    caption = (
        f"A profiled run, {wording.bare_milliseconds(profile.total_ms)} ms over {profile.engine_layers} engine layers: "
        f"no latency. {shared} is only divided over the modules that one engine layer computes together."
    )
    return Table(("module", "ms", "share", "width decided by"), tuple(rows), caption)
