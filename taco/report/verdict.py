"""The outcome in one sentence, what follows from it, and the key figures."""

from __future__ import annotations

from taco.report import camera, engines, proof, sparsity, units, wording
from taco.report.accuracy_schema import AccuracySection, ModelAccuracy
from taco.report.page import Card, Note, Tone
from taco.report.schema import Report

_NO_PICTURES = "no labelled pictures were left for it"
_ARROW = "\N{RIGHTWARDS ARROW}"


def banner(report: Report) -> str:
    """What makes the whole page worthless, or the model one not to trust; or nothing."""
    failures = ", ".join(gate.name for gate in report.gates if gate.passed is False)
    words = {
        "no": f"NOTHING WAS SHIPPED: a check failed ({failures})",
        "forced": f"SHIPPED BY FORCE although a check failed ({failures})",
        "yes": "",
    }[report.shipped]
    random = "RANDOM WEIGHTS: every accuracy on this page is meaningless" if report.model.random_weights else ""
    broken = engines.broken_engines(report)
    failed = f"THE ENGINE FAILED ITS CHECK ON THE DEVICE ({', '.join(broken)})" if broken else ""
    stand_in = engines.not_on_hardware(report) if report.engines_run is not None else ""
    return ". ".join(text for text in (words, random, failed, stand_in) if text)


def verdict(report: Report) -> Note:
    """The one sentence that an ecologist reads."""
    if report.sparsity is not None:
        gain, accuracy = sparsity.gain(report, report.sparsity), _accuracy_clause(report)
        text = f"The small model {gain} and {accuracy}. {sparsity.no_time(report)}."
        return Note(text, _tone_when_faster(report))
    if report.speedup is None:
        return _unmeasured(report)
    accuracy = _accuracy_clause(report)
    times = _times(report)
    subject = f"{_place(report)} the small model"
    if report.speedup < 1:
        text = f"Not faster: {subject} takes {wording.factor(1 / report.speedup)} as long for a picture{times}"
        return Note(f"{_capital(text)} and {accuracy}.", Tone.BAD)
    if report.speedup == 1:
        return Note(f"Not faster: {subject} takes as long as before for a picture{times} and {accuracy}.", Tone.BAD)
    text = f"{subject} names a picture {wording.factor(report.speedup)} faster{times} and {accuracy}."
    return Note(_capital(text), _tone_when_faster(report))


def actions(report: Report) -> tuple[Note, ...]:
    """What the reader has to do or to know, straight below the verdict."""
    notes = []
    if report.engines_run is None and (label := engines.not_on_hardware(report)):
        notes.append(Note(_capital(label) + ".", Tone.WARN))
    if report.next_step:
        notes.append(Note(f"Next step: {report.next_step}", Tone.WARN))
    if report.speedup is not None and report.speedup < 1 and report.sparsity is None:
        notes.append(Note("This run failed its purpose: keep the dense model on this device.", Tone.BAD))
    elif _missed(report) and report.speedup is not None and report.speedup_asked is not None:
        asked, got = wording.factor(report.speedup_asked), wording.factor(report.speedup)
        notes.append(Note(f"The asked speed-up of {asked} was missed: {got} was measured.", Tone.WARN))
    if report.units is not None and units.doubtful(report.units):
        notes.append(Note(units.spread_sentence(report.units) + ".", Tone.WARN))
    if report.accuracy.evaluated_on == "select":
        notes.append(
            Note(
                "No pictures were left for an unseen test: every accuracy here comes from pictures that also guided "
                "choices, and is likely too good. Label more pictures, or pass some with --eval.",
                Tone.WARN,
            )
        )
    if report.accuracy.evaluated_on == "none":
        notes.append(Note("Accuracy was not measured: no labelled pictures were left for it.", Tone.WARN))
    return tuple(notes)


def cards(report: Report) -> tuple[Card, ...]:
    """Accuracy, drop, empty frames where there is a class of them, speed-up and size."""
    accuracies = (_accuracy_card(report), _drop_card(report), *camera.blank_cards(report))
    return (*accuracies, *(sparsity.cards(report) or (_speed_card(report), _size_card(report))))


def _is_doubtful(report: Report) -> bool:
    return report.model.random_weights or report.accuracy.evaluated_on != "evaluation"


def _tone_when_faster(report: Report) -> Tone:
    """Green only for a reached aim without a loss of accuracy that is proven or borderline."""
    if _missed(report) or _is_doubtful(report):
        return Tone.WARN
    found = report.accuracy
    lost = proof.proof(found.drop_ci95, found.paired) in ("loss", "borderline")
    return Tone.PLAIN if found.drop_ci95 is None or lost else Tone.GOOD


def _missed(report: Report) -> bool:
    return report.speedup is not None and report.speedup_asked is not None and report.speedup < report.speedup_asked


def _place(report: Report) -> str:
    if report.device is not None:
        return f"on the attached device ({report.device.board})"
    return "on this machine" if report.local else f"on the {report.target}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _times(report: Report) -> str:
    if report.latency_ms is None:
        return ""
    small, dense = report.latency_ms.compressed.p50, report.latency_ms.dense.p50
    return f" ({wording.milliseconds(small)} instead of {wording.milliseconds(dense)})"


def _unmeasured(report: Report) -> Note:
    share = 100 * report.size.compressed.macs / report.size.dense.macs if report.size.dense.macs else 100.0
    where = "this machine" if report.local else f"the {report.target}"
    return Note(
        f"Not measured: nothing was timed on {where}, so nobody knows yet whether the small model is faster there. "
        f"{_estimate(report)}It does {wording.percent(share)} of the arithmetic of the dense model, which is no "
        f"promise of speed, and {_accuracy_clause(report)}.",
        Tone.WARN,
    )


def _estimate(report: Report) -> str:
    """Say what a table from elsewhere predicts; nothing without one."""
    found = report.estimate
    if found is None:
        return ""
    whose = "a stand-in, not run on hardware" if found.stand_in else found.device
    corrected = ", corrected by a folder that ran on its device" if found.corrected else ""
    times = f"{wording.milliseconds(found.compressed_ms)} instead of {wording.milliseconds(found.dense_ms)}"
    return f"An estimate, by the latency table of {whose}{corrected}: {times}. "


def _accuracy_clause(report: Report) -> str:
    """`gets 0.8 points fewer right (97.4 % instead of 98.2 %, 8 classes, 320 pictures)`."""
    section = report.accuracy
    drop, dense, exported = section.drop_points, section.dense, section.exported
    if drop is None or dense is None or exported is None:
        return "its accuracy was not measured"
    size = wording.points(abs(drop))
    verb = (
        "gets as many right"
        if wording.signed(drop) == "0.0"
        else f"gets {size} fewer right"
        if drop > 0
        else f"gets {size} more right"
    )
    figures = f"{wording.percent(exported.top1.percent)} instead of {wording.percent(dense.top1.percent)}"
    classes = wording.counted(len(report.task.classes), "class", "classes")
    pictures = wording.counted(exported.top1.n, "picture")
    return wording.marked(f"{verb} ({figures}, {classes}, {pictures})", report)


def _accuracy_card(report: Report) -> Card:
    dense, exported = report.accuracy.dense, report.accuracy.exported
    if dense is None or exported is None:
        return Card(f"Accuracy, dense {_ARROW} exported", wording.NOT_MEASURED, _NO_PICTURES, Tone.WARN)
    detail = f"95 % intervals: {_ends(dense)} {_ARROW} {_ends(exported)}; {_how_averaged(report)}"
    value = f"{wording.percent(dense.top1.percent)} {_ARROW} {wording.percent(exported.top1.percent)}"
    return Card(f"Accuracy, dense {_ARROW} exported", value, wording.marked(detail, report), _accuracy_tone(report))


def _ends(model: ModelAccuracy) -> str:
    return wording.interval(model.top1.low, model.top1.high)


def _how_averaged(report: Report) -> str:
    exported = report.accuracy.exported
    pictures = wording.counted(exported.top1.n, "picture") if exported else "no picture"
    if report.accuracy.balanced:
        return f"mean over the classes, which differ in number; {pictures}"
    return f"share of {pictures}"


def _accuracy_tone(report: Report) -> Tone:
    if report.model.random_weights:
        return Tone.BAD
    return Tone.PLAIN if report.accuracy.evaluated_on == "evaluation" else Tone.WARN


def _drop_card(report: Report) -> Card:
    label, drop, ends = "Accuracy lost", report.accuracy.drop_points, report.accuracy.drop_ci95
    if drop is None:
        return Card(label, wording.NOT_MEASURED, _NO_PICTURES, Tone.WARN)
    detail = "no interval"
    if ends is not None:
        detail = f"paired 95 % interval: {wording.interval(*ends, unit='points')}; {_meaning_of(ends, report.accuracy)}"
    return Card(label, wording.points(drop), wording.marked(detail, report), _accuracy_tone(report))


def _meaning_of(ends: tuple[float, float], accuracy: AccuracySection) -> str:
    found = proof.proof(ends, accuracy.paired)
    if found == "borderline" and accuracy.paired is not None:
        return proof.borderline(ends, accuracy.paired)
    return {"loss": "a real loss", "gain": "a real gain"}.get(found, "holds 0, so no difference is proven")


def _speed_card(report: Report) -> Card:
    if report.speedup is None:
        return Card("Speed-up", wording.NOT_MEASURED, "no device was there to time it on", Tone.WARN)
    detail = "median over interleaved rounds"
    if report.speedup_rounds:
        detail += f": {wording.spread(report.speedup_rounds)}"
    if report.speedup_asked is not None:
        detail += f"; asked: {wording.factor(report.speedup_asked)}"
    if report.speedup < 1:
        return Card("Speed-up", wording.factor(report.speedup), f"FAILED: slower than dense; {detail}", Tone.BAD)
    return Card("Speed-up", wording.factor(report.speedup), detail, Tone.WARN if _missed(report) else Tone.GOOD)


def _size_card(report: Report) -> Card:
    dense, small = report.size.dense, report.size.compressed
    value = f"{wording.size(dense.bytes)} {_ARROW} {wording.size(small.bytes)}"
    detail = f"MACs {wording.large(dense.macs)} {_ARROW} {wording.large(small.macs)}"
    if small.pictures != dense.pictures:
        detail += f"; reads {small.pictures} pixels instead of {dense.pictures}"
    if small.bytes >= dense.bytes:
        return Card("Size of the file", value, f"NOT smaller; {detail}", Tone.BAD)
    return Card("Size of the file", value, f"{wording.percent(100 * small.bytes / dense.bytes)} of it kept; {detail}")
