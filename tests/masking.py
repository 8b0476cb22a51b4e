"""The dense model with some of its units masked: what a stitched model must compute before any compensation.

Removed channels are zero where they are read. Norms that run over channels run over the kept ones. Queries and keys
lose dimensions and the softmax scale stays the dense one. A dropped block hands on what it was given.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Attention, LayerNorm2d, LayerNormAct2d
from timm.layers.grn import GlobalResponseNorm
from torch import nn

from taco.compress import UnitSolution

Hook = Callable[..., Any]


@contextlib.contextmanager
def masked(model: nn.Module, solutions: Mapping[str, UnitSolution], widths: Mapping[str, int]) -> Iterator[nn.Module]:
    """Mask units of a model while the context lasts."""
    reads, norms, hooks = masks_of(model, solutions, widths)
    handles: list[Any] = []
    for name, mask in reads.items():
        handles.append(model.get_submodule(name).register_forward_pre_hook(zero_inputs(mask)))
    for name, mask in norms.items():
        handles.append(model.get_submodule(name).register_forward_hook(over_kept(mask)))
    for name, hook in hooks:
        handles.append(model.get_submodule(name).register_forward_hook(hook))
    try:
        yield model
    finally:
        for handle in handles:
            handle.remove()


def masks_of(
    model: nn.Module, solutions: Mapping[str, UnitSolution], widths: Mapping[str, int]
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], list[tuple[str, Hook]]]:
    """Masks at the inputs of layers and of norms over channels, and other hooks."""
    reads: dict[str, torch.Tensor] = {}
    norms: dict[str, torch.Tensor] = {}
    hooks: list[tuple[str, Hook]] = []
    for name, width in widths.items():
        unit = solutions[name].unit
        if width == unit.width:
            continue
        if unit.kind == "block":
            hooks.append((name, lambda _module, inputs, _output: inputs[0]))
            continue
        keep = solutions[name].order.keep(width)
        if unit.kind == "head width":
            owner = name.rpartition(".")[0]
            hooks.append((f"{owner}.qkv", narrow_heads(model.get_submodule(owner), keep)))  # type: ignore[arg-type]
            continue
        gone = torch.ones(unit.width, dtype=torch.bool)
        gone[keep[0]] = False
        for member in unit.members:
            module = model.get_submodule(member.module)
            compares = isinstance(module, nn.LayerNorm | GlobalResponseNorm)
            if member.tensor or not (member.role == "in" or compares):
                continue
            total = module.weight.shape[0 if compares else 1]  # type: ignore[union-attr,index]
            mask = (norms if compares else reads).setdefault(member.module, torch.ones(total))  # type: ignore[arg-type]
            for channel in gone.nonzero().flatten().tolist():
                begin = member.offset + channel * member.repeat
                mask[begin : begin + member.repeat] = 0
    return reads, norms, hooks


def zero_inputs(mask: torch.Tensor) -> Hook:
    def hook(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return inputs[0] * (mask[:, None, None] if isinstance(layer, nn.Conv2d) else mask)

    return hook


def over_kept(mask: torch.Tensor) -> Hook:
    """Compute a norm over channels from the kept ones alone, by its definition."""
    kept = mask.bool()

    def hook(module: Any, inputs: tuple[torch.Tensor, ...], _output: torch.Tensor) -> torch.Tensor:
        if isinstance(module, GlobalResponseNorm):
            first = module.channel_dim == 1
        else:
            first = isinstance(module, LayerNorm2d | LayerNormAct2d)
        x = inputs[0].movedim(1, -1) if first else inputs[0]
        part, weight, bias = x[..., kept], module.weight[kept], module.bias[kept]
        if isinstance(module, GlobalResponseNorm):
            size = part.square().sum((1, 2), keepdim=True).sqrt()
            done = part + bias + weight * part * size / (size.mean(-1, keepdim=True) + module.eps)
        else:
            done = F.layer_norm(part, (int(kept.sum()),), weight, bias, module.eps)
        full = torch.zeros_like(x)
        full[..., kept] = done
        return full.movedim(-1, 1) if first else full

    return hook


def narrow_heads(attention: Attention, keep: torch.Tensor) -> Hook:
    heads = attention.num_heads
    mask = torch.zeros(3, heads, attention.qkv.out_features // (3 * heads))
    for head in range(heads):
        mask[0, head, keep[head]] = mask[1, head, keep[head]] = 1
        mask[2, head, keep[heads + head]] = 1

    def hook(_module: nn.Module, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        return output * mask.flatten()

    return hook


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())
