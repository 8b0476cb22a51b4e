"""`report.md`: the same content as the page, valid tables, nothing that turns into markup."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from make_report import (
    CLASSES,
    make_accuracy,
    make_layers,
    make_model,
    make_report,
    make_slower,
    make_task,
    make_unmeasured,
)

from taco.report.build import build_page
from taco.report.markdown import escape, render_markdown
from taco.report.page import Folded, Table
from taco.report.schema import Report


@dataclass(frozen=True)
class EscapeCase:
    text: str
    expected: str


ESCAPES = [
    EscapeCase("a|b", r"a\|b"),
    EscapeCase("`x`", r"\`x\`"),
    EscapeCase("<b>&", "&lt;b&gt;&amp;"),
    EscapeCase("*x* _x_", r"\*x\* \_x\_"),
    EscapeCase("conv_pw", "conv_pw"),
    EscapeCase("[a](b)", r"\[a\](b)"),
    EscapeCase("a\nb", "a b"),
    EscapeCase("back\\slash", r"back\\slash"),
]


@pytest.mark.parametrize("case", ESCAPES, ids=lambda case: case.text)
def test_escape(case: EscapeCase) -> None:
    assert escape(case.text) == case.expected


@given(st.text())
def test_escaped_text_never_breaks_a_table_row(text: str) -> None:
    escaped = escape(text)
    assert "\n" not in escaped
    assert "<" not in escaped
    assert not re.search(r"(?<!\\)(?:\\\\)*[|`]", escaped)


def rows(markdown: str) -> list[list[int]]:
    """Cells in each row of each table."""
    tables: list[list[int]] = [[]]
    for line in markdown.splitlines():
        if line.startswith("|"):
            tables[-1].append(len(re.findall(r"(?<!\\)\|", line)) - 1)
        elif tables[-1]:
            tables.append([])
    return [table for table in tables if table]


@pytest.mark.parametrize(
    "report",
    [make_report(), make_unmeasured(), make_slower(), make_report(accuracy=make_accuracy(["a|b", "`c`"]))],
    ids=["measured", "unmeasured", "slower", "pipes"],
)
def test_every_table_is_rectangular(report: Report) -> None:
    tables = rows(render_markdown(report))
    assert len(tables) >= 8
    assert all(len(set(table)) == 1 for table in tables)


def test_it_holds_every_cell_of_the_page() -> None:
    report = make_report(layers=make_layers(45))
    markdown = render_markdown(report)
    blocks = [block for section in build_page(report).sections for block in section.blocks]
    tables = [block for block in blocks if isinstance(block, Table)]
    tables += [block.content for block in blocks if isinstance(block, Folded) and isinstance(block.content, Table)]
    assert len(tables) == 18
    for table in tables:
        for row in table.rows:
            assert all(escape(cell) in markdown for cell in row)


def test_the_verdict_comes_first_and_pictures_are_named() -> None:
    lines = [line for line in render_markdown(make_report()).splitlines() if line]
    assert lines[0] == "# my photos on host-cpu"
    assert lines[1].startswith("**On this machine the small model names a picture 1.61x faster")
    assert "Pictures: see `report.html`." in lines


def test_random_weights_are_red() -> None:
    markdown = render_markdown(make_report(model=make_model(random_weights=True)))
    assert "> [!CAUTION]\n> \N{LARGE RED SQUARE} **RANDOM WEIGHTS: every accuracy" in markdown
    assert markdown.index("RANDOM WEIGHTS") < markdown.index("On this machine")
    assert "\N{LARGE RED SQUARE}" not in render_markdown(make_report())


def test_a_failure_is_red() -> None:
    assert "**\N{LARGE RED SQUARE} Not faster" in render_markdown(make_slower())


def test_next_step_is_quoted_below_the_verdict() -> None:
    markdown = render_markdown(make_unmeasured())
    assert "\n> Next step: copy runs/orin to the Orin and run \\`taco bench runs/orin\\` there\n" in markdown


def test_select_is_noted() -> None:
    markdown = render_markdown(make_report(accuracy=make_accuracy(CLASSES, evaluated_on="select")))
    assert markdown.count("also guided choices: likely too good") == 15  # as on the page, less the pictures' captions


def test_the_command_can_be_copied() -> None:
    markdown = render_markdown(make_report(command=["taco-export", "a```b"]))
    assert "\n````sh\ntaco-export 'a```b'\n````\n" in markdown
    assert "\n```sh\ntaco-export 'my photos/' --target host-cpu" in render_markdown(make_report())


def test_thousands_of_skipped_pictures_are_summed_up() -> None:
    many = [f"{n}.heic: convert it" for n in range(3000)]
    text = render_markdown(make_report(task=make_task(skipped=[*many, "a.jpg: truncated"])))
    assert "001 pictures could not be used" in text
    assert text.count(": convert it") == 21
    assert "- and 2980 more: convert it" in text
    assert "- a.jpg: truncated" in text


def test_skipped_pictures_are_listed() -> None:
    report = make_report(task=make_task(skipped=["a.jpg: truncated", "b|c.jpg: empty"]))
    assert "2 pictures could not be used:\n\n- a.jpg: truncated\n- b\\|c.jpg: empty" in render_markdown(report)


def test_no_warnings_no_heading() -> None:
    assert "## Warnings" not in render_markdown(make_report(warnings=[]))
    assert "## Warnings\n\n- The processor's governor" in render_markdown(make_report())
