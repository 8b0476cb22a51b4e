"""Write the JSON Schemas of the files that others read: `python -m taco.schemas docs/schemas`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel

from taco.bundle import Manifest
from taco.database.index import Index
from taco.files import write_atomically
from taco.front.schema import Front
from taco.latency.table import LatencyTable
from taco.report.schema import Report

MODELS: dict[str, type[BaseModel]] = {
    "manifest.schema.json": Manifest,
    "report.schema.json": Report,
    "database.schema.json": Index,
    "latency-table.schema.json": LatencyTable,
    "front.schema.json": Front,
}


def render(name: str) -> str:
    """Return one schema as text; `name` is a key of `MODELS`."""
    schema = MODELS[name].model_json_schema(mode="serialization")
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Write every schema into a folder."""
    parser = argparse.ArgumentParser(prog="python -m taco.schemas", description=__doc__)
    parser.add_argument("folder", type=Path, help="where to write")
    folder: Path = parser.parse_args(arguments).folder
    folder.mkdir(parents=True, exist_ok=True)
    for name in MODELS:
        write_atomically(folder / name, render(name).encode())


if __name__ == "__main__":
    main()
