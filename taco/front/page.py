"""`front.html` and `front.md`: the front as a page, drawn from `front.json` alone."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from taco.errors import InputError
from taco.files import write_atomically
from taco.front.dominance import PICKABLE
from taco.front.drawing import front_picture, numbers, too_low
from taco.front.schema import Front, FrontPoint, Ratio
from taco.report import wording
from taco.report.html import page_html
from taco.report.markdown import page_markdown
from taco.report.page import Block, Card, Code, Folded, Note, Page, Picture, Section, Table, Tone

NAME = "front.json"


def write_front(front: Front, folder: Path) -> Path:
    """Write `front.json`, `front.md` and `front.html`, replacing older ones; returns the page.

    Raises:
        TacoError: The folder cannot be written to.
    """
    page = front_page(front)
    html = folder / "front.html"
    texts = {
        folder / NAME: front.model_dump_json(indent=1) + "\n",
        folder / "front.md": page_markdown(page, html.name),
        html: page_html(page),
    }
    for path, text in texts.items():
        write_atomically(path, text.encode())
    return html


def read_front(folder: Path) -> Front:
    """Read a front.

    Raises:
        InputError: There is none, or it is damaged or from another version.
    """
    try:
        return Front.model_validate_json((folder / NAME).read_bytes())
    except OSError as error:
        raise InputError(f"{folder} holds no {NAME}: {error.strerror}", "Make one with `taco front`") from error
    except ValidationError as error:
        raise InputError(f"{folder / NAME} is damaged or from another version", "Make it again") from error


def front_page(front: Front) -> Page:
    """Lay out a front; a pure function of it."""
    return Page(
        title=f"{front.task} on {front.target}: accuracy against time",
        banner="RANDOM WEIGHTS: every accuracy on this page is meaningless" if front.random_weights else "",
        verdict=_verdict(front),
        actions=tuple(_actions(front)),
        cards=tuple(_cards(front)),
        warnings=tuple(front.warnings),
        sections=(_front_section(front), _conditions(front), _run(front)),
        footer=f"Written by taco-export {front.taco_version}, {front.created}. The same figures are in {NAME}.",
    )


def _verdict(front: Front) -> Note:
    point = front.taken
    if point is None or front.recommended is None:
        return Note("No model of this front can be recommended.", Tone.WARN)
    text = (
        f"Take number {numbers(front)[point.name]} ({point.name}): {wording.milliseconds(point.takes_ms)} a picture, "
        f"{wording.factor(point.speedup.value)} as fast as the dense model, "
        f"{wording.percent(point.accuracy.percent)} right."
    )
    return Note(_marked(text, front), Tone.WARN if front.random_weights else Tone.PLAIN)


def _actions(front: Front) -> Iterator[Note]:
    if front.recommended is not None:
        unseen = " The pictures that draw the picture below had no say in it."
        yield Note(f"Why: {front.recommended.reason}.{unseen if front.evaluated_on == 'evaluation' else ''}")
        yield from _beaten(front)
        number = numbers(front)[front.recommended.name]
        yield Note(f"Next step: the same command with --pick {number} recovers it fully and makes the bundle.")
    if front.evaluated_on == "select":
        yield Note(
            "No pictures were left for an unseen test: all accuracies come from pictures that also guided choices.",
            Tone.WARN,
        )


def _beaten(front: Front) -> Iterator[Note]:
    """Say that the recommended model is not on the front."""
    point = front.taken
    if point is not None and point.dominated_by is not None:
        yield Note(
            f"As measured, number {numbers(front)[point.dominated_by]} ({point.dominated_by}) is no slower and no less "
            "often right: the choice goes by the points lost on the select pictures alone. How sure these figures are "
            "stands below.",
            Tone.WARN,
        )


def _cards(front: Front) -> Iterator[Card]:
    point = front.taken
    if point is not None:
        yield Card("Recommended", point.name, f"{point.made_by}; {point.runtime}, {point.precision}")
        yield Card("Speed", wording.factor(point.speedup.value), f"over the dense model; {_interval(point.speedup)}")
        yield Card(
            "Speed over fp32", wording.factor(point.speedup_fp32.value), f"dense fp32; {_interval(point.speedup_fp32)}"
        )
        low, high = point.drop_ci95
        detail = f"paired 95 % interval: {wording.interval(low, high, unit='points')}"
        yield Card("Accuracy lost", wording.points(point.drop_points), _marked(detail, front))


def _front_section(front: Front) -> Section:
    blocks: list[Block] = [
        Picture(
            partial(front_picture, front),
            "Every model in one interleaved run: left is faster, up is more often right; upright lines are 95 % "
            "intervals. Pale ones are beaten, as measured, by another model that is no slower and no less right. "
            f"Numbers are those of the list.{_left_out(front)}",
        ),
        _table(front),
        Folded("How sure each accuracy is", _accuracies(front)),
        Folded("How sure each speed is", _speeds(front)),
        Folded("How each model was made, and what beats it", _making(front)),
    ]
    beaten = [p for p in front.points if p.kind == "ours" and p.dominated_by is not None]
    if beaten:
        told = "; ".join(f"{p.name} by {p.dominated_by}" for p in beaten)
        blocks.append(Note(f"Beaten models of ours: {told}."))
    return Section(
        "front",
        "The front",
        "What this device can do: each model as often right and as fast as it was measured. Take what fits your site. "
        "Which ones are beaten goes by these figures alone: one whose interval reaches the other's may be as good.",
        tuple(blocks),
    )


def _left_out(front: Front) -> str:
    low = too_low(front)
    if not low:
        return ""
    many = f"{wording.counted(len(low), 'model')} that {'is' if len(low) == 1 else 'are'}"
    return f" Not drawn: {many} much less often right than the best; the list has them."


def _placed(front: Front) -> str:
    """Say what the milliseconds are, where they are not medians of all times as in older fronts."""
    return "" if any(p.ms is None for p in front.points) else "; ms: the dense model's median over that speed-up"


def _table(front: Front) -> Table:
    rows = tuple(
        (
            f"{number}. {point.name}",
            wording.bare_milliseconds(point.takes_ms),
            wording.factor(point.speedup.value),
            wording.percent(point.accuracy.percent),
            wording.signed(point.drop_points),
            "yes" if point.dominated_by is None else "no",
        )
        for number, point in enumerate(front.points, start=1)
    )
    n = front.points[0].accuracy.n
    kind = "Class-balanced accuracy" if front.balanced else "Accuracy"
    caption = (
        f"{kind} on {wording.counted(n, 'picture')}; lost: points against the dense model on the same pictures. Speed: "
        f"over the dense model on the same target, in {wording.counted(front.rounds, 'round')}{_placed(front)}. Models "
        "that were cut were recovered shortly; --pick recovers fully."
    )
    return Table(("model", "ms", "speed", "right", "lost", "front"), rows, _marked(caption, front))


def _rows(front: Front, cells: Callable[[FrontPoint], tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    return tuple((f"{n}. {point.name}", *cells(point)) for n, point in enumerate(front.points, start=1))


def _accuracies(front: Front) -> Table:
    rows = _rows(
        front,
        lambda p: (
            f"{p.accuracy.low:.1f} to {p.accuracy.high:.1f} %",
            f"{wording.signed(p.drop_ci95[0])} to {wording.signed(p.drop_ci95[1])}",
            f"{p.select.points:+.2f}",
        ),
    )
    others = "which are others" if front.evaluated_on == "evaluation" else "by heads that have not seen them"
    caption = (
        "95 % intervals; that of the points lost is paired. What a model loses on the select pictures, "
        f"{others}, guided the choice of the recommended one."
    )
    return Table(("model", "right", "lost", "select"), rows, _marked(caption, front))


def _speeds(front: Front) -> Table:
    rows = _rows(
        front,
        lambda p: (_interval(p.speedup), wording.factor(p.speedup_fp32.value), _interval(p.speedup_fp32)),
    )
    caption = "95 % intervals over the rounds' ratios: over the dense model on the same target, and over it in fp32."
    return Table(("model", "over dense", "fp32", "interval"), rows, caption)


def _making(front: Front) -> Table:
    named = numbers(front)

    def told(p: FrontPoint) -> str:
        macs = "" if p.macs is None else f", {wording.large(p.macs)} MACs"
        beaten = "on the front" if p.dominated_by is None else f"beaten by number {named[p.dominated_by]}"
        return f"{p.made_by}; {p.runtime}, {p.precision}; {wording.size(p.size_bytes)}{macs}; {beaten}"

    return Table(("model", "what it is"), _rows(front, lambda p: (told(p),)), numeric=False)


def _conditions(front: Front) -> Section:
    rows = (
        ("target", front.target),
        ("threads", str(front.threads)),
        ("interleaved rounds", str(front.rounds)),
        *front.measured_on.items(),
    )
    return Section(
        "conditions",
        "What was measured where",
        "All times come from one run in which the models took turns; they hold for this machine in this state only.",
        (Table((), rows, numeric=False),),
    )


def _run(front: Front) -> Section:
    named = [point.name for point in front.points if point.kind in PICKABLE]
    return Section(
        "run",
        "How to do it again, and how to take a point",
        f"--pick takes a number or a name: {', '.join(named)}.",
        (Code(shlex.join(front.command)),),
    )


def _interval(ratio: Ratio) -> str:
    return f"{ratio.low:.2f} to {wording.factor(ratio.high)}"


def _marked(text: str, front: Front) -> str:
    marks = ["random weights: meaningless"] if front.random_weights else []
    if front.evaluated_on == "select":
        marks.append("on pictures that also guided choices: likely too good")
    return f"{text} [{'; '.join(marks)}]" if marks else text
