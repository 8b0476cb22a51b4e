"""The pages of the documentation, and the commands that stand in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from conftest import ROOT

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
SHELL = ("sh", "bash")


@dataclass(frozen=True)
class Command:
    """One command of a page."""

    page: Path
    line: int
    words: tuple[str, ...]
    named: bool = False  # in a sentence, where it may stand without its arguments

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}: {shlex.join(self.words)}"


def blocks(page: Path) -> Iterator[tuple[int, str, str]]:
    """Yield line, language and text of every fenced block."""
    fence, begin, language, lines = "", 0, "", list[str]()
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        opened = re.match(r"(`{3,})(\w*)$", line.strip())
        if not fence and opened:
            fence, begin, language, lines = opened[1], number + 1, opened[2], []
        elif fence and line.strip() == fence:
            yield begin, language, "\n".join(lines)
            fence = ""
        elif fence:
            lines.append(line)


def commands(page: Path) -> list[Command]:
    """Return the commands of a page: those in shell blocks, and those in `code` that begin with one of our programs."""
    found = []
    for begin, language, text in blocks(page):
        if language in SHELL:
            joined = re.sub(r"\\\n\s*", " ", text)
            for offset, line in enumerate(joined.splitlines()):
                found += [Command(page, begin + offset, words) for words in split(line)]
    prose = re.sub(r"```.*?```", lambda m: "\n" * m[0].count("\n"), page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for match in re.finditer(r"`((?:taco|taco-export|make) [^`]+)`", prose):
        line = prose.count("\n", 0, match.start()) + 1
        found += [Command(page, line, words, named=True) for words in split(re.sub(r"[\[\]]", "", match[1]))]
    return found


def split(line: str) -> Iterator[tuple[str, ...]]:
    """Yield the words of every command of a line, also of one that ssh is given."""
    for part in re.split(r"&&|\|\|?|;", line) if "'" not in line else [line]:
        words = shlex.split(part, comments=True)
        words = words[: next((i for i, w in enumerate(words) if w.startswith((">", "<"))), len(words))]
        if words:
            yield tuple(words)
        if words[:1] == ["ssh"] and len(words) == 3:
            yield from split(words[2])


def lines(page: Path) -> list[str]:
    """Return the whole lines that a reader types: those of shell blocks, and those in sentences that have arguments."""
    found = []
    for _, language, text in blocks(page):
        if language in SHELL:
            joined = re.sub(r"\\\n\s*", " ", text)
            found += [re.sub(r"\s+#.*$", "", line).strip() for line in joined.splitlines()]
    named = [
        shlex.join(command.words)
        for command in commands(page)
        if command.named and (command.words[0] == "make" or len(command.words) > 2)
    ]
    return [line for line in dict.fromkeys([*found, *named]) if line]
