"""A model as a person sees it: its units in a table, and drawn as blocks with widths; what a plan would take."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Sequence
from typing import Any

from torch import nn

from taco.allocate import uniform
from taco.compress import droppable, first_leave, stitch
from taco.errors import InputError
from taco.surgery.size import measure_size, peak_activation_bytes
from taco.units import Unit, UnitMap, find_units, lies_in, steps_of

_BAR = 48


@dataclasses.dataclass(frozen=True, slots=True)
class Sizes:
    """What a model takes: parameters, multiply-accumulates and activations of one picture."""

    params: int
    macs: int
    peak_activation_bytes: int

    @staticmethod
    def of(module: nn.Module, input_size: tuple[int, int, int]) -> Sizes:
        """Count a module."""
        size = measure_size(module, input_size)
        return Sizes(size.params, size.macs, peak_activation_bytes(module, input_size))


@dataclasses.dataclass(frozen=True, slots=True)
class Anatomy:
    """A model taken apart.

    Attributes:
        model: Its name.
        input_size: (channels, height, width).
        found: Its units, and what stays dense.
        sizes: Of the dense model.
        planned: Unit -> width under the plan, of blocks only those left out, with 0; empty where there is none.
        planned_sizes: Of the planned model.
    """

    model: str
    input_size: tuple[int, int, int]
    found: UnitMap
    sizes: Sizes
    planned: dict[str, int] = dataclasses.field(default_factory=dict)
    planned_sizes: Sizes | None = None

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        units = [
            {
                **{k: getattr(u, k) for k in ("name", "kind", "width", "multiple", "parameters", "macs")},
                "spatial": list(u.spatial),
                "producers": [m.module for m in u.producers],
                "consumers": [m.module for m in u.consumers],
                "planned": self.planned.get(u.name, u.width),
            }
            for u in self.found.units
        ]
        return {
            "model": self.model,
            "input_size": list(self.input_size),
            "sizes": dataclasses.asdict(self.sizes),
            "planned_sizes": dataclasses.asdict(self.planned_sizes) if self.planned_sizes else None,
            "units": units,
            "dense": [dataclasses.asdict(block) for block in self.found.dense],
        }


@dataclasses.dataclass(frozen=True, slots=True)
class PlanOptions:
    """What a plan takes.

    Attributes:
        ratio: Keep this part of every width that a run cuts.
        channel_multiple: Kept channels are multiples of this.
        drop: Globs of residual blocks that are left out.
    """

    ratio: float = 1.0
    channel_multiple: int = 8
    drop: tuple[str, ...] = ()


def take_apart(
    model: nn.Module, name: str, input_size: tuple[int, int, int], plan: PlanOptions | None = None
) -> Anatomy:
    """Find a model's units and count it.

    Args:
        model: In eval mode; not modified. Its weights do not matter.
        name: For the title.
        input_size: (channels, height, width).
        plan: What to plan; None plans nothing.

    Raises:
        InputError: A glob of the plan fits no block.
    """
    found = find_units(model, input_size)
    dense = Sizes.of(model, input_size)
    if plan is None:
        return Anatomy(name, input_size, found, dense)
    units, blocks = found.within_blocks, _left_out(found, plan.drop)
    steps = steps_of(units, plan.channel_multiple)
    widths = dict(uniform({u.name: u.width for u in units}, plan.ratio, steps).widths)
    widths |= {u.name: 0 for u in units if any(lies_in(u, block.name) for block in blocks)}
    solutions = {u.name: first_leave(u) for u in units} | {u.name: droppable(u) for u in blocks}
    widths |= {block.name: 0 for block in blocks}
    smaller = stitch(model, solutions, widths, compensate=False)
    return Anatomy(name, input_size, found, dense, widths, Sizes.of(smaller, input_size))


def _left_out(found: UnitMap, globs: Sequence[str]) -> list[Unit]:
    blocks = found.of("block")
    for glob in globs:
        if not any(fnmatch.fnmatchcase(u.name, glob) for u in blocks):
            names = ", ".join(u.name for u in blocks) or "none"
            raise InputError(f"--drop {glob}: no block that may be left out has such a name", f"There are: {names}")
    return [u for u in blocks if any(fnmatch.fnmatchcase(u.name, glob) for glob in globs)]


def draw(anatomy: Anatomy) -> list[str]:
    """Draw streams and what lies between them as bars, one line a unit, in the order in which the model runs them.

    A bar is as long as the unit is wide among its own kind; the part that a plan takes is drawn light.
    """
    lines = []
    widest = {kind: max(u.width for u in anatomy.found.of(kind)) for kind in {u.kind for u in anatomy.found.units}}
    for unit in anatomy.found.units:
        if unit.kind == "block":
            if anatomy.planned.get(unit.name) == 0:
                lines.append(f"  left out: {unit.name}")
            continue
        kept = anatomy.planned.get(unit.name, unit.width)
        full = max(1, round(_BAR * unit.width / widest[unit.kind]))
        dark = min(full, max(1, round(full * kept / unit.width))) if kept else 0
        wide = unit.kind in ("stem", "stream")
        bar = ("█" if wide else "▒") * dark + "·" * (full - dark)
        width = f"{kept} of {unit.width}" if kept != unit.width else str(unit.width)
        lines.append(f"{'' if wide else '  '}{bar} {width}  {unit.name}{_at(unit)}")
    return lines


def _at(unit: Unit) -> str:
    return f"  at {'x'.join(map(str, unit.spatial))}" if unit.spatial else ""
