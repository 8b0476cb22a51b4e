"""What a report page consists of, before it becomes HTML or Markdown.

Both renderings are drawn from one `Page`, so that they cannot say different things. Text is plain text here: each
renderer escapes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum


class Tone(Enum):
    """How a piece of the page is to be taken; the value is its CSS class."""

    PLAIN = "plain"
    GOOD = "good"
    WARN = "warn"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Note:
    """One sentence or two."""

    text: str
    tone: Tone = Tone.PLAIN


@dataclass(frozen=True, slots=True)
class Card:
    """A key figure.

    Attributes:
        label: What it is.
        value: The figure, short.
        detail: Its uncertainty and where it comes from.
        tone: `BAD` for a failure, which then says so in `detail` too: colour alone is no message.
    """

    label: str
    value: str
    detail: str
    tone: Tone = Tone.PLAIN


@dataclass(frozen=True, slots=True)
class Table:
    """A table whose first column names its rows.

    Attributes:
        columns: Headings, with units; empty for a plain list of names and values.
        rows: Cells, as many in each row as in the others.
        caption: What must be known beside the figures; empty for none.
        numeric: Whether all but the first column hold figures, which are set flush right.
        tone: `BAD` when the figures mean nothing.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    numeric: bool = True
    tone: Tone = Tone.PLAIN


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture, drawn only when somebody wants it.

    Attributes:
        draw: Returns one `<svg>` element.
        caption: How to read it.
    """

    draw: Callable[[], str]
    caption: str


@dataclass(frozen=True, slots=True)
class Code:
    """Text to be copied as it stands."""

    text: str


@dataclass(frozen=True, slots=True)
class Lines:
    """A list of short texts."""

    items: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Folded:
    """Something that only some readers want."""

    summary: str
    content: Table | Lines


Block = Note | Table | Picture | Code | Lines | Folded


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page.

    Attributes:
        anchor: Its id on the page.
        title: Heading.
        meaning: One plain sentence: what the part tells.
        blocks: Its content.
    """

    anchor: str
    title: str
    meaning: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Page:
    """A whole report.

    Attributes:
        title: What was compressed for which device.
        banner: What makes the page worthless, in red above everything; empty for nothing.
        verdict: The outcome in one sentence.
        actions: What the reader has to do or to know next, straight below the verdict.
        cards: Key figures.
        warnings: What went otherwise than planned.
        sections: The parts.
        footer: Who made the page and when.
    """

    title: str
    banner: str
    verdict: Note
    actions: tuple[Note, ...]
    cards: tuple[Card, ...]
    warnings: tuple[str, ...]
    sections: tuple[Section, ...]
    footer: str = field(default="")
