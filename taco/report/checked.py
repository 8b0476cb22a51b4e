"""The parts of the page that tell what was checked before shipping, and how INT8 came about."""

from __future__ import annotations

from taco.report import wording
from taco.report.page import Block, Folded, Note, Section, Table, Tone
from taco.report.schema import PrecisionSection, Report
from taco.wording import precision

_RESULT = {True: "passed", False: "FAILED", None: "not decided"}


def gate_sections(report: Report) -> tuple[Section, ...]:
    """Every gate with what was found and what is allowed; nothing for reports of before there were gates."""
    if not report.gates:
        return ()
    rows = tuple((gate.name, _RESULT[gate.passed], gate.measured, gate.limit) for gate in report.gates)
    failures = sum(gate.passed is False for gate in report.gates)
    note = Note("Every check passed, or could not be decided.", Tone.GOOD)
    if failures:
        ending = "the model was shipped all the same (--force)." if report.shipped == "forced" else "nothing shipped."
        note = Note(f"{wording.counted(failures, 'check')} failed: {ending}", Tone.BAD)
    table = Table(("check", "result", "found", "allowed"), rows, numeric=False)
    text = "What must hold before a model leaves this program; one that fails is not shipped unless you force it."
    return (Section("gates", "Checks before shipping", text, (note, table)),)


def precision_sections(report: Report) -> tuple[Section, ...]:
    """How INT8 came about, or why it is not used; nothing where the target does not ask for it."""
    found = report.precision
    if found is None:
        return ()
    rows = (
        ("arithmetic", found.scheme),
        ("layers in INT8", f"{found.quantised} of {found.layers}"),
        (f"times as fast as {_other(found)} of the same model", _gain(found)),
        ("ranges of activations", f"{found.ranges}, from {wording.counted(found.pictures, 'picture')}"),
        ("weights are rounded", "for the least output error" if found.rounding != "nearest" else "to the nearest step"),
        ("biases make up for rounded weights", "yes" if found.bias_corrected else "no"),
        ("lost on the select pictures", _lost(found)),
        ("candidates tried on the select pictures", wording.amount(found.evaluations)),
    )
    blocks: list[Block] = [_precision_note(found), Table((), rows, numeric=False)]
    if found.put_back:
        unit = found.saved_in
        table = Table(
            ("layer", "why", "harm, nats", f"INT8 saves, {unit}"),
            tuple((p.layer, p.reason, _number(p.harm), _number(p.saved)) for p in found.put_back),
            "Harm: how much the divergence from the torch model's answers falls when this layer alone goes back.",
        )
        blocks.append(Folded(f"{wording.counted(len(found.put_back), 'layer')} back in {_other(found)}", table))
    text = (
        "INT8 computes with whole numbers of eight bits: faster where the processor is made for it, a little coarser."
    )
    return (Section("precision", "INT8", text, tuple(blocks)),)


def half_sections(report: Report) -> tuple[Section, ...]:
    """What floats of 16 bits are worth, or why they are not used; nothing where the target does not ask for them."""
    found = report.half
    if found is None:
        return ()
    name = precision(found.asked)
    if found.given_up is not None:
        note = Note(f"{name} was asked for and given up: {found.given_up}. The model is shipped in fp32.", Tone.WARN)
    else:
        note = Note(f"{name} is used: {_times(found.faster_than_fp32)} times as fast as fp32, same model.", Tone.GOOD)
    rows = tuple((kind, str(number)) for kind, number in found.realised.items())
    table = Table(("layers, and what the runtime computes them in", "number"), rows)
    text = (
        f"{name} computes with floats of 16 bits where the processor is made for it. The file holds floats of 32 bits, "
        "and its metadata says what it is to be computed in."
    )
    return (Section("half", f"Floats of 16 bits ({name})", text, (note, table)),)


def _precision_note(found: PrecisionSection) -> Note:
    if found.given_up is not None:
        return Note(
            f"INT8 was asked for and given up: {found.given_up}. The model is shipped in {_other(found)}.", Tone.WARN
        )
    if found.faster_than_fp32 is None:
        text = f"Whether INT8 is faster than {_other(found)} was not measured: the bench on the device tells."
        return Note(text, Tone.WARN)
    return Note(f"INT8 is used: {_gain(found)} times as fast as {_other(found)} of the same model.", Tone.GOOD)


def _other(found: PrecisionSection) -> str:
    """Name what INT8 competes with."""
    return precision(found.compared_with)


def _gain(found: PrecisionSection) -> str:
    return _times(found.faster_than_fp32)


def _times(ratio: tuple[float, float, float] | None) -> str:
    return wording.NOT_MEASURED if ratio is None else "{:.2f} ({:.2f} to {:.2f})".format(*ratio)


def _lost(found: PrecisionSection) -> str:
    if found.drop_points is None or found.divergence is None:
        return wording.NOT_MEASURED
    return f"{wording.points(found.drop_points)}; divergence {found.divergence:.2g} nats"


def _number(value: float | None) -> str:
    return "\N{EN DASH}" if value is None else f"{value:.3g}"
