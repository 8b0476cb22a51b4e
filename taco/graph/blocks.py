"""Which modules of a model are residual blocks that may be left out.

A residual block with all its parameters at zero passes on what it reads: that is tried, on what the block really reads.
So a trailing ReLU does not matter, and no list of block types is kept.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import torch
from torch import nn


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """What a module was given."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def residual_blocks(model: nn.Module, picture: torch.Tensor) -> list[str]:
    """Return the smallest modules that can be exchanged for an identity, in the model's order.

    Args:
        model: In eval mode; not modified.
        picture: (1, C, H, W) float32.
    """
    calls = _calls(model, picture)
    silent = copy.deepcopy(model).eval()
    with torch.no_grad():
        for parameter in silent.parameters():
            parameter.zero_()
        passing = [name for name, call in calls.items() if _passes(silent.get_submodule(name), call)]
    return [name for name in passing if not any(other.startswith(f"{name}.") for other in passing)]


def _calls(model: nn.Module, picture: torch.Tensor) -> dict[str, Call]:
    """Return what every module with children was given, if it ran once and kept the shape."""
    seen: dict[str, list[Call | None]] = {}
    hooks = []
    for name, module in model.named_modules():
        if name and any(True for _ in module.children()) and any(True for _ in module.parameters()):
            seen[name] = []

            def hook(
                _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, name: str = name
            ) -> None:
                same = isinstance(output, torch.Tensor) and len(args) > 0 and _shape(args[0]) == output.shape
                seen[name].append(Call(args, kwargs) if same else None)

            hooks.append(module.register_forward_hook(hook, with_kwargs=True))
    try:
        with torch.no_grad():
            model(picture)
    finally:
        for handle in hooks:
            handle.remove()
    return {name: calls[0] for name, calls in seen.items() if len(calls) == 1 and calls[0] is not None}


def _shape(value: object) -> torch.Size | None:
    return value.shape if isinstance(value, torch.Tensor) else None


def _passes(module: nn.Module, call: Call) -> bool:
    return bool(torch.equal(module(*call.args, **call.kwargs), call.args[0]))
