"""Progress that a person sees: a bar on a terminal, plain log lines elsewhere, and the seconds of every step."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichBars
from rich.text import Text

log = logging.getLogger("taco")

Advance = Callable[[int], None]

#: A shorter step has no rate worth telling.
_RATED_S = 1.0


class Progress(Protocol):
    """Where a run tells what it is doing."""

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of every finished step, in order."""

    def step(self, name: str, total: int | None = None) -> contextlib.AbstractContextManager[Advance]:
        """Run one step; the value of the context is called with how many items more are done."""

    def say(self, text: str) -> None:
        """Tell one line."""


class PlainProgress:
    """One log line a step, at its end, with its seconds; a step that fails is named too, and is not a finished one."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of every finished step, in order."""
        return dict(self._seconds)

    @contextlib.contextmanager
    def step(self, name: str, total: int | None = None) -> Iterator[Advance]:
        """Run one step and log how long it took."""
        begin = time.perf_counter()
        done = 0

        def advance(n: int) -> None:
            nonlocal done
            done += n

        ended = "stopped after "
        try:
            yield advance
            self._finish(name, begin)
            ended = ""
        finally:
            count = f", {done} of {total}" if total else ""
            took = time.perf_counter() - begin
            rate = f", {done / took:.3g}/s" if total and done and took >= _RATED_S else ""
            log.info("%s: %s%.1f s%s%s", name, ended, took, count, rate)

    def say(self, text: str) -> None:
        """Log one line."""
        log.info("%s", text)

    def _finish(self, name: str, begin: float) -> None:
        self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - begin


class SilentProgress(PlainProgress):
    """Says nothing: for work in a thread, whose whole is told elsewhere."""

    @contextlib.contextmanager
    def step(self, name: str, total: int | None = None) -> Iterator[Advance]:
        """Run one step."""
        del total
        begin = time.perf_counter()
        yield lambda _n: None
        self._finish(name, begin)

    def say(self, text: str) -> None:
        """Log one line for those who look closely."""
        log.debug("%s", text)


class RateColumn(ProgressColumn):
    """Items a second, once there is a rate."""

    def render(self, task: Task) -> Text:
        """Return the rate, as in 52/s."""
        return Text(f"{task.speed:.3g}/s" if task.speed else "", style="progress.data.speed")


class TerminalProgress(PlainProgress):
    """Bars with items done and time left; every step stays on the screen as one line, ticked when it finished."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    @contextlib.contextmanager
    def step(self, name: str, total: int | None = None) -> Iterator[Advance]:
        """Run one step under a bar."""
        begin = time.perf_counter()
        columns = [SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), RateColumn()]
        bars = RichBars(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=self._console, transient=True)
        mark = "[red]✗[/red]"
        try:
            with bars:
                task = bars.add_task(escape(name), total=total)
                yield lambda n: bars.update(task, advance=n)
            self._finish(name, begin)
            mark = "[green]✓[/green]"
        finally:
            took = f"[dim]{time.perf_counter() - begin:.1f} s[/dim]"
            self._console.print(f"{mark} {escape(name)} {took}", highlight=False)

    def say(self, text: str) -> None:
        """Print one line above the bars."""
        self._console.print(text, highlight=False, markup=False)
