"""A model as a person sees it: its units in a table, and drawn as blocks with widths; what a plan would take."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import nn

from taco.allocate import uniform
from taco.compress import first_leave, stitch
from taco.size import measure_size, peak_activation_bytes
from taco.units import Unit, UnitMap, find_units, steps_of

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
        planned: Unit -> width under the plan; empty where there is none.
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


def take_apart(
    model: nn.Module, name: str, input_size: tuple[int, int, int], ratio: float | None = None, channel_multiple: int = 8
) -> Anatomy:
    """Find a model's units and count it.

    Args:
        model: In eval mode; not modified. Its weights do not matter.
        name: For the title.
        input_size: (channels, height, width).
        ratio: Plan to keep this part of every width that a run cuts; None plans nothing.
        channel_multiple: Planned channels are multiples of this.
    """
    found = find_units(model, input_size)
    dense = Sizes.of(model, input_size)
    if ratio is None:
        return Anatomy(name, input_size, found, dense)
    units = found.within_blocks
    widths = dict(uniform({u.name: u.width for u in units}, ratio, steps_of(units, channel_multiple)).widths)
    smaller = stitch(model, {u.name: first_leave(u) for u in units}, widths, compensate=False)
    return Anatomy(name, input_size, found, dense, widths, Sizes.of(smaller, input_size))


def draw(anatomy: Anatomy) -> list[str]:
    """Draw streams and what lies between them as bars, one line a unit, in the order in which the model runs them.

    A bar is as long as the unit is wide among its own kind; the part that a plan takes is drawn light.
    """
    lines = []
    widest = {kind: max(u.width for u in anatomy.found.of(kind)) for kind in {u.kind for u in anatomy.found.units}}
    for unit in anatomy.found.units:
        if unit.kind == "block":
            continue
        kept = anatomy.planned.get(unit.name, unit.width)
        full = max(1, round(_BAR * unit.width / widest[unit.kind]))
        dark = min(full, max(1, round(full * kept / unit.width)))
        wide = unit.kind in ("stem", "stream")
        bar = ("█" if wide else "▒") * dark + "·" * (full - dark)
        width = f"{kept} of {unit.width}" if kept != unit.width else str(unit.width)
        lines.append(f"{'' if wide else '  '}{bar} {width}  {unit.name}{_at(unit)}")
    return lines


def _at(unit: Unit) -> str:
    return f"  at {'x'.join(map(str, unit.spatial))}" if unit.spatial else ""
