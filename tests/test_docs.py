"""The documentation: every command in it exists with every option that is given (test_docs_run.py runs them)."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from conftest import ROOT
from pages import DOCS, PAGES, Command, blocks, commands, split
from typer.core import TyperGroup

from taco import api, cli
from taco.device.agent import main as agent
from taco.targets.loading import target_names

#: Programs that are not ours.
OUTSIDE = {"cd", "export", "mkdir", "ssh", "ssh-keygen", "ssh-copy-id", "scp", "sudo", "true"}
PYTHONS = ("python", "python3")


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
    (words,) = split(line)
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
