"""The page of `taco report diff`: two runs side by side."""

from __future__ import annotations

import shlex
from functools import partial

from taco.report import device_figures, wording
from taco.report.device_figures import TimesRow
from taco.report.diff_schema import Difference, SpeedChange
from taco.report.page import Block, Card, Code, Note, Page, Picture, Section, Table, Tone
from taco.report.parts import Proportion
from taco.report.schema import Report

_DASH = "\N{EN DASH}"


def diff_page(found: Difference, a: Report, b: Report) -> Page:
    """Lay out a comparison.

    Args:
        found: From `taco.report.diff.compare`.
        a: The report to compare with, for its raw times.
        b: The other one.
    """
    return Page(
        title=f"{found.b.name} against {found.a.name}",
        banner="RANDOM WEIGHTS: accuracies on this page are meaningless"
        if a.model.random_weights or b.model.random_weights
        else "",
        verdict=Note(found.verdict, _tone(found)),
        actions=(),
        cards=_cards(found),
        warnings=tuple(found.warnings),
        sections=(_accuracy(found), _speed(found, a, b), _size(found), _settings(found), _again(found)),
        footer=f"A: {found.a.name} of {found.a.created}; B: {found.b.name} of {found.b.created}.",
    )


def _tone(found: Difference) -> Tone:
    points, interval = found.accuracy.points, found.speed.interval
    if (points is not None and points.high < 0) or (interval is not None and interval[1] < 1):
        return Tone.WARN
    better = (points is not None and points.low > 0) or (interval is not None and interval[0] > 1)
    return Tone.GOOD if better and not found.warnings else Tone.PLAIN


def _cards(found: Difference) -> tuple[Card, ...]:
    points, speed = found.accuracy.points, found.speed
    right = Card("Accuracy, B minus A", "not comparable", found.accuracy.why_not or "", Tone.WARN)
    if points is not None:
        told = f"95 % interval {wording.interval(points.low, points.high, 'points')}"
        right = Card("Accuracy, B minus A", wording.points(points.value), told)
    fast = Card("Speed, B over A", "not comparable", speed.how, Tone.WARN)
    if speed.ratio is not None:
        fast = Card("Speed, B over A", wording.factor(speed.ratio), _ends(speed))
    size = next(size for size in found.sizes if size.name.startswith("ONNX"))
    value = f"{wording.size(size.a)} \N{RIGHTWARDS ARROW} {wording.size(size.b)}"
    return (right, fast, Card("Size of the file, A to B", value, f"{_share(size.b, size.a)} of A's"))


def _accuracy(found: Difference) -> Section:
    change = found.accuracy
    blocks: list[Block] = [
        Table(
            ("run", "right", "pictures"),
            (
                (f"A: {found.a.name}", wording.proportion(change.a), _count(change.a)),
                (f"B: {found.b.name}", wording.proportion(change.b), _count(change.b)),
            ),
            "Each on its own pictures. In brackets: 95 % interval.",
        )
    ]
    if change.points is None or change.paired is None:
        blocks.append(Note(f"No difference is given: {change.why_not}.", Tone.WARN))
    else:
        weighed = ", each class weighing alike" if change.balanced else ""
        ends = wording.interval(change.points.low, change.points.high, "points")
        pair = change.paired
        gap, than = change.points.value, "less" if change.points.value < 0 else "more"
        text = (
            f"On the pictures that both judged B is right {wording.points(abs(gap))} {than} often than A{weighed} (B "
            f"minus A, 95 % interval {ends}). Right only in A: {pair.only_first}; only in B: {pair.only_second}; "
            f"both: {pair.both}; neither: {pair.neither}; McNemar's exact test: p = {pair.p:.2g}."
        )
        blocks.append(Note(text))
    rows = tuple((c.name, wording.proportion(c.a), wording.proportion(c.b)) for c in change.classes)
    blocks.append(Table(("class", "A, right", "B, right"), rows, "Each on its own pictures, with 95 % intervals."))
    changes = tuple(
        (c.name, wording.points(c.points), wording.pictures(c.pictures)) for c in change.classes if c.points is not None
    )
    if changes:
        caption = "B minus A on the pictures of the class that both judged; their number is last."
        blocks.append(Table(("class", "change", "pictures"), changes, caption))
    return Section("accuracy", "Accuracy", "How often each of the two is right.", tuple(blocks))


def _count(value: Proportion | None) -> str:
    return _DASH if value is None else wording.amount(value.n)


def _speed(found: Difference, a: Report, b: Report) -> Section:
    speed, blocks = found.speed, list[Block]()
    rows = [
        TimesRow(name, report.latency_ms.compressed.samples)
        for name, report in (("A", a), ("B", b))
        if report.latency_ms is not None and report.latency_ms.compressed.samples
    ]
    if rows:
        draw = partial(device_figures.draw_times, rows, "two-times", "Time of one picture in A and in B")
        blocks.append(Picture(draw, "The line holds eight of ten warm runs; the further left, the faster."))
    table = (
        (f"A: {found.a.name}", _ms(speed.a_ms), _device(a)),
        (f"B: {found.b.name}", _ms(speed.b_ms), _device(b)),
    )
    blocks.append(Table(("run", "p50 of one picture", "measured on"), table, numeric=False))
    if speed.ratio is None:
        blocks.append(Note(f"The times are {speed.how}.", Tone.WARN))
    else:
        blocks.append(Note(f"B is {wording.factor(speed.ratio)} as fast as A ({_ends(speed)}): {speed.how}."))
    return Section("speed", "Speed", "How long each takes for one picture.", tuple(blocks))


def _ends(speed: SpeedChange) -> str:
    if speed.interval is None or speed.coverage is None:
        return "no interval"
    low, high = speed.interval
    return f"{100 * speed.coverage:.0f} % interval {wording.factor(low)} to {wording.factor(high)}"


def _size(found: Difference) -> Section:
    rows = tuple((s.name, wording.amount(s.a), wording.amount(s.b), _share(s.b, s.a)) for s in found.sizes)
    table = Table(("", "A", "B", "B of A"), rows)
    return Section("size", "Size", "How much there is to store and to compute.", (table,))


def _settings(found: Difference) -> Section:
    rows = tuple((setting.name, setting.a, setting.b) for setting in found.settings)
    block: Block = Note("Nothing that the reports tell differs.")
    if rows:
        block = Table(("setting", "A", "B"), rows, numeric=False)
    return Section("settings", "What differs", "What was asked or used in one run and not in the other.", (block,))


def _again(found: Difference) -> Section:
    blocks = (Note("A:"), Code(shlex.join(found.a.command)), Note("B:"), Code(shlex.join(found.b.command)))
    return Section("run", "How to do them again", "The two commands.", blocks)


def _device(report: Report) -> str:
    told = report.measured_on or {}
    if report.device is not None:
        return f"{wording.place(report.device.address)}, {report.device.board}"
    return told.get("processor", "not measured") if told else "not measured"


def _ms(value: float | None) -> str:
    return wording.NOT_MEASURED if value is None else wording.milliseconds(value)


def _share(after: int, before: int) -> str:
    return wording.percent(100 * after / before) if before else _DASH
