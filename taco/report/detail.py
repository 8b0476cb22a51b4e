"""The parts of the page that tell what one accuracy hides: mixed-up classes, dense against exported, calibration."""

from __future__ import annotations

from functools import partial

from taco.report import detail_figures, figures, proof, wording
from taco.report.accuracy_schema import Detail, Paired
from taco.report.page import Block, Folded, Note, Picture, Section, Table, Tone
from taco.report.schema import Report

#: More mix-ups than this are folded away.
_MOST_MIXED = 10


def mistake_sections(report: Report) -> tuple[Section, ...]:
    """Which classes are mixed up; nothing for reports of before this was counted, or where nothing was judged."""
    found = report.accuracy.detail
    if found is None:
        return ()
    blocks: list[Block] = [Note(wording.marked(_worst(report, found), report))]
    if report.accuracy.paired is not None:
        blocks.append(_paired_note(report, report.accuracy.paired))
    drawn = figures.shown_classes(report)
    shown = [name for name in found.precision if name in drawn]
    caption = "Rows: the true class. Columns: the answer. The darker a field, the larger its share of the row."
    if len(shown) < len(found.precision):
        caption += f" Only the worst {len(shown)} classes that have pictures are drawn."
    picture = partial(detail_figures.confusion_matrix, found.confusion, shown)
    blocks.append(Picture(picture, wording.marked(caption, report)))
    blocks += _mixed_up(report, found)
    blocks.append(_precision_table(report, found))
    text = (
        "Which class is taken for which, and how far an answer can be trusted: precision is how often a named class is "
        "the right one."
    )
    return (Section("mistakes", "Mistakes", text, tuple(blocks)),)


def coverage_blocks(report: Report) -> tuple[Block, ...]:
    """The curve behind the threshold, and the calibration error; nothing where nothing was judged."""
    found = report.accuracy.detail
    if found is None:
        return ()
    chosen = report.accuracy.abstention
    caption = (
        "Right among the sure answers, for every limit: the fewer answers count as sure, the more of them are right. "
        f"Pictures: {_judged_on(report)}."
    )
    draw = partial(detail_figures.coverage_curve, found.coverage, chosen.threshold, chosen.asked_percent)
    text = (
        f"Calibration error: {wording.points(found.calibration.error)} (mean gap between probability and share of "
        "right answers, 15 bins of equal width)."
    )
    rows = tuple(
        (
            f"{100 * b.low:.0f} to {100 * b.high:.0f} %",
            wording.percent(b.confidence),
            wording.percent(b.right),
            wording.amount(b.n),
        )
        for b in found.calibration.bins
    )
    table = Table(("probability of the answer", "mean of it", "right", "answers"), rows)
    return (
        Picture(draw, wording.marked(caption, report)),
        Note(wording.marked(text, report)),
        Folded(f"Calibration, {wording.counted(len(rows), 'bin')} that hold answers", table),
    )


def _worst(report: Report, found: Detail) -> str:
    balanced = f"Class-balanced accuracy: {wording.proportion(found.balanced)}."
    recall = None
    if found.worst is not None and report.accuracy.exported is not None:
        recall = report.accuracy.exported.per_class.get(found.worst)
    if recall is None:
        return f"{balanced} Every class that has pictures is always right."
    few = f" ({wording.TOO_FEW})" if recall.n < wording.FEW_PICTURES else ""
    return f"{balanced} Worst class: {found.worst}, {wording.proportion(recall)} right of {recall.n}{few}."


def _paired_note(report: Report, paired: Paired) -> Note:
    counts = (
        f"Of the same pictures {paired.only_first} are right only with the dense model and {paired.only_second} only "
        f"with the exported one (both {paired.both}, neither {paired.neither}; McNemar's exact test: p = "
        f"{paired.p:.2g})"
    )
    lost, worse = report.accuracy.drop_ci95, paired.only_first > paired.only_second
    found = proof.proof(lost, paired)
    if found == "none":
        text = f"{counts}: no difference between the two is proven."
        return Note(wording.marked(text, report))
    if found == "borderline" and lost is not None:
        text = f"{counts}. That is {proof.borderline(lost, paired)}."
        return Note(wording.marked(text, report), _tone(worse=worse))
    which = "The exported model is right less often" if worse else "The exported model is right more often"
    return Note(wording.marked(f"{counts}. {which}, which chance does not explain.", report), _tone(worse=worse))


def _tone(*, worse: bool) -> Tone:
    return Tone.WARN if worse else Tone.PLAIN


def _mixed_up(report: Report, found: Detail) -> list[Block]:
    totals: dict[str, int] = {}
    for cell in found.confusion:
        totals[cell.true] = totals.get(cell.true, 0) + cell.count
    wrong = sorted((c for c in found.confusion if c.true != c.answer), key=lambda c: (-c.count, c.true, c.answer))
    if not wrong:
        return []
    rows = tuple(
        (f"{c.true} taken for {c.answer}", wording.amount(c.count), wording.percent(100 * c.count / totals[c.true]))
        for c in wrong
    )
    columns = ("mistake", "pictures", "of its class")
    if len(rows) <= _MOST_MIXED:
        return [Table(columns, rows, wording.marked("The most frequent first.", report))]
    first = Table(columns, rows[:_MOST_MIXED], wording.marked("The most frequent ten.", report))
    return [first, Folded(f"All {wording.counted(len(rows), 'kind')} of mistakes", Table(columns, rows))]


def _precision_table(report: Report, found: Detail) -> Block:
    rows = tuple(
        (
            name,
            "never the answer" if share is None else wording.proportion(share),
            wording.amount(share.n if share else 0),
        )
        for name, share in found.precision.items()
    )
    caption = wording.marked("In brackets: 95 % interval (Wilson).", report)
    table = Table(("answer", "precision: right when given", "answers"), rows, caption)
    folded = len(rows) > figures.MOST_CLASSES
    return Folded(f"Precision of all {wording.counted(len(rows), 'class', 'classes')}", table) if folded else table


def _judged_on(report: Report) -> str:
    return "evaluation" if report.accuracy.evaluated_on == "evaluation" else "select, which also guided choices"
