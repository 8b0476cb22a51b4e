"""Numbers by name that survive a kill: a file with one line for each, appended as soon as it is known."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, MutableMapping
from pathlib import Path


class Remembered(MutableMapping[str, float]):
    """A mapping that lies in a file; a last line that a kill cut in half is not counted.

    Args:
        path: Made with its folder when the first number is put in; one that is there is read.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._values = path, dict(_read(path))

    def __getitem__(self, name: str) -> float:
        return self._values[name]

    def __setitem__(self, name: str, value: float) -> None:
        self._values[name] = value
        shown = value if math.isfinite(value) else None  # JSON has no infinity
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write("\n" + json.dumps([name, shown]))  # behind what a kill may have cut in half

    def __delitem__(self, name: str) -> None:
        raise TypeError("what is remembered stays")

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def _read(path: Path) -> Iterator[tuple[str, float]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        try:
            name, value = json.loads(line)
        except ValueError:  # cut in half
            continue
        yield name, math.inf if value is None else float(value)
