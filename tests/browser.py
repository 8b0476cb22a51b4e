"""A report in a real browser: Debian's chromium, headless, shows pages in frames of exact widths and measures them.

No driver is needed: a wrapper page holds one frame a look, a script in it (browser_probe.js) measures the frames'
documents when all have loaded and writes the answer into its own document, which `--dump-dom` prints.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

PROBE = Path(__file__).with_name("browser_probe.js").read_text(encoding="utf-8")
HEIGHT = 40_000
"""CSS pixels of a frame: more than any page of the tests is long."""
_GAP = 10
_CONSOLE = re.compile(r'CONSOLE[:(\d)]*\]\s*"(.*?)", source', re.DOTALL)


@dataclass(frozen=True)
class Seen:
    """What the browser found.

    Attributes:
        frames: The probe's measurements of each frame, from left to right.
        console: Messages on the console.
        shot: Screenshot of all frames side by side, or None where none was asked for.
        lefts: Where each frame begins on the screenshot, pixels.
    """

    frames: list[dict[str, Any]]
    console: list[str]
    shot: Image.Image | None
    lefts: list[int]


def browser() -> str:
    """Path of the browser; the test is skipped, saying so, where there is none (.ci/run installs it)."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no chromium; install it with: apt-get install chromium")
    return found


def look(pages: Sequence[tuple[str, int]], folder: Path, *, dark: bool = False, shot: int = 0) -> Seen:
    """Show pages and measure them.

    Args:
        pages: HTML and width (CSS pixels) of each frame.
        folder: For the wrapper page and the browser's own files.
        dark: Whether the reader prefers dark colours.
        shot: Height of a screenshot, CSS pixels; 0 takes none. Painting 40,000 takes nine times as long as 12,000.
    """
    lefts = [sum(width + _GAP for _, width in pages[:index]) for index in range(len(pages))]
    # Frames outside the window are laid out, and measured, but not painted.
    window = f"{lefts[-1] + pages[-1][1]},{shot}" if shot else "800,600"
    wrapper = folder / "wrapper.html"
    wrapper.write_text(_wrapper(pages, lefts), encoding="utf-8")
    picture = folder / "shot.png"
    command = [browser(), "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
    command += [f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr", "--disable-dev-shm-usage"]
    command += [f"--blink-settings=preferredColorScheme={0 if dark else 1}", f"--window-size={window}"]
    command += [f"--screenshot={picture}"] if shot else []
    done = subprocess.run(
        [*command, "--dump-dom", wrapper.as_uri()], capture_output=True, text=True, check=True, timeout=300
    )
    answer = re.search(r'<pre id="answer">(.*?)</pre>', done.stdout, re.DOTALL)
    assert answer, f"the probe wrote no answer:\n{done.stdout[-500:]}\n{done.stderr[-2000:]}"
    image = Image.open(picture).convert("RGB") if shot else None
    return Seen(json.loads(html.unescape(answer[1])), _CONSOLE.findall(done.stderr), image, lefts)


def _wrapper(pages: Sequence[tuple[str, int]], lefts: Sequence[int]) -> str:
    frames = "".join(
        f'<iframe srcdoc="{html.escape(page)}" width="{width}" height="{HEIGHT}" '
        f'style="position:absolute;top:0;left:{left}px;border:0"></iframe>'
        for (page, width), left in zip(pages, lefts, strict=True)
    )
    head = '<!DOCTYPE html><meta charset="utf-8"><meta name="color-scheme" content="light dark"><title>frames</title>'
    return f"{head}<body>{frames}<script>{PROBE}</script></body>"
