"""Text files as people have them: how many bytes are allowed, which encoding it is, and a CSV's rows."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple, TextIO

from taco.errors import TaskError

MAX_BYTES = 1 << 30
_CHUNK = 1 << 20
_BOMS = (  # UTF-32 first: its little-endian mark begins like that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


#: How files begin that hold text only once they are unpacked.
_PACKED = (b"PK\x03\x04", b"\x1f\x8b", b"BZh", b"7z\xbc\xaf\x27\x1c", b"\xfd7zXZ", b"Rar!")


class CsvRow(NamedTuple):
    """One line of a CSV file.

    Attributes:
        line: Its number, from 1, for messages.
        cells: Column name in lower case -> text without spaces around it.
    """

    line: int
    cells: Mapping[str, str]


def check_file(file: Path) -> None:
    """Refuse what cannot be read as text before a byte of it is read.

    Raises:
        TaskError: It is absent, a folder, a pipe, empty, or larger than `MAX_BYTES`.
        OSError: There is no permission to look.
    """
    if not file.exists():
        raise TaskError(f"{file} does not exist", "Check the path")
    if not file.is_file():
        raise TaskError(f"{file} is {'a folder' if file.is_dir() else 'not a regular file'}", "Give a file")
    size = file.stat().st_size
    if size == 0:
        raise TaskError(f"{file} is empty", "Write it again")
    if size > MAX_BYTES:
        what = f"{file} has {size / 2**30:.1f} GiB, more than the {MAX_BYTES >> 30} GiB that are read"
        raise TaskError(what, "Divide it, for example one file a location, or keep the classes that you need")


def encoding_of(file: Path) -> str:
    """Return the encoding of a text file: by its byte order mark, UTF-8 where all of it is, else that of Windows.

    UTF-16 without a mark is told by its first two characters, where they are of ASCII. Latin-1, which gives every byte
    a character, is left for what holds one of the five bytes that Windows does not use.

    Raises:
        TaskError: It begins as UTF-16 or UTF-32 and the rest is not, or it is packed.
        OSError: It cannot be read.
    """
    with file.open("rb") as stream:
        head = stream.read(4)
        if head.startswith(_PACKED):
            todo = "Unpack it, or save the sheet as CSV"
            raise TaskError(f"{file} is a packed file or a spreadsheet, not a text", todo)
        encoding = next((name for mark, name in _BOMS if head.startswith(mark)), _unmarked(head))
        reason = _undecodable(stream, encoding)
        if reason is None:
            return encoding
        if encoding not in ("utf-8", "utf-8-sig"):
            raise TaskError(f"{file} is damaged: {reason} ({encoding})", "Save it as UTF-8")
        return "cp1252" if _undecodable(stream, "cp1252") is None else "latin-1"


def _undecodable(stream: BinaryIO, encoding: str) -> str | None:
    """Return why a file is no text in an encoding; None where it is."""
    stream.seek(0)
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        while chunk := stream.read(_CHUNK):
            decoder.decode(chunk)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        return error.reason
    return None


def _unmarked(head: bytes) -> str:
    if len(head) == 4 and min(head[0], head[2]) > 0 == head[1] == head[3]:
        return "utf-16-le"
    if len(head) == 4 and min(head[1], head[3]) > 0 == head[0] == head[2]:
        return "utf-16-be"
    return "utf-8"


def first_character(file: Path) -> str:
    """Return the first character that is no white space; nothing where the file's first kilobytes hold none."""
    with file.open(encoding=encoding_of(file)) as stream:
        return stream.read(1 << 12).lstrip()[:1]


def csv_rows(file: Path) -> Iterator[CsvRow]:
    """Yield the rows of a CSV file below its header; empty lines are left out.

    The first item is the header itself: every column name with an empty cell, so that callers can check the columns.

    Raises:
        TaskError: It cannot be read as text, or not as CSV, or a column comes twice.
        OSError: It cannot be read.
    """
    check_file(file)
    with file.open(encoding=encoding_of(file), newline="") as stream:
        try:
            reader = csv.reader(stream, delimiter=_delimiter(stream), skipinitialspace=True)
            names = [name.strip().lower() for name in next(reader, [])]
            if twice := next((name for name in names if name and names.count(name) > 1), None):
                raise TaskError(f"the first line of {file} names the column {twice} twice", "Keep or rename one")
            yield CsvRow(1, dict.fromkeys(names, ""))
            for row in reader:
                if row:
                    cells = dict.fromkeys(names, "")
                    cells.update(zip(names, (cell.strip() for cell in row), strict=False))
                    yield CsvRow(reader.line_num, cells)
        except csv.Error as error:
            raise TaskError(f"{file} is not a CSV file: {error}", "Save it as CSV with commas, in UTF-8") from error


def _delimiter(stream: TextIO) -> str:
    """Spreadsheets of many languages write semicolons or tabs; a header tells, since no column's name has any."""
    header = stream.readline(_CHUNK)
    stream.seek(0)
    return next((mark for mark in ",;\t" if mark in header), ",")
