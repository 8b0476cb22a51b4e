"""Whole fronts, from the cells that `python -m benchmarks.front --fronts` keeps: a list, what beats ours, a picture."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from taco.files import write_atomically
from taco.front.dominance import Mark, above
from taco.front.drawing import front_picture, numbers
from taco.front.schema import Front, FrontPoint
from taco.wording import asked_points

PATTERN = "*-seed*.front.json"


def render(folder: Path) -> str:
    """Return Markdown of every front, and draw each beside the other pictures of the documents.

    Args:
        folder: Of the cells: docs/evidence/front.
    """
    parts = []
    for file in sorted(folder.glob(PATTERN)):
        cell = json.loads(file.read_bytes())
        front, name = Front.model_validate(cell["front"]), file.name.removesuffix(".front.json")
        picture = folder.parents[1] / "images" / f"front-{name}.svg"
        picture.parent.mkdir(parents=True, exist_ok=True)
        alone = front_picture(front).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" width="600" ', 1)
        write_atomically(picture, alone.encode())
        heading = f"**{cell['target']}, {cell['model']}, {cell['task']} species, seed {cell['seed']}**"
        told = f"{_above(front)} {_taken(front)}"
        parts.append(f"{heading}: {told}\n\n![Accuracy against milliseconds](images/{picture.name})\n\n{_table(front)}")
    return "\n\n".join(parts)


def _above(front: Front) -> str:
    """Say which models of others lie above and left of ours."""
    marks = [Mark.of(point) for point in front.points]
    if others := above(marks):
        return f"Above and left of our front, as measured: {others}."
    return "No other model lies above and left of our front."


def _taken(front: Front) -> str:
    if front.taken is None:
        return "None of ours may be recommended."
    return f"Recommended within {asked_points(front.limit_points)} by the shots: {front.taken.name}."


def _table(front: Front) -> str:
    lines = [
        "| | model | reads | ms | over dense fp32 | right (95 %) | lost, unseen (95 %) | by the shots | beaten |",
        "|---|---|---|---|---|---|---|---|---|",
        *_rows(front),
    ]
    return "\n".join(lines)


def _rows(front: Front) -> Iterator[str]:
    for number, p in enumerate(front.points, start=1):
        fast, low, high = p.speedup_fp32, *p.drop_ci95
        yield (
            f"| {number} | {p.name}: {p.made_by} | {p.pictures or '-'} | {p.takes_ms:.2f} | {fast.value:.2f} "
            f"({fast.low:.2f} to {fast.high:.2f}) | {_right(p)} | {p.drop_points:+.1f} ({low:+.1f} to {high:+.1f}) | "
            f"{p.select.points:+.1f} | {_beaten(p, front)} |"
        )


def _beaten(point: FrontPoint, front: Front) -> str:
    """Return the number of a model that is no slower and no less often right."""
    if point.dominated_by is None:
        return ""
    return f"by {numbers(front)[point.dominated_by]}"


def _right(point: FrontPoint) -> str:
    found = point.accuracy
    return f"{found.percent:.1f} ({found.low:.1f} to {found.high:.1f})"
