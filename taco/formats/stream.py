"""JSON read as a stream: the entries of the sections that are asked for, with the fields that are asked for.

What is not asked for is stepped over without being kept, so a file of many megabytes takes little memory.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import ijson

from taco.errors import TaskError
from taco.formats.text import check_file, encoding_of

MAX_DEPTH = 16
_STARTS = frozenset({"start_map", "start_array"})
_ENDS = frozenset({"end_map", "end_array"})
_Events = Iterator[tuple[str, object]]


class Entry(NamedTuple):
    """One object of a section.

    Attributes:
        section: The key at the top of the file.
        number: Its place in the section, from 1.
        fields: Those asked for that it has.
    """

    section: str
    number: int
    fields: Mapping[str, object]


def entries(file: Path, wanted: Mapping[str, frozenset[str] | None]) -> Iterator[Entry]:
    """Yield the entries of sections (arrays of objects at the top of the file), in the file's order.

    Args:
        file: JSON with an object at the top.
        wanted: Section -> fields to keep. None: the section is one object, which is kept whole, and may be absent.

    Raises:
        TaskError: The file is not JSON, or a section is absent, of another type, there twice, or nested too deeply.
        OSError: It cannot be read.
    """
    seen: set[str] = set()
    with _events(file) as events:
        for key in _keys(file, events):
            if key not in wanted:
                _skip(next(events)[0], events)
                continue
            if key in seen:
                raise TaskError(f"{file} holds {key!r} twice", "Keep one of them")
            seen.add(key)
            fields = wanted[key]
            if fields is None:
                yield Entry(key, 1, _whole(file, key, events))
            else:
                yield from _array(file, key, fields, events)
    if missing := [name for name, fields in wanted.items() if fields is not None and name not in seen]:
        raise TaskError(f"{file} holds no {' and no '.join(missing)}", f"Its top should hold {', '.join(wanted)}")


def top_keys(file: Path) -> Iterator[str]:
    """Yield the keys at the top of a JSON file, one after the other: what is behind the last one asked for is not read.

    Raises:
        TaskError: The file is not JSON, or not an object.
        OSError: It cannot be read.
    """
    with _events(file) as events:
        for key in _keys(file, events):
            yield key
            _skip(next(events)[0], events)


@contextmanager
def _events(file: Path) -> Iterator[_Events]:
    check_file(file)
    encoding = encoding_of(file)
    try:
        with file.open("rb") as stream:
            source = stream if encoding == "utf-8" else _Recoded(stream, encoding)
            yield iter(ijson.basic_parse(source, use_float=True))
    except (ijson.JSONError, UnicodeError) as error:
        raise _not_json(file, str(error)) from error


class _Recoded:
    """A text file's bytes as UTF-8, which is all that the parser reads."""

    def __init__(self, stream: BinaryIO, encoding: str) -> None:
        self._stream = stream
        self._decode: Callable[..., str] = codecs.getincrementaldecoder(encoding)().decode

    def read(self, size: int) -> bytes:
        """Return about `size` bytes; none at the end only."""
        while chunk := self._stream.read(size):
            if text := self._decode(chunk).encode():  # nothing comes of a lone byte order mark
                return text
        return b""


def _not_json(file: Path, reason: str) -> TaskError:
    if "trailing garbage" in reason:
        todo = "JSON Lines cannot be read: join the lines into one file of JSON"
        return TaskError(f"{file} holds more than one JSON value", todo)
    if "premature EOF" in reason or "ncomplete" in reason:
        return TaskError(f"{file} is cut short: the JSON does not end", "Write or download it again")
    first, *more = [line.strip() for line in reason.splitlines() if line.strip()] or ["unknown error"]
    near = "".join(c for c in more[0].split("(right here)")[0] if c.isprintable()).strip() if more else ""
    if any(word in near for word in ("NaN", "Infinity")):
        return TaskError(
            f"{file} is not valid JSON: NaN or Infinity near {near!r}", "Write null where a figure is missing"
        )
    where = f" near {near!r}" if near else ""
    return TaskError(f"{file} is not valid JSON: {first.rstrip('.')}{where}", "Write it again")


def _keys(file: Path, events: _Events) -> Iterator[str]:
    event, _ = next(events)
    if event != "start_map":
        kind = "a list" if event == "start_array" else "a single value"
        raise TaskError(f"{file} holds {kind} at the top, not an object", "See the README for the forms that are read")
    for event, key in events:
        if event == "map_key":
            yield str(key)
    # the loop ends with the file, so that whatever follows the object is noticed


def _array(file: Path, section: str, fields: frozenset[str], events: _Events) -> Iterator[Entry]:
    if next(events)[0] != "start_array":
        raise TaskError(f"{file}: {section!r} is not a list", "Write it as a list of objects")
    for number, (event, _) in enumerate(events, 1):  # an entry's own events are read further down
        if event == "end_array":
            return
        if event != "start_map":
            raise TaskError(f"{file}: entry {number} of {section!r} is not an object", "Write it as an object")
        yield Entry(section, number, _object(file, section, fields, events))


def _object(file: Path, section: str, fields: frozenset[str], events: _Events) -> dict[str, object]:
    found: dict[str, object] = {}
    for event, key in events:
        if event == "end_map":
            break
        event, value = next(events)  # a key is followed by its value
        if key not in fields:
            if event in _STARTS:
                _skip(event, events)
        else:
            found[str(key)] = _build(file, section, (event, value), events) if event in _STARTS else value
    return found


def _whole(file: Path, section: str, events: _Events) -> dict[str, object]:
    event, value = next(events)
    built = _build(file, section, (event, value), events) if event in _STARTS else value
    if not isinstance(built, dict):
        raise TaskError(f"{file}: {section!r} is not an object", "Write it as an object")
    return built


def _skip(event: str, events: _Events) -> None:
    if event not in _STARTS:
        return
    depth = 1
    for event, _ in events:
        if event in _STARTS:
            depth += 1
        elif event in _ENDS:
            depth -= 1
            if not depth:
                return


def _build(file: Path, section: str, first: tuple[str, object], events: _Events) -> object:
    """Build one list or object whose first event was read."""
    top: list[object] = []
    stack: list[tuple[list[object] | dict[str, object], str]] = [(top, "")]
    event, value = first
    while True:
        parent, key = stack[-1]
        if event == "map_key":
            stack[-1] = (parent, str(value))
        elif event in _ENDS:
            stack.pop()
        else:
            if event in _STARTS:
                value = {} if event == "start_map" else []
            if isinstance(parent, dict):
                parent[key] = value
            else:
                parent.append(value)
            if isinstance(value, (dict, list)) and event in _STARTS:
                stack.append((value, ""))
                if len(stack) > MAX_DEPTH:
                    raise TaskError(f"{file}: an entry of {section!r} is nested too deeply", "Write it as documented")
        if len(stack) == 1:
            return top[0]
        event, value = next(events)
