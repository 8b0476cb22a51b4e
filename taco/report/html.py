"""`report.html`: one self-contained file, no script, no address outside it."""

from __future__ import annotations

from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined

from taco.report.build import build_page
from taco.report.page import Page
from taco.report.schema import Report


def render_html(report: Report) -> str:
    """Draw the page of a report; a pure function of the report."""
    return page_html(build_page(report))


def page_html(page: Page) -> str:
    """Draw a page.

    Args:
        page: Everything that is shown.

    Returns:
        A complete HTML document with its style and pictures inside.
    """
    environment = Environment(
        loader=PackageLoader("taco.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["kind"] = lambda block: type(block).__name__
    style = files("taco.report").joinpath("page.css").read_text(encoding="utf-8")
    return environment.get_template("page.html.j2").render(page=page, style=style)
