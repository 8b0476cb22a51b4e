"""The parts of the page that tell what came out: accuracy of each class, speed, size, widths."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from taco.report import figures, sparsity, wording
from taco.report.accuracy_schema import ModelAccuracy
from taco.report.page import Block, Folded, Lines, Note, Picture, Section, Table, Tone
from taco.report.parts import Latency
from taco.report.schema import ModelSize, Report

#: More than so many numbers in a row are a wall on a phone.
_SHOWN_ROUNDS = 12


def accuracy_section(report: Report) -> Section:
    """Right answers of the dense, compressed and exported model, and of each class."""
    blocks: list[Block] = []
    if report.accuracy.exported is None:
        blocks.append(Note("Not measured: no labelled pictures were left for it.", Tone.WARN))
    else:
        blocks.append(_overall_table(report))
        blocks += _class_blocks(report, report.accuracy.exported)
    return Section(
        "accuracy",
        "Accuracy of each class",
        "How many pictures of each class are named right before (dense) and after (exported); the smaller the number "
        "of pictures, the wider the range in which the true figure lies.",
        tuple(blocks),
    )


def speed_section(report: Report) -> Section:
    """Latency distributions."""
    return Section(
        "speed",
        "Speed",
        "How long the model takes for one picture, from many timed pictures; the models took turns, so that a warm or "
        "busy machine slows all of them alike.",
        tuple(_speed_blocks(report)),
    )


def size_section(report: Report) -> Section:
    """Parameters, arithmetic and bytes."""
    dense, small = report.size.dense, report.size.compressed
    rows = tuple(
        (label, wording.amount(before), wording.amount(after), _share(after, before))
        for label, before, after in _size_rows(dense, small)
    )
    if small.pictures != dense.pictures:
        rows = (("pictures it reads, pixels", dense.pictures or "", small.pictures or "", ""), *rows)
    if report.sparsity is not None:
        sent = report.sparsity.packed_bytes
        rows += (("packed file to send, bytes", "\N{EN DASH}", wording.amount(sent), _share(sent, dense.bytes)),)
    blocks: list[Block] = [Table(("", "dense", "compressed", "kept"), rows)]
    if small.nonzero < 0.95 * small.params and report.sparsity is None:
        zeros = wording.percent(100 - 100 * small.nonzero / small.params)
        blocks.append(
            Note(
                f"{zeros} of the compressed weights are zeros that are stored and computed: masked, not smaller.",
                Tone.WARN,
            )
        )
    return Section(
        "size",
        "Size",
        "How much there is to store and to compute; less arithmetic (MACs) often means less time, but only the "
        "clock decides.",
        tuple(blocks),
    )


def widths_section(report: Report) -> Section:
    """Width kept of each unit."""
    blocks: list[Block] = [Note(f"Chosen by: {report.chosen_by}. Width ratio: {report.width_ratio:.3g}.")]
    if report.layers:
        ordered = sorted(report.layers, key=lambda layer: layer.kind == "block")  # numbered as in the picture
        rows = tuple(
            (f"{number}. {layer.unit}", layer.kind, str(layer.dense), str(layer.kept), _share(layer.kept, layer.dense))
            for number, layer in enumerate(ordered, start=1)
        )
        caption = (
            "Channels of each unit in the order of the network; the whole bar is the dense width. Within a block that "
            "was left out none is kept."
        )
        blocks.append(Picture(partial(figures.width_bars, report), caption))
        table = Table(
            ("unit", "kind", "dense", "kept", "share"),
            rows,
            "Widths are numbers of channels, or of heads; a block that was left out keeps 0 of 1.",
        )
        blocks.append(Folded(f"Table of {wording.counted(len(rows), 'unit')}", table))
    else:
        blocks.append(Note("No unit was cut."))
    return Section(
        "widths",
        "Width kept in each layer",
        "A network is a chain of layers, each with a number of channels; taking channels away is what makes it small.",
        tuple(blocks),
    )


def _overall_table(report: Report) -> Table:
    section = report.accuracy
    models = (
        ("dense", section.dense),
        ("compressed, before export", section.compressed),
        ("exported", section.exported),
    )
    rows = [
        (
            label,
            wording.percent(model.top1.percent),
            wording.interval(model.top1.low, model.top1.high),
            wording.amount(model.top1.n),
        )
        for label, model in models
        if model is not None
    ]
    if section.before_recovery_top1 is not None:
        rows.insert(
            1,
            (
                "compressed, before recovery",
                wording.percent(section.before_recovery_top1),
                "\N{EN DASH}",
                "\N{EN DASH}",
            ),
        )
    averaged = "Mean of the class recalls, because the classes differ in number." if section.balanced else ""
    return Table(
        ("model", "right", "95 % interval", "pictures"),
        tuple(rows),
        wording.marked(averaged, report).strip(),
        tone=_tone(report),
    )


def _class_blocks(report: Report, exported: ModelAccuracy) -> list[Block]:
    shown = figures.shown_classes(report)
    caption = "Share named right (dot) and 95 % interval (line); the worst class of the exported model comes first."
    if len(shown) < len(exported.per_class):
        kept = f", with {blank} in any case" if (blank := report.accuracy.blank_class) in shown else ""
        of_all = f"the worst {len(shown)} of {len(exported.per_class)} classes are drawn{kept}"
        caption += f" Only {of_all}; the table has all."
    blocks: list[Block] = []
    if shown:
        blocks.append(Picture(partial(figures.recall_dots, report), wording.marked(caption, report)))
    table = _class_table(report, exported)
    folded = len(table.rows) > figures.MOST_CLASSES
    blocks.append(
        Folded(f"Table of all {wording.counted(len(table.rows), 'class', 'classes')}", table) if folded else table
    )
    return blocks


def _class_table(report: Report, exported: ModelAccuracy) -> Table:
    dense = report.accuracy.dense.per_class if report.accuracy.dense else {}
    blank = report.accuracy.blank_class
    rows = tuple(
        (
            f"{name} (empty frames)" if name == blank else name,
            wording.proportion(dense.get(name)),
            wording.proportion(recall),
            wording.pictures(recall.n if recall else 0),
        )
        for name, recall in sorted(exported.per_class.items(), key=lambda item: item[0] != blank)
    )
    few = any(recall is not None and recall.n < wording.FEW_PICTURES for recall in exported.per_class.values())
    caption = "In brackets: 95 % interval."
    if few:
        caption += f" Few: fewer than {wording.FEW_PICTURES} pictures of a class are {wording.TOO_FEW}."
    return Table(
        ("class", "dense, right", "exported, right", "pictures"),
        rows,
        wording.marked(caption, report),
        tone=_tone(report),
    )


def _tone(report: Report) -> Tone:
    return Tone.BAD if report.model.random_weights else Tone.PLAIN


def _speed_blocks(report: Report) -> list[Block]:
    if report.latency_ms is None:
        return [Note("Not measured: nothing was timed, so no time is shown and none is guessed.", Tone.WARN)]
    blocks: list[Block] = []
    if report.sparsity is not None:
        blocks.append(Note(sparsity.no_time(report) + "."))
    elif report.speedup is not None and report.speedup < 1:
        text = f"Failure: the small model is slower than the dense one ({wording.factor(report.speedup)})."
        blocks.append(Note(text, Tone.BAD))
    if report.latency_ms.dense.samples and report.latency_ms.compressed.samples:
        caption = (
            "Share of the pictures that were done within a time: the further left a curve, the faster the model. "
            "The slowest 1 % may lie beyond the right edge."
        )
        blocks.append(Picture(partial(figures.latency_curves, report), caption))
    blocks.append(_latency_table(report))
    if report.speedup_rounds:
        blocks.append(_ratios(report.speedup_rounds))
    return blocks


def _ratios(rounds: Sequence[float]) -> Note | Folded:
    ratios = ", ".join(map(wording.factor, rounds))
    if len(rounds) <= _SHOWN_ROUNDS:
        return Note(f"Speed-up of each round, dense over compressed: {ratios}.")
    return Folded(f"Speed-up of each of {len(rounds)} rounds, dense over compressed", Lines((ratios,)))


def _latency_table(report: Report) -> Table:
    rows = tuple((label, *_latency_cells(latency)) for label, latency in figures.timed_models(report))
    return Table(
        ("ms for one picture", "p50 (median)", "p90", "p99", "min", "spread (CoV)", "n"),
        rows,
        "p90: nine of ten pictures are done within this time. CoV: standard deviation over mean of the raw samples.",
    )


def _latency_cells(latency: Latency) -> tuple[str, ...]:
    times = (latency.p50, latency.p90, latency.p99, latency.min)
    return (*map(wording.bare_milliseconds, times), wording.variation(latency), wording.amount(latency.n))


def _size_rows(dense: ModelSize, small: ModelSize) -> tuple[tuple[str, int, int], ...]:
    return (
        ("parameters", dense.params, small.params),
        ("parameters that are not zero", dense.nonzero, small.nonzero),
        ("multiply-accumulates (MACs) for one picture", dense.macs, small.macs),
        ("ONNX file, bytes", dense.bytes, small.bytes),
    )


def _share(after: int, before: int) -> str:
    return wording.percent(100 * after / before) if before else "\N{EN DASH}"
