"""What a cell was made on, in words that its table repeats."""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from taco.device.probe import probe

#: Kinds of x86 processors, by whether they have instructions for products of bytes: INT8 gains less without.
PROCESSORS = ("VNNI", "no VNNI")


def machine(beside: str = "") -> dict[str, str]:
    """Return processor, cores, what else computed, load and versions, for a cell's JSON."""
    found = probe()
    named = ", ".join(f"{name} {version(name)}" for name in ("torch", "onnxruntime", "timm"))
    cores = f"{found.get('cores_physical')} cores"
    isa = " ".join(found.get("isa") or ())
    computing = ", ".join(part for part in (found.get("processor"), cores, isa, beside) if part)
    return {"machine": f"{computing}; {named}", "load": f"{os.getloadavg()[0]:.1f}"}


def processor(cell: Mapping[str, Any]) -> str:
    """Return which of `PROCESSORS` a cell was made on; figures of one kind are not averaged with the other's."""
    with_vnni, without = PROCESSORS
    return with_vnni if "vnni" in cell.get("machine", "") else without


def in_names(kind: str) -> str:
    """Return one of `PROCESSORS` as a part of a file's name."""
    return kind.lower().replace(" ", "-")


def today() -> str:
    """Return the day a cell is made, ISO 8601, UTC."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()
