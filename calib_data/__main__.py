"""`python -m calib_data list | show NAME | csv NAME --out FILE [--folder DIR]`, from a checkout."""

from __future__ import annotations

import argparse
import csv
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from calib_data.known_set import ImageFolder, KnownSet, KnownSetError, PackageTable, names, read
from calib_data.rows import Row, labelled_rows
from taco.errors import EXIT_OK


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code: 0 done, 2 wrong usage or a set that is not at hand."""
    arguments = _parser().parse_args(argv)
    try:
        if arguments.command == "list":
            for name in names():
                print(f"{name:22} {read(name).title}")
        elif arguments.command == "show":
            print(_described(read(arguments.name)))
        else:
            print(_write(read(arguments.name), arguments.out, arguments.folder))
    except KnownSetError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return EXIT_OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m calib_data", description="Known picture sets.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="name the sets")
    show = commands.add_parser("show", help="describe one set: classes, licence, where to get it")
    show.add_argument("name", help="a set's name")
    write = commands.add_parser("csv", help="write a set that is at hand as a task for taco-export")
    write.add_argument("name", help="a set's name")
    write.add_argument("--out", type=Path, required=True, help="the CSV file to write (path,label)")
    write.add_argument("--folder", type=Path, help="where you keep the set, if it is not a Python package")
    return parser


def _described(known: KnownSet) -> str:
    lines = [known.title, "", known.summary, ""]
    if known.page:
        lines.append(f"Described at: {known.page}")
    if known.pictures is not None:
        lines.append(f"Pictures:     {known.pictures:,}")
    lines += [f"Licence:      {known.licence.name} {known.licence.url}".rstrip(), known.licence.sentence]
    lines += ["", f"How to get it: {known.get}", f"Then:          {_command(known)}"]
    if known.classes:
        lines += ["", "Classes:"]
        lines += [f"  {entry.name:22} {entry.meaning or entry.folder}".rstrip() for entry in known.classes]
    if known.cite:
        lines += ["", f"Cite: {known.cite}"]
    return "\n".join(lines)


def _command(known: KnownSet) -> str:
    folder = "" if isinstance(known.load, PackageTable) else " --folder DIR"
    return f"python -m calib_data csv {known.name} --out {known.name}.csv{folder}"


def _write(known: KnownSet, out: Path, folder: Path | None) -> str:
    if isinstance(known.load, PackageTable) and folder is not None:
        raise KnownSetError(f"{known.name} comes as a Python package, not as a folder", "Leave --folder out")
    rows = labelled_rows(known, folder)
    try:
        _write_csv(rows, out)
    except OSError as error:
        raise KnownSetError(f"cannot write {out}: {error.strerror}", "Choose another --out") from error
    counts = Counter(label for _, label in rows)
    lines = [f"{out}: {len(rows):,} pictures, {len(counts)} classes"]
    lines += [f"  {name:22} {count:6,}" for name, count in sorted(counts.items())]
    if isinstance(known.load, ImageFolder) and not known.classes:
        lines.append("Classes are the names of your folders.")
    return "\n".join([*lines, known.licence.sentence])


def _write_csv(rows: Sequence[Row], out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=out.parent, prefix=f".{out.name}.")
    unfinished = Path(name)
    try:
        with os.fdopen(handle, "w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(("path", "label"))
            writer.writerows((str(path), label) for path, label in rows)
        unfinished.chmod(0o644)
        unfinished.replace(out)
    finally:
        unfinished.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
