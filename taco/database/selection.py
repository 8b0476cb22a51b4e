"""Which layers a database holds: all that multiply a weight matrix, but the first convolution and the classifier."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Sequence

from torch import nn

from taco.errors import InputError, UnsupportedModuleError
from taco.model import classifiers_of
from taco.moments.unfold import can_unfold
from taco.wording import nearest


@dataclasses.dataclass(frozen=True, slots=True)
class Selection:
    """Layers to compress.

    Attributes:
        layers: Module names, in the model's order.
        skipped: Layer -> why it stays dense; only those that a person would expect among the chosen.
    """

    layers: tuple[str, ...]
    skipped: dict[str, str] = dataclasses.field(default_factory=dict)


def choose_layers(model: nn.Module, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> Selection:
    """Choose layers.

    Args:
        model: Any module.
        include: Globs on module names; exactly what matches, the first convolution and the classifier too. Empty takes
            every Linear and Conv2d but those two.
        exclude: Globs of what stays dense.

    Raises:
        InputError: A glob matches no layer; names near ones.
        UnsupportedModuleError: Nothing is left.
    """
    candidates = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    for glob in (*include, *exclude):
        if not any(fnmatch.fnmatchcase(name, glob) for name in candidates):
            raise InputError(
                f"{glob!r} matches no Linear or Conv2d", f"{nearest(glob.strip('*.'), list(candidates))}".strip()
            )
    ends = set() if include else ends_of(model)
    layers, skipped = [], {}
    for name, module in candidates.items():
        if name in ends or (include and not _matches(name, include)) or _matches(name, exclude):
            continue
        if can_unfold(module):
            layers.append(name)
        else:
            skipped[name] = f"{type(module).__name__} multiplies no known weight matrix"
    if not layers:
        raise UnsupportedModuleError("no layer is left to compress", "Let --include and --exclude leave some")
    return Selection(tuple(layers), skipped)


def ends_of(model: nn.Module) -> set[str]:
    """Return the names of the first convolution and of the classifier."""
    names = {module: name for name, module in model.named_modules()}
    first = next((name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)), None)
    ends = {first} if first is not None else set()
    for head in classifiers_of(model):
        ends.update(name for module in head.modules() if (name := names.get(module)))
    return ends


def _matches(name: str, globs: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, glob) for glob in globs)
