"""What a model computes at the ends of its blocks, its last feature map, and its logits, in one forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from taco.graph.blocks import residual_blocks

#: The last feature map's name among a model's features; no module has it.
LAST = "last features"
#: Maps larger than this are averaged down to it on both sides before they are compared: the first blocks' maps are 64
#: times as large as the later ones', and would fill the bank alone.
LARGEST_SIDE = 14


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """One forward pass.

    Attributes:
        features: Block -> what it passes on, (n, ...), and `LAST` -> the last feature map; large maps are averaged.
        logits: (n, classes).
    """

    features: dict[str, torch.Tensor]
    logits: torch.Tensor


def block_ends(model: nn.Module, input_size: tuple[int, int, int]) -> tuple[str, ...]:
    """Return the names of the model's blocks, in its order.

    Blocks are the residual blocks, all modules of their types, and of the rest the outermost modules, no sequences of
    others, that have at least two layers with weights: blocks that change size or width have no shortcut.

    Args:
        model: In eval mode, on the CPU; not modified.
        input_size: (channels, height, width).
    """
    picture = torch.randn(1, *input_size, generator=torch.Generator().manual_seed(0))
    kinds = tuple({type(model.get_submodule(name)) for name in residual_blocks(model, picture)})
    return tuple(_blocks(model, kinds))


def _blocks(model: nn.Module, kinds: tuple[type[nn.Module], ...], above: str = "") -> Iterator[str]:
    for name, child in model.named_children():
        if isinstance(child, kinds):
            yield f"{above}{name}"
        elif isinstance(child, nn.Sequential | nn.ModuleList) or any(isinstance(m, kinds) for m in child.modules()):
            yield from _blocks(child, kinds, f"{above}{name}.")
        elif sum(p.ndim > 1 for p in child.parameters()) > 1:
            yield f"{above}{name}"


def answer(model: nn.Module, x: torch.Tensor, ends: Sequence[str] = ()) -> Answer:
    """Run a timm model on (n, 3, H, W) float32 and keep what the blocks `ends` pass on.

    A block that is not there, or was replaced by an identity, passes nothing on.
    """
    seen: dict[str, torch.Tensor] = {}
    pool = getattr(model, "output_fmt", "NCHW") == "NCHW"
    handles = []
    for name in ends:
        module = _submodule(model, name)
        if module is None or isinstance(module, nn.Identity):
            continue

        def keep(_module: nn.Module, _args: object, output: object, name: str = name) -> None:
            if isinstance(output, torch.Tensor):
                seen[name] = averaged(output) if pool else output

        handles.append(module.register_forward_hook(keep))
    try:
        last: torch.Tensor = model.forward_features(x)  # type: ignore[operator]
    finally:
        for handle in handles:
            handle.remove()
    logits: torch.Tensor = model.forward_head(last)  # type: ignore[operator]
    return Answer({**seen, LAST: averaged(last) if pool else last}, logits)


def averaged(features: torch.Tensor) -> torch.Tensor:
    """Average an (n, C, H, W) map down to at most 14 x 14; anything else passes."""
    if features.ndim != 4 or max(features.shape[2:]) <= LARGEST_SIDE:
        return features
    height, width = (min(side, LARGEST_SIDE) for side in features.shape[2:])
    return F.adaptive_avg_pool2d(features, (height, width))


def _submodule(model: nn.Module, name: str) -> nn.Module | None:
    try:
        return model.get_submodule(name)
    except AttributeError:
        return None
