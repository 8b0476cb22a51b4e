"""What is timed for one unit: the residual block that holds it, or the stretch of a chain of layers, by itself.

Whole blocks, because a runtime fuses layers with their neighbours; not the whole model, because a block is timed in a
hundredth of the time and most blocks of a model are alike.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from taco.compress import droppable, first_leave, stitch
from taco.units import Unit, UnitMap, common_home

WIDTHS = 8
#: Whole models that are timed beside the units, by the share of every unit's width: about 1.5, 2.5 and 5 times as fast.
WHOLE_SHARES = (0.6, 0.35, 0.15)
#: More of them lack blocks: the share of the other units' widths, and of how many blocks one goes.
_WITHOUT_BLOCKS = ((1.0, 2), (0.35, 2), (0.6, 1))


@dataclasses.dataclass(frozen=True, slots=True)
class Holder:
    """What is timed for a unit.

    Attributes:
        name: Of the module, or of the container of a stretch.
        children: The stretch, in order; () for a whole module.
        reads: Shape of its input for one picture, without the batch: (channels, height, width) or (tokens, channels).
        signature: Two units with the same one take the same time at the same width.
    """

    name: str
    children: tuple[str, ...]
    reads: tuple[int, ...]
    signature: str

    def of(self, model: nn.Module) -> nn.Module:
        """Return it, out of a model of the same structure."""
        module = model.get_submodule(self.name)
        return nn.Sequential(*(module.get_submodule(c) for c in self.children)) if self.children else module

    def at(self, model: nn.Module, unit: Unit, width: int) -> nn.Module:
        """Return it with one unit cut; the model stays as it is. The weights are good for timing only."""
        return self.of(stitch(model, {unit.name: first_leave(unit)}, {unit.name: width}, compensate=False))


@dataclasses.dataclass(frozen=True, slots=True)
class Unheld:
    """A unit that cannot be timed by itself, and why."""

    reason: str


def find_holders(model: nn.Module, found: UnitMap, input_size: Sequence[int]) -> dict[str, Holder | Unheld]:
    """Find what holds each unit that a search unit by unit may cut.

    Args:
        model: In eval mode; not modified.
        found: Its units.
        input_size: (channels, height, width) of a picture.
    """
    blocks = [u.name for u in found.of("block")]
    places = {unit.name: _place(model, unit, blocks) for unit in found.unit_by_unit}
    calls = _calls(model, {_first(name, children) for name, children in places.values()}, input_size)
    return {u.name: _held(model, u, places[u.name], calls) for u in found.unit_by_unit}


def widths_of(unit: Unit, step: int, count: int = WIDTHS) -> tuple[int, ...]:
    """Return the widths at which a unit is timed: dense, one step, and evenly in between, the widest first.

    Args:
        unit: The unit.
        step: Kept widths are multiples of this.
        count: At most so many.
    """
    if step >= unit.width:
        return (unit.width,)
    most = (unit.width - 1) // step
    atoms = {round(1 + (most - 1) * i / max(1, count - 2)) for i in range(count - 1)}
    return (unit.width, *(step * n for n in sorted(atoms, reverse=True)))


def whole_widths(
    widths: Mapping[str, Sequence[int]], blocks: Mapping[str, Collection[str]]
) -> dict[str, dict[str, int]]:
    """Return what whole models are timed: name -> unit -> the timed width nearest to its share of the dense one.

    Args:
        widths: Unit that can be timed -> its widths, the dense one first.
        blocks: Block that may be left out -> the units that it holds, in forward order; they have 0 where they are.
    """
    found: dict[str, dict[str, int]] = {}

    def add(share: float, gone: Collection[str]) -> None:
        within = {name for block in gone for name in blocks[block]}
        kept = {name: min(own, key=lambda width: abs(width - share * own[0])) for name, own in widths.items()}
        kept = {name: width for name, width in kept.items() if name not in within} | dict.fromkeys(gone, 0)
        smaller = gone or any(width < widths[name][0] for name, width in kept.items())
        if smaller and kept not in found.values():
            found[f"whole-{len(found)}"] = kept

    for share in WHOLE_SHARES:
        add(share, ())
    for share, every in _WITHOUT_BLOCKS if blocks else ():
        add(share, tuple(blocks)[::every])
    return found


def cut_whole(model: nn.Module, units: Iterable[Unit], widths: Mapping[str, int]) -> nn.Module:
    """Return a model with several units cut, or blocks left out, which have width 0; it stays as it is.

    The weights are good for timing only.
    """
    chosen = {u.name: droppable(u) if u.kind == "block" else first_leave(u) for u in units if u.name in widths}
    return stitch(model, chosen, widths, compensate=False)


def _place(model: nn.Module, unit: Unit, blocks: Iterable[str]) -> tuple[str, tuple[str, ...]]:
    """Return the smallest residual block around a unit; else what all its layers share, of a chain only the stretch."""
    layers = [m.module for m in unit.members]
    around = [b for b in blocks if all(name.startswith(f"{b}.") for name in layers)]
    if around:
        return max(around, key=len), ()
    home = common_home(layers)
    module = model.get_submodule(home)
    if not isinstance(module, nn.Sequential):
        return home, ()
    children = [name for name, _ in module.named_children()]
    within = [children.index(name.removeprefix(f"{home}.").split(".")[0]) for name in layers]
    return home, tuple(children[min(within) : max(within) + 1])


def _first(name: str, children: Sequence[str]) -> str:
    return ".".join(filter(None, (name, *children[:1])))


def _calls(model: nn.Module, names: Iterable[str], input_size: Sequence[int]) -> dict[str, list[Any]]:
    """Return, for each module, the tensor that it was given in every call; None for a call of another form."""
    seen: dict[str, list[Any]] = {name: [] for name in names}

    def hook(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        plain = len(args) == 1 and isinstance(args[0], torch.Tensor) and all(v is None for v in kwargs.values())
        seen[name].append(args[0] if plain else None)

    handles = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, args, kwargs, name=name: hook(name, args, kwargs), with_kwargs=True
        )
        for name in seen
    ]
    try:
        with torch.no_grad():
            model(torch.zeros(1, *input_size))
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _held(
    model: nn.Module, unit: Unit, place: tuple[str, tuple[str, ...]], calls: dict[str, list[Any]]
) -> Holder | Unheld:
    name, children = place
    given = calls[_first(name, children)]
    if len(given) != 1:
        return Unheld(f"{name} runs {len(given)} times a picture")
    if given[0] is None or given[0].shape[0] != 1:
        return Unheld(f"{name} reads something else than one tensor of one picture")
    reads = tuple(given[0].shape[1:])
    holder = Holder(name, children, reads, "")
    shapes = [(key, tuple(value.shape)) for key, value in holder.of(model).state_dict().items()]
    members = [(m.module.removeprefix(f"{name}."), m.role, m.offset, m.repeat) for m in unit.members]
    text = repr((str(holder.of(model)), shapes, members, unit.kind, unit.width, unit.multiple, reads))
    return dataclasses.replace(holder, signature=hashlib.sha256(text.encode()).hexdigest()[:16])
