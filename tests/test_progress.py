"""What a person sees of the steps, on a terminal and elsewhere."""

from __future__ import annotations

import io
import logging
import time

import pytest
from rich.console import Console

from taco.progress import PlainProgress, Progress, TerminalProgress


def plain() -> PlainProgress:
    return PlainProgress()


def terminal() -> TerminalProgress:
    return TerminalProgress(Console(file=io.StringIO(), width=100))


def on_terminal() -> tuple[TerminalProgress, io.StringIO]:
    screen = io.StringIO()
    return TerminalProgress(Console(file=screen, width=100, force_terminal=True, color_system="standard")), screen


def interrupted(progress: Progress) -> None:
    with progress.step("fit", total=4) as advance:
        advance(1)
        raise KeyboardInterrupt


BOTH = pytest.mark.parametrize("make", [plain, terminal])


@BOTH
def test_seconds_are_kept_in_the_order_of_the_steps(make: type[Progress]) -> None:
    progress = make()
    for name in ("read", "fit"):
        with progress.step(name, total=2) as advance:
            advance(1)
            time.sleep(0.01)
    assert list(progress.seconds) == ["read", "fit"]
    assert all(0.009 < seconds < 5 for seconds in progress.seconds.values())


@BOTH
def test_a_step_that_comes_twice_is_added_up(make: type[Progress]) -> None:
    progress = make()
    with progress.step("export"):
        time.sleep(0.01)
    once = progress.seconds["export"]
    with progress.step("export"):
        time.sleep(0.01)
    assert progress.seconds["export"] >= once + 0.009


@BOTH
def test_a_step_that_fails_is_not_a_finished_one(make: type[Progress]) -> None:
    progress = make()
    with pytest.raises(ValueError, match="disk"), progress.step("export"):
        raise ValueError("disk")
    assert progress.seconds == {}
    with progress.step("again"):
        pass
    assert list(progress.seconds) == ["again"]


@BOTH
def test_the_seconds_handed_out_are_a_copy(make: type[Progress]) -> None:
    progress = make()
    with progress.step("read"):
        pass
    progress.seconds["read"] = 1e9
    assert progress.seconds["read"] < 5


def test_plain_lines_name_step_seconds_and_items(caplog: pytest.LogCaptureFixture) -> None:
    progress = plain()
    with caplog.at_level(logging.INFO, "taco"):
        with progress.step("read", total=5) as advance:
            advance(2)
            advance(3)
        with pytest.raises(KeyboardInterrupt):
            interrupted(progress)
        progress.say("100 % done: {x} [bold]")
    first, second, third = [record.getMessage() for record in caplog.records]
    assert first.startswith("read: 0.")
    assert first.endswith(" s, 5 of 5")
    assert second.startswith("fit: stopped after 0.")
    assert second.endswith(" s, 1 of 4")
    assert third == "100 % done: {x} [bold]"


def test_a_terminal_ticks_what_finished_and_crosses_what_did_not() -> None:
    progress, screen = on_terminal()
    with progress.step("read the [red]pictures", total=3) as advance:
        advance(3)
    with pytest.raises(ValueError, match="disk"), progress.step("export"):
        raise ValueError("disk")
    shown = screen.getvalue()
    assert "✓" in shown
    assert "read the [red]pictures" in shown  # a name is text, not markup
    assert shown.index("✗") > shown.index("✓")
    assert "export" in shown[shown.index("✗") :]


def test_a_line_can_be_said_while_a_bar_runs() -> None:
    progress, screen = on_terminal()
    with progress.step("fit"):
        progress.say("taking [narrower] widths")
    assert "taking [narrower] widths" in screen.getvalue()
