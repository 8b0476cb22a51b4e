"""The part of the page about the attached device: what it is, its own answers, and its times in other states."""

from __future__ import annotations

from functools import partial

from taco.report import device_figures, wording
from taco.report.device_schema import DeviceSection
from taco.report.page import Block, Folded, Note, Picture, Section, Table, Tone
from taco.report.schema import Report
from taco.report.units import work_blocks


def device_sections(report: Report) -> tuple[Section, ...]:
    """What the device itself said; nothing where none was attached."""
    found = report.device
    if found is None:
        return ()
    rows = (
        ("address", found.address),
        ("it says that it is", found.board),
        ("emulated", found.emulated or "no sign of it"),
        ("system", found.os),
        ("Python", found.python),
        ("what ran the model", f"{found.runtime}, {found.provider}"),
        ("the bundle lies in", found.deployed_to or "not put there"),
    )
    blocks: list[Block] = [Table((), rows, numeric=False), _answers(found), *_classes(found)]
    if found.emulated:
        text = f"EMULATED ({found.emulated}): no time was taken, and nothing here is a result of a {report.target}."
        blocks.insert(0, Note(text, Tone.WARN))
    else:
        blocks += _times(report, found)
    meaning = "The device decoded the pictures, ran the very bytes that it got, and answered itself."
    if report.engines_run is not None:
        meaning = "The pictures were cut to size here; the engine that the device built and timed answered itself."
    return (Section("device", "On the device", meaning, tuple(blocks)),)


def _answers(found: DeviceSection) -> Note:
    of = f"{found.images} of the {found.judged_images} judged pictures went to the device. "
    text = (
        f"{of}Right there: {wording.proportion(found.there)}; here: {wording.proportion(found.here)}. "
        f"{found.same_answers} answers are the same."
    )
    if found.unreadable:
        text += f" {wording.counted(len(found.unreadable), 'picture')} could not be read there: {found.unreadable[0]}."
    return Note(text, Tone.GOOD if found.same_answers == found.images else Tone.PLAIN)


def _classes(found: DeviceSection) -> list[Block]:
    rows = tuple(
        (name, *((wording.proportion(pair[0]), wording.proportion(pair[1])) if pair else ("no picture", "no picture")))
        for name, pair in found.per_class.items()
    )
    table = Table(("class", "here, right", "on the device, right"), rows, "In brackets: 95 % interval.")
    folded = Folded("Every class, here and there", table)
    if not device_figures.drawn_classes(found):
        return [folded]
    caption = (
        "Share of each class named right by this machine and by the device, on the same pictures and with the same "
        "file; the device's worst class comes first."
    )
    return [Picture(partial(device_figures.device_recalls, found), caption), folded]


def _times(report: Report, found: DeviceSection) -> list[Block]:
    blocks: list[Block] = []
    warm = report.latency_ms.compressed.samples if report.latency_ms is not None else []
    states = device_figures.state_rows(warm, found.idle_ms, found.cold_ms)
    if states:
        caption = "The compressed model on the device: warm, after a pause of seconds, and the first time of all."
        title = "Time of one picture, warm, after idling and at the very first run"
        blocks.append(Picture(partial(device_figures.draw_times, states, "states", title), caption))
    rows = [(f"very first run of {name}", wording.bare_milliseconds(ms)) for name, ms in found.cold_ms.items()]
    rows += [("first run after idling", wording.bare_milliseconds(ms)) for ms in found.idle_ms]
    if rows:
        caption = "The warm times are above. A camera trap sleeps between pictures: its time is the one after idling."
        blocks.append(Table(("ms for one picture", "ms"), tuple(rows), caption))
    blocks += work_blocks(found.sustained, wording.place(found.address), "work")
    if found.repeated:
        blocks.append(Note("The first measurement was disturbed and was taken again.", Tone.WARN))
    blocks += [Note(f"Disturbed: {reason}.", Tone.WARN) for reason in found.unstable]
    return blocks
