"""The parts of the page about weights that became zero: what that gained, and that it gained no time."""

from __future__ import annotations

from functools import partial

from taco.report import figures, wording
from taco.report.page import Block, Card, Folded, Note, Picture, Section, Table, Tone
from taco.report.schema import Report, SparseLayer, SparsitySection

#: A ratio above this would be more than noise.
_CLEAR = 1.05
_ARROW = "\N{RIGHTWARDS ARROW}"


def gain(report: Report, sparsity: SparsitySection) -> str:
    """`takes 1.1 MB to send instead of 13.5 MB (12.3x less)`."""
    before, after = report.size.dense.bytes, sparsity.packed_bytes
    times = wording.factor(before / after) if after else "much"
    return f"takes {wording.size(after)} to send instead of {wording.size(before)} ({times} less)"


def no_time(report: Report) -> str:
    """What the clock says of zeros, without a full stop."""
    if report.speedup is None or report.latency_ms is None:
        return "Its time was not measured; runtimes compute with zeros as with any other number"
    small, dense = report.latency_ms.compressed.p50, report.latency_ms.dense.p50
    times = f"{wording.milliseconds(small)} instead of {wording.milliseconds(dense)} a picture"
    measured = f"{wording.factor(report.speedup)}, measured: {times}"
    if report.speedup > _CLEAR:
        return f"The clock saw {measured}; do not count on it: {report.runtime.name} computes with zeros"
    return f"It is not faster ({measured}): {report.runtime.name} computes with zeros as with any number"


def cards(report: Report) -> tuple[Card, ...]:
    """Bytes to send, and the time that did not change."""
    sparsity = report.sparsity
    if sparsity is None:
        return ()
    before, after = report.size.dense.bytes, sparsity.packed_bytes
    detail = (
        f"weights that are not zero {wording.large(report.size.dense.nonzero)} {_ARROW} "
        f"{wording.large(report.size.compressed.nonzero)}; unpacked it is as large as before"
    )
    tone = Tone.GOOD if 2 * after < before else Tone.WARN
    send = Card("To send", f"{wording.size(before)} {_ARROW} {wording.size(after)}", detail, tone)
    if report.speedup is None:
        return (send, Card("Speed-up", wording.NOT_MEASURED, "zeros are not expected to gain any", Tone.WARN))
    return (send, Card("Speed-up", wording.factor(report.speedup), "measured: zeros are computed like other numbers"))


def sparsity_sections(report: Report) -> tuple[Section, ...]:
    """Where the zeros are; nothing for a model without."""
    sparsity = report.sparsity
    if sparsity is None:
        return ()
    total = (
        f"{wording.percent(sparsity.percent)} of the {wording.amount(sparsity.weights)} weights of "
        f"{wording.counted(len(sparsity.layers), 'layer')} are zero ({wording.percent(sparsity.asked_percent)} asked, "
        f"pattern {sparsity.pattern})."
    )
    caption = "Share of each layer's weights that is left, in the order of the network; the whole bar is dense."
    blocks: list[Block] = [
        Note(total),
        Note(no_time(report) + ".", Tone.PLAIN if report.speedup else Tone.WARN),
        Picture(partial(figures.sparsity_bars, sparsity), caption),
        _stages(sparsity),
        Folded(f"Table of {wording.counted(len(sparsity.layers), 'layer')}", _layers(sparsity.layers)),
    ]
    if sparsity.dense:
        why = Table((), tuple(tuple(line.split(": ", 1)) for line in sparsity.dense), numeric=False)
        blocks.append(Folded(f"{wording.counted(len(sparsity.dense), 'layer')} stayed dense", why))
    return (
        Section(
            "sparsity",
            "Weights that became zero",
            "A weight that is zero need not be stored or sent: taco unpack makes the full model of the small file, on "
            "the device, byte for byte.",
            tuple(blocks),
        ),
    )


def _stages(sparsity: SparsitySection) -> Table:
    rows = tuple(
        (
            f"stage {number}",
            wording.percent(stage.percent),
            wording.amount(stage.steps),
            _loss(stage.loss_before),
            _loss(stage.loss_after),
        )
        for number, stage in enumerate(sparsity.stages, start=1)
    )
    return Table(
        ("", "weights that are zero", "steps of recovery", "distance before", "distance after"),
        rows,
        "Pruned a part at a time, with recovery after each. Distance: how far the model is from the dense one on the "
        "select pictures.",
    )


def _loss(value: float | None) -> str:
    return "\N{EN DASH}" if value is None else f"{value:.3g}"


def _layers(layers: list[SparseLayer]) -> Table:
    rows = tuple(
        (
            layer.name,
            wording.amount(layer.weights),
            wording.amount(layer.nonzero),
            wording.percent(100 * layer.nonzero / layer.weights) if layer.weights else "\N{EN DASH}",
            wording.percent(100 * layer.relative_loss),
        )
        for layer in layers
    )
    return Table(
        ("layer", "weights", "not zero", "left", "output lost"),
        rows,
        "Output lost: squared error of a layer's output in the last stage, before recovery, as a share of the output.",
    )
