"""`taco.toml`: the flags of `taco export`, written down.

A key is a flag's name without the dashes in front (`min-confidence` or `min_confidence`). Relative paths start at the
folder of the file, so that a task and its settings can move together.
"""

from __future__ import annotations

import os
import re
import textwrap
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import tomlkit

from taco.errors import InputError
from taco.options import ExportOptions
from taco.wording import nearest

CONFIG_NAME = "taco.toml"
#: The device when none is named.
DEFAULT_TARGET = "host-cpu"
#: Flags that say how to talk, or where the file is: they are for the command line only.
NOT_HELD = frozenset({"config", "dump-config", "quiet", "verbose", "json", "dry-run", "debug"})
_KEY_OF = {"evaluation": "eval", "from_run": "from"}
_LARGEST = 1 << 20
#: What stands in a dumped file for a flag that has no value.
_EXAMPLES: Mapping[str, object] = {
    "task": "photos/",
    "classes": ["fox", "hare"],
    "evaluation": "val/",
    "class_map": "classes.csv",
    "images": "images/",
    "boxes": "megadetector.json",
    "crop": False,
    "weights": "weights.safetensors",
    "input_size": 160,
    "speedup": 1.5,
    "latency_ms": 20.0,
    "max_drop": 1.0,
    "widths": "widths.json",
    "macs": 0.5,
    "max_bytes": 4e6,
    "max_macs": 2e8,
    "max_memory": 8e6,
    "sparsity": 0.9,
    "pattern": "unstructured",
    "include": ["blocks.3.*", "blocks.4.*"],
    "exclude": ["*.conv_dw"],
    "damping": 0.01,
    "agnostic_images": "other-pictures/",
    "unlabelled": "frames/",
    "latency_table": "orin.json",
    "feedback": "runs/orin",
    "gate_drop": 2.0,
    "gate_class_drop": 5.0,
    "bake_preprocessing": True,
    "runtime_device": "GPU",
    "device": ["ssh://pi@trap1"],
    "threads": 4,
    "from_run": "runs/host-cpu",
}


@dataclass(frozen=True, slots=True)
class Config:
    """A file that was read.

    Attributes:
        path: The file.
        values: Field of `ExportOptions` -> value; paths are absolute.
    """

    path: Path
    values: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Flag:
    """What a dumped file says of one flag.

    Attributes:
        field: The field of `ExportOptions`.
        help: What it does.
        group: Heading that it stands under.
    """

    field: str
    help: str
    group: str


def default_out(target: str) -> Path:
    """Return the folder of the result when none is named."""
    return Path("runs") / target


def key_of(field: str) -> str:
    """Return a field's key in the file, which is its flag without the dashes."""
    return _KEY_OF.get(field, field.replace("_", "-"))


def fields() -> tuple[str, ...]:
    """Return every field that a file may set."""
    return tuple(_KINDS)


def split_names(text: str) -> tuple[str, ...]:
    """Return names that are separated by commas, each once."""
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def read_config(path: Path) -> Config:
    """Read a settings file.

    Raises:
        InputError: It cannot be read, is not TOML, or says something that is no flag or not of the flag's type.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(_LARGEST + 1)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", "Check the path after --config") from error
    if len(raw) > _LARGEST:
        raise InputError(f"{path} is too large for a settings file", "Give a taco.toml with --config")
    found = _parse(path, _decode(path, raw))
    field_of = {key_of(field): field for field in _KINDS}
    values: dict[str, object] = {}
    for written, value in found.items():
        key = written.replace("_", "-")
        _check_key(path, key, written, value)
        if field_of[key] in values:
            raise InputError(f"{path}: {key} is said twice, with - and with _", "Remove one of them")
        values[field_of[key]] = _KINDS[field_of[key]].read(value, path, written)
    return Config(path, values)


def _decode(path: Path, raw: bytes) -> str:
    """Decode UTF-8, with or without its mark, and the UTF-16 that Windows' editor calls Unicode."""
    encoding = "utf-16" if raw.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path} line {line} is not UTF-8 text", "Save the file as UTF-8") from error


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except ValueError as error:  # tomllib's own, or a number of thousands of digits
        said = str(error)
        place = re.search(r" \(at line (\d+), column (\d+)\)$", said)
        where = f" line {place[1]}, column {place[2]}" if place else f" line {text.count(chr(10)) + 1}"
        what = re.sub(r" \(at [^()]*\)$", "", said)
        todo = 'Write one setting a line, such as speedup = 1.5, and text in quotes, such as task = "photos/"'
        if "\\" in said:  # a Windows path
            todo = "Write \\ in paths as /, or put the text in single quotes"
        raise InputError(f"{path}{where}: {what}", todo) from error
    except RecursionError as error:
        raise InputError(f"{path} is nested too deeply to be a settings file", "Write one setting a line") from error


def _check_key(path: Path, key: str, written: str, value: object) -> None:
    if isinstance(value, dict) or (isinstance(value, list) and value and isinstance(value[0], dict)):
        raise InputError(
            f"{path} has a table [{written}], and its settings are not read",
            "Write them above every [table], one a line, such as speedup = 1.5",
        )
    if key in NOT_HELD:
        raise InputError(f"{path}: {written} cannot be set in a file", f"Give --{key} on the command line")
    known = {key_of(field) for field in _KINDS}
    if key not in known:
        meant = _KEY_OF.get(key.replace("-", "_"))
        hint = nearest(key, known) if meant is None else f"Did you mean {meant!r}?"
        raise InputError(f"{path}: there is no setting {written!r}", hint)


@dataclass(frozen=True, slots=True)
class _Kind:
    """What a flag's value must be.

    Attributes:
        base: Path, str, bool, int, float, or tuple for names.
        choices: The only values; empty where any will do.
        words: Words that may stand in its place.
    """

    base: type
    choices: tuple[str, ...] = ()
    words: tuple[str, ...] = ()

    @property
    def wording(self) -> str:
        if self.choices:
            return f"one of {', '.join(map(repr, self.choices))}"
        usual = self._usual
        return f"{usual}, or {' or '.join(map(repr, self.words))}" if self.words else usual

    @property
    def _usual(self) -> str:
        return {
            Path: 'a path in quotes, such as "photos/"',
            str: 'text in quotes, such as "host-cpu"',
            bool: "true or false",
            int: "a whole number, such as 16",
            float: "a number, such as 1.5",
            tuple: 'names, such as ["fox", "hare"] or "fox, hare"',
        }[self.base]

    def read(self, value: object, path: Path, key: str) -> object:
        """Return the value as `ExportOptions` takes it."""
        if value in self.words:
            return value
        if self._fits(value):
            if self.base is Path:
                return path.absolute().parent / os.path.expanduser(str(value))  # noqa: PTH111 (Path's fails without a home)
            if self.base is tuple:
                return split_names(value) if isinstance(value, str) else tuple(value)  # type: ignore[arg-type]
            return float(value) if self.base is float else value  # type: ignore[arg-type]
        raise InputError(f"{path}: {key} must be {self.wording}", f"It is {_shown(value)}")

    def _fits(self, value: object) -> bool:
        if self.choices:
            return value in self.choices
        if self.base is tuple:
            return isinstance(value, str) or (isinstance(value, list) and all(isinstance(v, str) for v in value))
        if self.base in (Path, str):
            return isinstance(value, str) and bool(value.strip()) and "\0" not in value
        if isinstance(value, bool) or self.base is bool:
            return isinstance(value, bool) and self.base is bool
        if self.base is int:
            return isinstance(value, int)
        return isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**1000)


def _shown(value: object) -> str:
    return textwrap.shorten(str(value).lower() if isinstance(value, bool) else repr(value), 60)


def _kind(annotation: Any) -> _Kind:
    parts = [part for part in get_args(annotation) if part is not NoneType]
    words = [word for part in parts if get_origin(part) is Literal for word in get_args(part)]
    bare = next((part for part in parts if get_origin(part) is not Literal), parts[0] if parts else annotation)
    if len(parts) > len(words) > 0:  # a value, or a word in its place
        return _Kind(bare, words=tuple(words))
    if get_origin(annotation) is not Literal and NoneType in get_args(annotation):
        annotation = bare
    if get_origin(annotation) is Literal:
        return _Kind(str, get_args(annotation))
    return _Kind(get_origin(annotation) or annotation)


_KINDS: Mapping[str, _Kind] = {field: _kind(info.annotation) for field, info in ExportOptions.model_fields.items()}


def dump_config(values: Mapping[str, object], flags: Iterable[Flag]) -> str:
    """Write a complete settings file: every flag with its help; `#key = value` where it says nothing new.

    Args:
        values: Every field of `ExportOptions` -> effective value; None where there is none.
        flags: All flags; those that a file cannot hold are left out.

    Raises:
        InputError: A path is not valid text.
    """
    lines = [
        "# Settings of taco-export, as they are in force now. A line that begins with #key is switched off: it shows",
        "# the default or an example. Flags on the command line win over this file.",
        f"# Save it as {CONFIG_NAME} inside the folder of your pictures, or beside it. Paths are written in full, so",
        "# that it works in either place; a path that you shorten starts at the folder of this file.",
    ]
    groups: dict[str, list[Flag]] = {}
    for flag in flags:
        if flag.field in _KINDS:
            groups.setdefault(flag.group, []).append(flag)
    for group, members in groups.items():
        lines += ["", f"# ---- {group} ----"]
        for flag in members:
            lines += ["", *(f"# {line}" for line in textwrap.wrap(flag.help, 110)), _setting(flag.field, values)]
    return "\n".join(lines) + "\n"


def _setting(field: str, values: Mapping[str, object]) -> str:
    value = values[field]
    off = value is None or (value == _default(field, values) and values["from_run"] is None)  # a run brings its own
    if isinstance(value, Path) and not off:
        value = value.absolute()  # `..` stays: behind a link it is not the folder above
    shown = _EXAMPLES[field] if value is None else str(value) if isinstance(value, Path) else value
    return f"{'#' if off else ''}{key_of(field)} = {_toml(shown, field)}"


def _default(field: str, values: Mapping[str, object]) -> object:
    if field == "target":
        return DEFAULT_TARGET
    if field == "out":
        return default_out(str(values["target"]))
    return ExportOptions.model_fields[field].default


def _toml(value: object, field: str) -> str:
    plain = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
    text = tomlkit.item(plain).as_string()
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"--{key_of(field)} {text!r} is not UTF-8 and cannot be written", "Rename it") from error
    return text
