"""Widths that a person gives (`--widths`): the JSON of units and channels that a manifest or a front holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from taco.errors import InputError
from taco.units import UnitMap, lies_in
from taco.wording import nearest

_FORM = 'Give JSON such as {"blocks.1.0.conv_pwl": 64}, or a bundle\'s manifest.json'


def read_widths(path: Path, units: UnitMap) -> dict[str, int]:
    """Read what units shall keep; those that are not named stay dense.

    Args:
        path: JSON: unit -> width, or an object whose `allocation` is that. A residual block -> 0 leaves it out.
        units: Of the model.

    Returns:
        Every unit within blocks -> width; blocks that are left out -> 0, as for the units that lie in them.

    Raises:
        InputError: It cannot be read, or names what cannot be.
    """
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"--widths {path} cannot be read: {error}", _FORM) from error
    if isinstance(found, dict) and isinstance(found.get("allocation"), dict):
        found = found["allocation"]
    if not isinstance(found, dict) or not all(type(width) is int for width in found.values()):
        raise InputError(f"--widths {path} holds no widths", _FORM)
    blocks = {unit.name for unit in units.of("block")}
    gone = [name for name, width in found.items() if name in blocks and width == 0]
    inside = {unit.name: 0 for unit in units.unit_by_unit if any(lies_in(unit, block) for block in gone)}
    torn = [name for name in inside if found.get(name)]
    if torn:
        raise InputError(
            f"--widths {path}: {torn[0]} cannot keep {found[torn[0]]}: it lies in a block that is left out",
            "Give it 0 too, or leave its name away",
        )
    kept = {name: width for name, width in found.items() if name not in gone and name not in inside}
    dense = {unit.name: unit.width for unit in units.within_blocks}
    checked = {name: width for name, width in _checked(kept, path, units).items() if name not in blocks}
    return {**dense, **checked, **inside, **dict.fromkeys(gone, 0)}


def _checked(found: Mapping[str, int], path: Path, units: UnitMap) -> Mapping[str, int]:
    known = {unit.name: unit for unit in (*units.unit_by_unit, *units.of("block"))}
    for name, width in found.items():
        if name not in known:
            raise InputError(
                f"--widths {path}: the model has no unit {name!r} that can be cut",
                f"{nearest(name, known)} `taco inspect` lists them" if known else "Choose another --model",
            )
        unit = known[name]
        if not unit.multiple <= width <= unit.width or width % unit.multiple:
            raise InputError(
                f"--widths {path}: {name} cannot keep {width} of {unit.width}",
                f"Keep {unit.multiple} or more, a multiple of {unit.multiple}",
            )
    return found
