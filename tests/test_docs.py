"""The documentation: every command in it exists with every option that is given; the quick start is really run."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from conftest import ROOT, draw_task
from typer.core import TyperGroup

from taco import api, cli
from taco.device.agent import main as agent
from taco.targets.loading import target_names

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
SHELL = ("sh", "bash")
#: Programs that are not ours.
OUTSIDE = {"cd", "export", "mkdir", "ssh", "ssh-keygen", "ssh-copy-id", "scp", "sudo", "true"}
PYTHONS = ("python", "python3")
#: What the run of the quick start puts in place of what a page says: the one place where paths are changed.
STANDS_FOR = {"photos/": "site", "runs/trap1": "run", "answers.csv": "answers.csv"}
#: Makes it quick; what it finds is worth nothing.
QUICK = ("--model", "test_efficientnet", "--random-weights", "--shots", "5", "--recover-minutes", "0", "--force")


@dataclasses.dataclass(frozen=True)
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
                found += [Command(page, begin + offset, words) for words in _split(line)]
    prose = re.sub(r"```.*?```", lambda m: "\n" * m[0].count("\n"), page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for match in re.finditer(r"`((?:taco|taco-export|make) [^`]+)`", prose):
        line = prose.count("\n", 0, match.start()) + 1
        found += [Command(page, line, words, named=True) for words in _split(re.sub(r"[\[\]]", "", match[1]))]
    return found


def _split(line: str) -> Iterator[tuple[str, ...]]:
    """Yield the words of every command of a line, also of one that ssh is given."""
    for part in re.split(r"&&|\|\|?|;", line) if "'" not in line else [line]:
        words = shlex.split(part, comments=True)
        words = words[: next((i for i, w in enumerate(words) if w.startswith((">", "<"))), len(words))]
        if words:
            yield tuple(words)
        if words[:1] == ["ssh"] and len(words) == 3:
            yield from _split(words[2])


ALL = [command for page in PAGES for command in commands(page)]


@cache
def tree() -> Any:
    return typer.main.get_command(cli.app)


def parse(words: tuple[str, ...]) -> None:
    """Parse a command line as the program does, without doing anything.

    Raises:
        AssertionError: A command, an option, an argument or a value is not known.
    """
    command, rest, name = tree(), list(words[1:]), words[0]
    if name == "taco-export":
        rest.insert(0, "export")
    parent = None
    try:
        while isinstance(command, TyperGroup) and rest and not rest[0].startswith("-"):
            if rest[0] not in command.commands and "draw" not in command.commands:
                raise AssertionError(f"there is no command {rest[0]!r}")
            word = rest.pop(0) if rest[0] in command.commands else "draw"
            parent = command.context_class(command, info_name=name, parent=parent, **command.context_settings)
            command, name = command.commands[word], word
        command.make_context(name, rest, parent=parent)
    except typer.exceptions.TyperException as error:
        raise AssertionError(error.format_message()) from error
    except typer.Exit:
        pass


def check(command: Command) -> None:
    program = Path(command.words[0]).name
    if program in ("taco", "taco-export"):
        try:
            parse((program, *command.words[1:]))
        except AssertionError as error:
            if not (command.named and str(error).startswith("Missing argument")):
                raise
    elif program == "make":
        goals = [word for word in command.words[1:] if "=" not in word]
        assert set(goals) <= goals_of_the_makefile(), goals
        given = {word.partition("=")[0] for word in command.words[1:] if "=" in word}
        assert given <= {"TASK", "DEVICE", "RUN", "MINUTES", "ARGS", "RUNS"}, given
    elif program in PYTHONS:
        check_python(command.words[1:])
    else:
        assert program in OUTSIDE, f"unknown program {program}"


def check_python(words: tuple[str, ...]) -> None:
    if words[0] == "-m":
        assert words[1] in ("venv", "pip") or importlib.util.find_spec(words[1]), words[1]
        return
    assert Path(words[0]).name == "agent.pyz", words[0]
    with pytest.raises(SystemExit) as ended:
        agent([words[1], "-h"])
    assert ended.value.code == 0


@cache
def goals_of_the_makefile() -> set[str]:
    text = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert phony is not None
    named = {word for word in phony[1].split() if not word.startswith("$")}
    devices = re.search(r"^DEVICES := (.*)$", text, re.MULTILINE)
    assert devices is not None
    return named | set(devices[1].split()) | {f"bench-{name}" for name in devices[1].split()}


def test_the_pages_hold_commands() -> None:
    pages = {command.page.name for command in ALL}
    assert {"README.md", "index.md", "camera-traps.md", "raspberry-pi.md", "jetson.md", "nuc.md", "faq.md"} <= pages
    assert sum(Path(command.words[0]).name in ("taco", "taco-export") for command in ALL) >= 40


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_exists(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = []
    for command in commands(page):
        try:
            check(command)
        except AssertionError as error:
            wrong.append(f"{command}: {error}")
    assert wrong == []


@pytest.mark.parametrize(
    "line",
    [
        "taco-export photos/ --target host-cpu --speeedup 2",
        "taco nothing photos/",
        "taco bench runs/a --idle soon",
        "taco report diff a",
        "taco devices doctor",
        "make cake",
        "make raspberry-pi-5 PHOTOS=a",
        "python3 agent.pyz dance",
        "python -m taco.nothing",
        "curl https://example.org",
    ],
)
def test_a_wrong_command_is_found(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    (words,) = _split(line)
    with pytest.raises((AssertionError, ModuleNotFoundError)):
        check(Command(ROOT, 0, words))


def test_every_target_has_its_own_make_goals() -> None:
    assert {*target_names(), *(f"bench-{name}" for name in target_names())} <= goals_of_the_makefile()


class _Loader(yaml.SafeLoader):
    """Reads what mkdocs.yml may hold beyond plain YAML."""


def nav_files(entries: Any) -> Iterator[str]:
    for entry in entries:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            yield from nav_files(value) if isinstance(value, list) else [value]


def test_the_site_names_every_page_once_and_only_pages() -> None:
    config = yaml.load((ROOT / "mkdocs.yml").read_text(), _Loader)  # noqa: S506 - a SafeLoader
    named = list(nav_files(config["nav"]))
    assert sorted(named) == sorted(page.name for page in DOCS.glob("*.md"))
    assert config["docs_dir"] == "docs"


def links(page: Path) -> Iterator[str]:
    text = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    yield from re.findall(r"\]\(([^)\s]+)\)", text)


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), link
        assert page.name == "README.md" or there.is_relative_to(DOCS), f"{link} is not part of the site"
        assert not anchor or anchor in anchors(there), link


def test_the_python_page_names_the_whole_api() -> None:
    text = (DOCS / "api.md").read_text()
    table = text[text.index("| name | what |") :]
    assert {name for name in api.__all__ if f"`{name}" not in table} == set()
    for _, language, code in blocks(DOCS / "api.md"):
        if language == "python":
            for node in ast.walk(ast.parse(code)):
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "api":
                    assert node.attr in api.__all__


@pytest.mark.slow
def test_the_quick_start_does_what_it_says(tmp_path: Path) -> None:
    draw_task(tmp_path / "site")
    done = []
    for command in commands(DOCS / "index.md"):
        program = Path(command.words[0]).name
        if program not in ("taco", "taco-export"):
            continue
        words = [STANDS_FOR.get(word, word) for word in command.words[1:]]
        entry = "main_export" if program == "taco-export" else "main"
        extra = QUICK if program == "taco-export" else ()
        code = f"import sys; sys.argv[0] = {program!r}; from taco.cli import {entry}; {entry}()"
        ran = subprocess.run(
            [sys.executable, "-c", code, *words, *extra], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, f"{command}\n{ran.stdout}\n{ran.stderr}"
        done.append(words[0] if program == "taco" else program)
    assert done == ["taco-export", "taco-export", "predict", "verify", "evaluate", "bench", "report"]
    assert (tmp_path / "run" / "report.html").is_file()
    assert (tmp_path / "answers.csv").read_text().count("\n") == 25
    for _, language, code in blocks(DOCS / "api.md"):
        if language == "python":
            for said, real in {**STANDS_FOR, "frames/": "site", '"speedup": 1.5,': '"speedup": 1.5, **quick,'}.items():
                code = code.replace(said, real)
            quick = (
                "quick = dict(model='test_efficientnet', random_weights=True, shots=5, recover_minutes=0, force=True)\n"
            )
            again = subprocess.run(  # the same request: the finished run is found, and nothing is done twice
                [sys.executable, "-c", quick + code], cwd=tmp_path, capture_output=True, text=True, check=False
            )
            assert again.returncode == 0, again.stderr
            assert again.stdout.count("site") == 24
