"""Write a report to a folder, each file whole or not at all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from taco.files import write_atomically
from taco.report.html import render_html
from taco.report.markdown import render_markdown
from taco.report.schema import Report


@dataclass(frozen=True, slots=True)
class ReportPaths:
    """Where the three renderings lie."""

    json: Path
    markdown: Path
    html: Path


def write_report(report: Report, folder: Path) -> ReportPaths:
    """Write `report.json`, `report.md` and `report.html`, replacing older ones.

    Everything is drawn before the first file is touched; each file is written under a temporary name in the same
    folder, flushed to the disk and renamed, so that an interruption leaves the old file or the new one.

    Args:
        report: What to write.
        folder: An existing folder.

    Raises:
        TacoError: The folder cannot be written to.
    """
    paths = ReportPaths(folder / "report.json", folder / "report.md", folder / "report.html")
    texts = {
        paths.json: report.model_dump_json(indent=2) + "\n",
        paths.markdown: render_markdown(report),
        paths.html: render_html(report),
    }
    for path, text in texts.items():
        write_atomically(path, text.encode())
    return paths
