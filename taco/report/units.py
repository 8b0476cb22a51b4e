"""The parts of the page about devices in the field: how far they lie apart, hours of work, a day's energy."""

from __future__ import annotations

import shlex
import statistics
from functools import partial

from taco.report import device_figures, wording
from taco.report.device_schema import SustainedMinute
from taco.report.page import Block, Code, Folded, Lines, Note, Picture, Section, Table, Tone
from taco.report.schema import Report
from taco.report.units_schema import DutySection, UnitRun, UnitsSection
from taco.report.wording import place
from taco.timing.spread import SLOW

_DASH = "\N{EN DASH}"
_MINUTE = ("minute", "p50, ms", "p90, ms", "J a picture")


def unit_sections(report: Report) -> tuple[Section, ...]:
    """What several devices did, or one that `taco bench` measured; nothing without any."""
    found = report.units
    if found is None:
        return ()
    blocks: list[Block] = [Note(spread_sentence(found) + ".", _tone(found))]
    blocks += [Note(f"{place(u.address)}: {u.problem}", Tone.WARN) for u in found.units if u.problem is not None]
    rows = device_figures.unit_rows(found.units)
    if rows:
        caption = "The line holds eight of ten warm runs of the compressed model; the further left, the faster."
        title = f"Time of one picture on {wording.counted(len(rows), 'device')}"
        blocks.append(Picture(partial(device_figures.draw_times, rows, "units", title), caption))
    blocks.append(_table(found))
    blocks += _answers(found)
    blocks += _promise(found)
    blocks += [block for unit in found.units for block in _notes(unit)]
    for number, unit in enumerate(found.units):
        blocks += work_blocks(unit.sustained, place(unit.address), f"work-{number}")
    blocks += [_state(unit) for unit in found.units if unit.measured_on is not None]
    blocks.append(Note(f"Measured {found.created} on model {found.model_sha256[:16]} by:"))
    blocks.append(Code(shlex.join(found.command)))
    text = "Devices of one kind are never quite alike; what is promised for one has to hold for the slowest, too."
    section = Section("units", "Your devices", text, tuple(blocks))
    return (section, *_day_sections(found))


def spread_sentence(found: UnitsSection) -> str:
    """How far the devices lie apart, with the slow one and the missing ones by name."""
    timed = {place(u.address): u.models["compressed"].p50 for u in found.units if u.measured}
    missing = [place(u.address) for u in found.units if u.problem is not None]
    lost = f"; {', '.join(missing)} could not be measured" if missing else ""
    if not timed:
        return f"No device was timed{lost}"
    if len(timed) == 1:
        name, p50 = next(iter(timed.items()))
        return f"{name} takes {wording.milliseconds(p50)} for a picture{lost}"
    fastest, slowest = min(timed, key=timed.__getitem__), max(timed, key=timed.__getitem__)
    ratio = wording.factor(timed[slowest] / timed[fastest])
    return (
        f"{len(timed)} devices were timed, from {wording.milliseconds(timed[fastest])} ({fastest}) to "
        f"{wording.milliseconds(timed[slowest])} ({slowest}) for a picture: {ratio} apart{_judged(found)}{lost}"
    )


def doubtful(found: UnitsSection) -> bool:
    """Whether a device is slow or could not be measured, or times lie apart without a proof of which is slow."""
    return any(unit.slow or unit.problem for unit in found.units) or _far_apart(found)


def _judged(found: UnitsSection) -> str:
    slow = [
        f"{place(u.address)} is SLOW: {wording.factor(u.slow)} the time of the others" for u in found.units if u.slow
    ]
    if slow:
        return f"; {', '.join(slow)}"
    if _far_apart(found):
        return (
            f", more than the {wording.factor(SLOW)} that devices of one kind may differ by, but too unsteady to tell "
            "whether one is slow"
        )
    return ", within what devices of one kind differ by"


def _far_apart(found: UnitsSection) -> bool:
    times = [unit.models["compressed"].p50 for unit in found.units if unit.measured]
    return bool(times) and max(times) > SLOW * min(times)


def outcome(unit: UnitRun) -> str:
    """One device in one line."""
    name = f"{place(unit.address)} ({unit.board})" if unit.board else place(unit.address)
    if unit.problem is not None:
        return f"{name}: NOT MEASURED: {unit.problem}"
    if not unit.measured:
        return f"{name}: no time was taken (emulated: {unit.emulated})"
    speed = "" if unit.speedup is None else f", {wording.factor(unit.speedup.value)} as fast as the dense model there"
    same = "" if unit.answers is None else f", {unit.answers.same} of {unit.answers.images} answers are ours"
    return f"{name}: {wording.milliseconds(unit.models['compressed'].p50)} a picture{speed}{same}"


def work_blocks(minutes: list[SustainedMinute], name: str, anchor: str) -> list[Block]:
    """Hours of work by the minute: drawn, what heat cost, the energy of a picture, and a table."""
    if not minutes:
        return []
    draw = partial(device_figures.sustained_panels, minutes, anchor, name)
    caption = f"{name} at work without a pause: time of a picture, and what was read of the machine each minute."
    blocks: list[Block] = [Picture(draw, caption), _heat(minutes, name)]
    read = [m for m in minutes if m.joules is not None and m.power_w is not None]
    if read:
        energy = statistics.fmean(m.joules for m in read if m.joules is not None)
        power = statistics.fmean(m.power_w for m in read if m.power_w is not None)
        text = (
            f"Energy of one picture on {name}: {wording.joules(energy)}, rest included, at a mean of "
            f"{wording.watts(power)} over {wording.counted(len(read), 'minute')}. Read at {read[0].power_source}."
        )
        blocks.append(Note(text))
    else:
        blocks.append(Note(f"Energy of one picture on {name}: unknown, because nothing there tells its power."))
    rows = tuple(
        (
            str(m.minute),
            wording.bare_milliseconds(m.p50),
            wording.bare_milliseconds(m.p90),
            _DASH if m.joules is None else f"{m.joules:.3g}",
        )
        for m in minutes
    )
    states = tuple((f"minute {m.minute}", m.conditions) for m in minutes)
    blocks.append(Folded(f"Table of {wording.counted(len(rows), 'minute')}", Table(_MINUTE, rows)))
    blocks.append(Folded(f"State of {name} at the end of each minute", Table((), states, numeric=False)))
    return blocks


def _heat(minutes: list[SustainedMinute], name: str) -> Note:
    first, last = minutes[0].p50, minutes[-1].p50
    hottest = max((m.temperature_c for m in minutes if m.temperature_c is not None), default=None)
    heat = "" if hottest is None else f", at up to {hottest:.0f} \N{DEGREE SIGN}C"
    worst = max(m.p50 for m in minutes)
    text = (
        f"{name} took {wording.milliseconds(first)} for a picture in the first minute and {wording.milliseconds(last)} "
        f"in minute {minutes[-1].minute} ({wording.factor(last / first)}){heat}."
    )
    return Note(text, Tone.WARN if worst > 1.1 * first else Tone.PLAIN)


def _tone(found: UnitsSection) -> Tone:
    return Tone.WARN if doubtful(found) or not any(u.measured for u in found.units) else Tone.GOOD


def _table(found: UnitsSection) -> Table:
    rows = tuple(_row(unit) for unit in found.units)
    columns = ("device", "p50, ms", "p90, ms", "first, ms", "idle, ms", "speed-up")
    caption = (
        "p50 and p90: warm runs. First: the very first run. Idle: median of the first runs after a pause. Speed-up: "
        "dense over compressed on that device."
    )
    return Table(columns, rows, caption)


def _answers(found: UnitsSection) -> list[Block]:
    told = [(unit, unit.answers) for unit in found.units if unit.answers is not None]
    if not told:
        return []
    rows = tuple(
        (place(unit.address), wording.proportion(answers.there), f"{answers.same} of {answers.images}")
        for unit, answers in told
    )
    caption = (
        f"Pictures that each device named itself. This machine, same file: {wording.proportion(told[0][1].here)}. In "
        "brackets: 95 % interval."
    )
    return [Table(("device", "right there", "answers as here"), rows, caption)]


def _row(unit: UnitRun) -> tuple[str, ...]:
    name = place(unit.address) + (" (decides)" if unit.leads else "")
    if unit.problem is not None or not unit.measured:
        why = "not measured" if unit.problem is not None else "emulated"
        return (name, why, *([_DASH] * 4))
    shown = unit.models["compressed"]
    cold, idle = unit.cold_ms.get("compressed"), unit.idle_ms
    return (
        name,
        wording.bare_milliseconds(shown.p50),
        wording.bare_milliseconds(shown.p90),
        _DASH if cold is None else wording.bare_milliseconds(cold),
        wording.bare_milliseconds(statistics.median(idle)) if idle else _DASH,
        _DASH if unit.speedup is None else wording.factor(unit.speedup.value),
    )


def _promise(found: UnitsSection) -> list[Block]:
    """What the export measured, against what was measured now."""
    timed = [u for u in found.units if u.measured]
    if found.promised_ms is None or not timed:
        return []
    told = ", ".join(
        f"{wording.factor(u.models['compressed'].p50 / found.promised_ms)} on {place(u.address)}" for u in timed
    )
    promised = wording.milliseconds(found.promised_ms)
    text = f"The export measured {promised} for a picture. Against that it takes here: {told}."
    return [Note(text)]


def _notes(unit: UnitRun) -> list[Block]:
    name, found = place(unit.address), list[Block]()
    if unit.emulated is not None:
        found.append(Note(f"{name} is EMULATED ({unit.emulated}): no time was taken there.", Tone.WARN))
    if unit.slow is not None:
        why = "; ".join(unit.differs) or "nothing that it tells of itself differs from the others"
        found.append(Note(f"Why {name} may be slow: {why}.", Tone.WARN))
    if unit.answers is not None and unit.answers.passed is False:
        right = wording.proportion(unit.answers.there)
        text = f"FAILED: {name} is wrong more often than the same file here ({right} right): do not use it."
        found.append(Note(text, Tone.BAD))
    if unit.repeated:
        found.append(Note(f"{name}: the first measurement was disturbed and was taken again.", Tone.WARN))
    found += [Note(f"{name} was disturbed: {reason}.", Tone.WARN) for reason in unit.unstable]
    for point in unit.sweep:
        told = ", ".join(f"{model} {wording.milliseconds(ms)}" for model, ms in point.p50.items())
        found.append(Note(f"{name} with {wording.counted(point.threads, 'thread')}: {told}."))
    return found


def _state(unit: UnitRun) -> Folded:
    state = dict(unit.measured_on or {})
    rows = [("board", unit.board or "unknown"), ("runtime", f"{unit.runtime}, {unit.provider}, {unit.threads} threads")]
    rows += [(name, value) for name, value in state.items() if name != "board"]
    rows.append(("power at rest", wording.watts(unit.rest_w)))
    if unit.deployed_to:
        rows.append(("the bundle lies in", unit.deployed_to))
    return Folded(f"What was measured on: {place(unit.address)}", Table((), tuple(rows), numeric=False))


def _day_sections(found: UnitsSection) -> tuple[Section, ...]:
    meaning = "What a day in the field costs, worked out from the times and powers above; it is an estimate."
    if found.no_duty is not None:
        return (Section("day", "A day's energy", meaning, (Note(f"Unknown: {found.no_duty}.", Tone.WARN),)),)
    if found.duty is None:
        return ()
    duty = found.duty
    blocks: tuple[Block, ...] = (Note(day_sentence(duty)), Table((), _day_rows(duty), numeric=False))
    return (Section("day", "A day's energy", meaning, (*blocks, Note("Assumed:"), Lines(tuple(duty.assumptions)))),)


def day_sentence(duty: DutySection) -> str:
    """What a day needs and how long a battery lasts."""
    text = (
        f"{wording.amount(round(duty.frames_per_day))} pictures a day need about {duty.wh_per_day:.2f} Wh, of which "
        f"the model causes {wording.percent(duty.model_percent)}"
    )
    if duty.days is None or duty.battery_wh is None:
        return text + "."
    return f"{text}: {duty.battery_wh:g} Wh of battery last about {duty.days:.1f} days."


def _day_rows(duty: DutySection) -> tuple[tuple[str, str], ...]:
    return (
        ("device", place(duty.address)),
        ("pictures a day", wording.amount(round(duty.frames_per_day))),
        ("time of a picture", wording.milliseconds(duty.picture_ms)),
        ("power at work", wording.watts(duty.active_w)),
        ("power between pictures", wording.watts(duty.rest_w)),
        ("energy of a picture, above rest", wording.joules(duty.joules_per_frame)),
        ("energy of a day", f"{duty.wh_per_day:.2f} Wh"),
    )
