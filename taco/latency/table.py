"""`LatencyTable`: what every unit of a model costs at every width, on one device, in milliseconds.

A table belongs to one device, runtime, precision, number of threads and model, and to the software that wrote what was
timed: all of that is its key, and a table under another key is another table. A cell says where its figure comes from;
only `measured` ones were timed.
"""

from __future__ import annotations

import bisect
import hashlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from taco.device.trt_preflight import NOT_HARDWARE
from taco.errors import InputError
from taco.files import write_atomically

SCHEMA_VERSION = 1
Source = Literal["measured", "interpolated", "estimated"]

log = logging.getLogger(__name__)

_KEY_LENGTH = 16
#: Why a unit is missing that another run of the profile would time.
TIME_LIMIT = "the time limit came first"


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


class Cell(_Frozen):
    """One unit at one width: the block that holds it, everything else in the block dense."""

    width: int = Field(ge=0)
    min_ms: float = Field(ge=0, description="fastest single run")
    p50_ms: float = Field(ge=0, description="p50 of the dense model times the median of the rounds' ratios")
    n: int = Field(ge=0, description="timed runs; 0 where nothing was timed")
    spread: float = Field(ge=0, description="width of the 95 % interval of p50_ms, as a share of it")
    source: Source


class UnitCells(_Frozen):
    """What one unit costs, the widest first; the first is the dense width."""

    kind: str
    holder: str = Field(description="what was timed: a block, or a stretch of a chain of layers")
    signature: str = Field(description="units of one signature share their cells")
    cells: tuple[Cell, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _ordered(self) -> UnitCells:
        widths = [cell.width for cell in self.cells]
        if widths != sorted(set(widths), reverse=True):
            raise ValueError(f"widths must fall: {widths}")
        return self

    def at(self, width: int) -> Cell:
        """Return the cell of a width, between two others by a straight line.

        Raises:
            InputError: The width is beyond what was timed.
        """
        widths = [-cell.width for cell in self.cells]
        place = bisect.bisect_left(widths, -width)
        if place < len(widths) and widths[place] == -width:
            return self.cells[place]
        if place in (0, len(widths)):
            raise InputError(
                f"{self.holder}: width {width} is outside of what was timed",
                f"Timed are {self.cells[-1].width} to {self.cells[0].width}",
            )
        wide, narrow = self.cells[place - 1], self.cells[place]
        part = (width - narrow.width) / (wide.width - narrow.width)
        return Cell(
            width=width,
            min_ms=narrow.min_ms + part * (wide.min_ms - narrow.min_ms),
            p50_ms=narrow.p50_ms + part * (wide.p50_ms - narrow.p50_ms),
            n=0,
            spread=max(wide.spread, narrow.spread),
            source="estimated" if "estimated" in (wide.source, narrow.source) else "interpolated",
        )


class ZerosGain(_Frozen):
    """What zeros in the weights of the dense model gain on this device; they are measured, never assumed to help."""

    pattern: str = Field(description="2:4, or the share of all weights")
    percent: float = Field(description="time saved, of the dense model's; the median over interleaved rounds")
    low: float = Field(description="lower end of its interval")
    high: float


class WholeModel(_Frozen):
    """A whole model with every timed unit cut: what the sums of cells are compared with before anything is chosen."""

    widths: dict[str, int] = Field(description="unit -> channels kept; block that is left out, with its units -> 0")
    p50_ms: float = Field(gt=0, description="p50 of the dense model times the median of the rounds' ratios")
    n: int = Field(ge=1, description="timed runs")
    spread: float = Field(ge=0, description="width of the 95 % interval of p50_ms, as a share of it")

    @property
    def left_out(self) -> tuple[str, ...]:
        """The blocks that it lacks."""
        return tuple(name for name, width in self.widths.items() if not width)


class TableKey(_Frozen):
    """What a table belongs to; a difference in anything here makes it another table."""

    device: dict[str, str] = Field(description="the device in words: machine, board, processor, cores, instructions")
    runtime: str
    runtime_version: str
    provider: str
    precision: str
    threads: int
    model: str
    architecture: str = Field(description="hash of the units, what holds them, and the widths that are asked for")
    software: str = Field(default="", description="hash of what wrote the timed models; earlier versions noted none")

    @property
    def fingerprint(self) -> str:
        """Short hash of the device."""
        return _digest(repr(sorted(self.device.items())))

    @property
    def digest(self) -> str:
        """Short hash of everything."""
        return _digest(self.model_dump_json())


class LatencyTable(_Frozen):
    """What a profile found."""

    schema_version: Literal[1] = 1
    key: TableKey
    created: str = Field(description="ISO 8601, UTC")
    seconds: float = Field(ge=0, description="what profiling took, exports included")
    stopped_early: bool = Field(description="the time limit ended it before every interval was small")
    dense_ms: float = Field(gt=0, description="p50 of the whole dense model over all of its rounds")
    dense_n: int = Field(ge=1)
    units: dict[str, UnitCells]
    skipped: dict[str, str] = Field(description="units that were not timed, and why")
    zeros: tuple[ZerosGain, ...] = Field(default=(), description="empty where the time limit came first")
    wholes: tuple[WholeModel, ...] = Field(default=(), description="likewise; earlier versions timed none")

    @property
    def unfinished(self) -> bool:
        """Whether a time limit left units out."""
        return TIME_LIMIT in self.skipped.values()

    @property
    def timed(self) -> int:
        """How many different cells were timed."""
        found = {u.signature: sum(c.source == "measured" for c in u.cells) for u in self.units.values()}
        return sum(found.values())

    @property
    def stand_in(self) -> bool:
        """Whether no NVIDIA machine but a stand-in for it gave the times."""
        return self.key.device.get("hardware") == NOT_HARDWARE

    def seen_from(self, key: TableKey) -> LatencyTable:
        """Return the table as it counts under another key: unchanged under its own, else as an estimate throughout."""
        if key.fingerprint == self.key.fingerprint and key.runtime_version == self.key.runtime_version:
            return self
        units = {
            name: unit.model_copy(
                update={"cells": tuple(c.model_copy(update={"source": "estimated"}) for c in unit.cells)}
            )
            for name, unit in self.units.items()
        }
        return self.model_copy(update={"units": units})


def cache_folder() -> Path:
    """Return where tables are kept between runs: $TACO_CACHE, or taco-export in the user's cache folder."""
    if told := os.environ.get("TACO_CACHE"):
        return Path(told) / "latency"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "taco-export" / "latency"


def cached_path(folder: Path, key: TableKey) -> Path:
    """Return where the table of a key lies or will lie."""
    return folder / f"{key.model}-{key.runtime}-{key.precision}-{key.digest}.json"


def load_cached(folder: Path, key: TableKey) -> LatencyTable | None:
    """Return the table of exactly this key; None where there is none, or the file is damaged."""
    path = cached_path(folder, key)
    if not path.is_file():
        return None
    try:
        table = read_table(path)
    except InputError as error:
        log.warning("%s; it is measured again", error.what)
        return None
    return table if table.key == key else None


def save_cached(folder: Path, table: LatencyTable) -> Path:
    """Keep a table.

    Raises:
        TacoError: It cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = cached_path(folder, table.key)
    write_atomically(path, dump_table(table))
    return path


def dump_table(table: LatencyTable) -> bytes:
    """Return a table as JSON."""
    return (table.model_dump_json(indent=1) + "\n").encode()


def read_table(path: Path) -> LatencyTable:
    """Read a table.

    Raises:
        InputError: There is no such file, it is damaged, or it is from a newer version.
    """
    try:
        return LatencyTable.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"the latency table {path} cannot be read: {error.strerror}", "Check the path") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise InputError(
            f"the latency table {path} is damaged or from another version: {place}: {first['msg']}",
            "Make it again with `taco profile`",
        ) from error


def device_words(probe: Mapping[str, Any]) -> dict[str, str]:
    """Return what of a machine decides how fast it is, out of what its probe says."""
    fixed = {name: str(probe.get(name)) for name in ("machine", "board", "processor", "cores_physical")}
    engines = {name: str(probe[name]) for name in ("hardware", "power_mode") if name in probe}
    return {**fixed, "instructions": " ".join(map(str, probe.get("isa") or ())), **engines}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_KEY_LENGTH]
