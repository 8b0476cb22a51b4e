"""The parts of the page that tell how the figures came about: conditions, checks, material, run."""

from __future__ import annotations

import shlex

from taco.report import wording
from taco.report.figures import MOST_CLASSES
from taco.report.page import Block, Code, Folded, Lines, Note, Section, Table, Tone
from taco.report.schema import Parity, RefitSection, Report
from taco.wording import some_of_each


def conditions_section(report: Report) -> Section:
    """What was measured where."""
    runtime = report.runtime
    rounds = "none" if report.speedup_rounds is None else str(len(report.speedup_rounds))
    rows = [
        ("target", f"{report.target}: {report.target_description}"),
        ("latency", "measured" if report.latency_source == "measured" else "not measured"),
        ("runtime", f"{runtime.name} {runtime.version or '(version unknown: not run)'}"),
        ("provider", runtime.provider or "not run"),
        ("precision", runtime.precision),
        ("threads", "not run" if runtime.threads is None else str(runtime.threads)),
        ("interleaved rounds", rounds),
        *(report.measured_on or {}).items(),
    ]
    blocks: list[Block] = [Table((), tuple(rows), numeric=False)]
    if report.measured_on is None:
        blocks.append(Note("No time on this page was measured on a device.", Tone.WARN))
    return Section(
        "conditions",
        "What was measured where",
        "Times hold for this machine in this state only; on another one, or with another power setting, they differ.",
        tuple(blocks),
    )


def parity_section(report: Report) -> Section:
    """Whether the exported file computes what the compressed model computes."""
    parity = report.parity
    rows = (
        ("largest difference of a logit", f"{parity.max_abs:.3g}"),
        ("allowed", f"{parity.tolerance:.3g}"),
        ("same answer", wording.percent(parity.argmax_agreement) if parity.counted else "nothing to count"),
        ("pictures with a clear answer", f"{parity.counted} of {parity.images}"),
    )
    return Section(
        "parity",
        "Check of the exported file",
        "The exported file has to give the same answers as the model it was made from; differences beyond rounding "
        "would mean a broken conversion.",
        (_parity_note(parity), Table((), rows, numeric=False)),
    )


def recovery_section(report: Report) -> Section:
    """What distillation did."""
    before = report.accuracy.before_recovery_top1
    compressed = report.accuracy.compressed
    blocks: list[Block] = []
    if before is not None and compressed is not None:
        text = f"Accuracy {wording.percent(before)} before, {wording.percent(compressed.top1.percent)} after."
        blocks.append(Note(wording.marked(text, report)))
    if report.refit is not None:
        blocks.append(_refit_note(report.refit))
    if report.cut_heads:
        blocks.append(_heads_note(report))
    if report.recovery is None:
        blocks.append(Note("No recovery was done."))
    else:
        rows = tuple((key.replace("_", " "), _value(value)) for key, value in report.recovery.items())
        blocks.append(Table((), rows, numeric=False))
    frames = " and on frames without labels" if report.task.unlabelled_images else ""
    return Section(
        "recovery",
        "Recovery",
        "After channels are taken away, the small model learns for a short time to imitate the dense one on your "
        f"labelled pictures{frames}.",
        tuple(blocks),
    )


def material_section(report: Report) -> Section:
    """Pictures, classes, weights and their licence."""
    task, model = report.task, report.model
    folded = len(task.classes) > MOST_CLASSES
    rows = (
        ("task", task.name),
        ("classes", str(len(task.classes)) if folded else f"{len(task.classes)}: {', '.join(task.classes)}"),
        ("model", model.name),
        ("head", model.head),
        ("weights from", model.weights_source),
        ("sha256 of the weights", model.weights_sha256),
        ("licence of the weights", model.licence),
    )
    blocks: list[Block] = [Table((), rows, numeric=False)]
    if model.head_candidates:
        blocks.append(_head_table(report))
    if model.random_weights:
        blocks.insert(0, Note("RANDOM WEIGHTS: this model has learnt nothing.", Tone.BAD))
    if folded:
        blocks.append(Folded(f"The {len(task.classes)} classes", Lines(tuple(task.classes))))
    if task.skipped:
        pictures = wording.counted(len(task.skipped), "picture")
        blocks.append(Folded(f"{pictures} could not be used", Lines(tuple(some_of_each(task.skipped)))))
    return Section(
        "material",
        "Pictures and weights",
        "What the small model was made from, and under which licence you may pass it on.",
        tuple(blocks),
    )


def run_section(report: Report) -> Section:
    """Command, seed, steps and versions."""
    steps = [(step.name, wording.duration(step.seconds)) for step in report.steps]
    steps.append(("together", wording.duration(sum(step.seconds for step in report.steps))))
    versions = (("taco-export", report.taco_version), *report.versions.items(), ("seed", str(report.seed)))
    return Section(
        "run",
        "How to do it again",
        "The exact command, how long each step took, and the versions that took part.",
        (
            Code(shlex.join(report.command)),
            Table(("step", "time"), tuple(steps)),
            Folded("Versions and seed", Table((), versions, numeric=False)),
        ),
    )


def _refit_note(refit: RefitSection) -> Note:
    if refit.failed is not None:
        return Note(f"Refitting the layers in the model's order failed, and was left out: {refit.failed}", Tone.WARN)
    ways = {"one by one": "each on the dense model's inputs", "in order": "one after the other, each for what is left"}
    told = ", ".join(
        f"{way} {'not finite' if value is None else f'{value:.4g}'}"
        for way, value in (("one by one", refit.one_by_one), ("in order", refit.in_order))
    )
    return Note(
        f"The layers that read cut channels were refitted {ways[refit.kept]}: that came nearer to the dense model's "
        f"features and answers on the select pictures (distance {told})."
    )


def _heads_note(report: Report) -> Note:
    told = ", ".join(f"{one.name} {wording.percent(one.percent)}" for one in report.cut_heads)
    taken = next(one.name for one in report.cut_heads if one.chosen)
    text = f"The small model ends in {taken}. Right on shots that the head has not seen: {told}."
    return Note(wording.marked(text, report))


def _parity_note(parity: Parity) -> Note:
    if parity.max_abs > parity.tolerance:
        return Note("FAILED: the exported file differs by more than rounding.", Tone.BAD)
    if not parity.counted:
        return Note("The figures agree, but no picture had a clear answer to compare.", Tone.WARN)
    if parity.argmax_agreement < 100:
        return Note("The figures agree within rounding, but some answers differ.", Tone.WARN)
    return Note("Passed: same answers, differences within rounding.", Tone.GOOD)


def _head_table(report: Report) -> Table:
    rows = tuple(
        (candidate.name, wording.percent(candidate.percent), "yes" if candidate.chosen else "no")
        for candidate in report.model.head_candidates
    )
    caption = (
        "Class-balanced accuracy on shots that the head was not fitted on (cross-validation). A simpler head stays "
        "unless another is surely better: one-sided 95 % bound of the paired difference above 0."
    )
    return Table(("head", "right", "chosen"), rows, wording.marked(caption, report))


def _value(value: float | int | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
