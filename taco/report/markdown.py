"""`report.md`: the same content as the page, without pictures."""

from __future__ import annotations

import re
from collections.abc import Iterable

from taco.report.build import build_page
from taco.report.page import Block, Code, Folded, Lines, Note, Page, Picture, Section, Table, Tone
from taco.report.schema import Report

_SPECIAL = re.compile(r"([\\`*\[\]|~#$])")
_LOOSE_UNDERSCORE = re.compile(r"(?<![^\W_])_|_(?![^\W_])")
_RED = "\N{LARGE RED SQUARE}"


def render_markdown(report: Report) -> str:
    """Write the report as GitHub-flavoured Markdown; a pure function of the report."""
    return page_markdown(build_page(report), "report.html")


def page_markdown(page: Page, html: str) -> str:
    """Write a page as GitHub-flavoured Markdown.

    Args:
        page: Everything that is shown.
        html: Name of the file that has the pictures.
    """
    parts = [*_top(page), *_warnings(page), _cards(page)]
    for section in page.sections:
        parts += _section(section)
    parts += [f"Pictures: see `{html}`.", f"_{escape(page.footer)}_"]
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    """Plain text that Markdown shows as it stands, on one line, within a table cell too."""
    flat = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _LOOSE_UNDERSCORE.sub(r"\\_", _SPECIAL.sub(r"\\\1", flat))


def _top(page: Page) -> list[str]:
    parts = [f"# {escape(page.title)}"]
    if page.banner:
        parts.append(f"> [!CAUTION]\n> {_RED} **{escape(page.banner)}** {_RED}")
    parts.append(f"**{_toned(page.verdict)}**")
    return parts + [f"> {_toned(action)}" for action in page.actions]


def _warnings(page: Page) -> list[str]:
    return ["## Warnings", _list(page.warnings)] if page.warnings else []


def _cards(page: Page) -> str:
    rows = tuple((card.label, card.value, card.detail) for card in page.cards)
    heading = "## Key figures\n\n" if page.warnings else ""
    return heading + _table(Table(("", "value", "detail"), rows, numeric=False))


def _section(section: Section) -> list[str]:
    blocks = [_block(block) for block in section.blocks]
    return [f"## {escape(section.title)}", escape(section.meaning), *filter(None, blocks)]


def _block(block: Block) -> str:
    match block:
        case Note():
            return _toned(block)
        case Table():
            return _table(block)
        case Code():
            return _fenced(block.text)
        case Lines():
            return _list(block.items)
        case Folded():
            content = _table(block.content) if isinstance(block.content, Table) else _list(block.content.items)
            return f"{escape(block.summary)}:\n\n{content}"
        case Picture():
            return ""


def _toned(note: Note) -> str:
    return f"{_RED} {escape(note.text)}" if note.tone is Tone.BAD else escape(note.text)


def _table(table: Table) -> str:
    columns = table.columns or ("",) * len(table.rows[0])
    rule = [":--", *("--:" if table.numeric else ":--" for _ in columns[1:])]
    lines = [_row(map(escape, columns)), _row(rule), *(_row(map(escape, row)) for row in table.rows)]
    if table.caption:
        lines += ["", _toned(Note(table.caption, table.tone))]
    return "\n".join(lines)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _list(items: Iterable[str]) -> str:
    return "\n".join(f"- {escape(item)}" for item in items)


def _fenced(text: str) -> str:
    """A code block whose fence is longer than any run of backticks inside."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}sh\n{text}\n{fence}"
