"""`make evidence`: every table of docs/evidence.md and docs/benchmarks.md again, from the cells that are there.

Only the parts between marks are written; prose stays. A table without cells says `not measured yet`, with the command
that makes them. `--run NAME ...` first works off a benchmark's missing cells, which takes hours and can be stopped.
"""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from benchmarks import (
    _claims,
    _fronts,
    _recovery_table,
    allocation,
    clocks,
    front,
    int8,
    loop,
    minutes,
    specialisation,
    widths,
)
from benchmarks._page import save

ROOT = Path(__file__).parents[1]
EVIDENCE, BENCHMARKS = Path("docs/evidence.md"), Path("docs/benchmarks.md")
CELLS = Path("docs/evidence")


@dataclass(frozen=True, slots=True)
class Table:
    """One part of a page.

    Attributes:
        name: Of its marks, and of the benchmark.
        title: Its heading.
        page: Where it stands.
        cells: Their folder.
        pattern: Of their names.
        command: What makes them.
        render: The folder -> Markdown; asked only where there are cells.
    """

    name: str
    title: str
    page: Path
    cells: Path
    pattern: str
    command: str
    render: Callable[[Path], str]

    @property
    def module(self) -> str:
        """What the command runs."""
        return self.command.split()[2]

    def text(self, root: Path) -> str:
        """Return the part, without marks."""
        there, heading = sorted((root / self.cells).glob(self.pattern)), f"## {self.title}\n\n"
        if not there:
            return f"{heading}Not measured yet: `{self.command}` makes the cells, in `{self.cells}/`."
        unnamed = "a machine that the cells do not name"
        machines = {json.loads(path.read_bytes()).get("machine", unnamed) for path in there}
        told = f"{len(there)} cell{'' if len(there) == 1 else 's'} in `{self.cells}/`, by `{self.command}`, on"
        return f"{heading}{self.render(root / self.cells).strip()}\n\n{told} {'; '.join(sorted(machines))}."


def _read(folder: Path, pattern: str = "*-seed*.json") -> list[dict[str, Any]]:
    return [json.loads(path.read_bytes()) for path in sorted(folder.glob(pattern))]


def _loop(folder: Path) -> str:
    every = [(m, t, s) for m in loop.MODELS for t in loop.TARGETS for s in loop.SPEEDUPS]
    return loop.table(list(loop.read(folder, every)))


def _int8(folder: Path) -> str:
    return int8.table(folder, [*int8.MODELS, int8.HARD], [0, 1])


def _recovered_longer(folder: Path) -> str:
    return _recovery_table.table(_read(folder))


def _recovery(folder: Path) -> str:
    cells = _read(folder)
    _recovery_table.draw(cells, folder.parents[1] / "images" / "recovery.svg")
    return f"{_recovery_table.table(cells)}\n![Accuracy against pictures a class](images/recovery.svg)"


TABLES = (
    Table(
        "specialisation", "Whose pictures calibrate", EVIDENCE, CELLS / "specialisation", "seed*.json",
        "python -m benchmarks.specialisation", specialisation.table,
    ),
    Table(
        "widths", "Smaller widths, one shot", EVIDENCE, CELLS / "widths", "*-seed*.json",
        "python -m benchmarks.widths", widths.table,
    ),
    Table(
        "recovery", "Recovery with few pictures", EVIDENCE, CELLS / "recovery", "*-seed*.json",
        "python -m benchmarks.recovery --steps 70", _recovery,
    ),
    Table(
        "recovery-long", "The same for as many steps as five minutes have", EVIDENCE, CELLS / "recovery-long",
        "*-seed*.json",
        "python -m benchmarks.recovery --k 16 --steps 240 --results docs/evidence/recovery-long", _recovered_longer,
    ),
    Table(
        "allocation", "Unit by unit against one ratio and against MACs, at equal measured time, without recovery",
        EVIDENCE, CELLS / "allocation", "*-seed*.json", "python -m benchmarks.allocation", allocation.table,
    ),
    Table(
        "clocks", "Whose clock decides", EVIDENCE, CELLS / "clocks", "*-seed*.json", "python -m benchmarks.clocks",
        clocks.table,
    ),
    Table(
        "front", "As fast as possible within a point", EVIDENCE, CELLS / "front", "*-seed?.json",
        "python -m benchmarks.front", front.table,
    ),
    Table(
        "minutes", "How long it takes", EVIDENCE, CELLS / "minutes", "*-seed*.json", "python -m benchmarks.minutes",
        minutes.table,
    ),
    Table(
        "fronts", "Whole fronts: everything that a person would do instead", EVIDENCE, CELLS / "front",
        _fronts.PATTERN, "python -m benchmarks.front --fronts", _fronts.render,
    ),
    Table(
        "loop", "The latency loop", BENCHMARKS, CELLS / "loop", "*.json",
        "python -m benchmarks.loop docs/evidence/loop --threads 1", _loop,
    ),
    Table(
        "int8", "INT8 beside the runtimes' own", BENCHMARKS, CELLS / "int8", "*-*.json",
        "python -m benchmarks.int8 docs/evidence/int8", _int8,
    ),
)  # fmt: skip
#: Benchmarks that print a table within minutes and keep no cells; their parts are written by hand or by --save.
WITHOUT_CELLS = (
    "calibration", "candidates", "channel_order", "database", "listing", "micro_exports", "peak", "predict_speed",
    "recovery_speed", "solvers", "starts", "structured", "two_runtimes",
)  # fmt: skip


def claims(root: Path) -> str:
    """Return the five claims as Markdown."""
    pruned = _read(root / CELLS / "specialisation", "seed*.json")
    found = (
        _claims.specialisation(pruned),
        _claims.fewer_weights("b", pruned, 0.9, _claims.SMALL),
        _claims.fewer_weights("c", pruned, 0.95, _claims.MODERATE),
        _claims.no_overfitting(_read(root / CELLS / "recovery")),
        _claims.faster(front.read(root / CELLS / "front"), front.AIMS),
    )
    told = "\n\n".join(claim.markdown() for claim in found)
    return f"## Five claims\n\nWritten by `make evidence` from the cells; what has none says so.\n\n{told}"


def write(root: Path) -> None:
    """Write every table and the claims into their pages."""
    save(root / EVIDENCE, "claims", claims(root))
    for table in TABLES:
        save(root / table.page, table.name, table.text(root))


def run(name: str) -> None:
    """Work off what a benchmark lacks."""
    table = next(table for table in TABLES if table.name == name)
    module = cast(Mapping[str, Any], vars(importlib.import_module(table.module)))
    module["main"](table.command.split()[3:])


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the pages; with --run make cells first."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence", description=__doc__)
    names = [table.name for table in TABLES]
    parser.add_argument("--run", nargs="+", choices=names, default=[], help="work off their missing cells first: hours")
    for name in parser.parse_args(arguments).run:
        run(name)
    write(ROOT)
    print(f"{EVIDENCE} and {BENCHMARKS} are written from the cells that are there")


if __name__ == "__main__":
    main()
