"""Size of a torch module: parameters, non-zero parameters, multiply-accumulates."""

from __future__ import annotations

import copy
import dataclasses

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


@dataclasses.dataclass(frozen=True, slots=True)
class ModuleSize:
    """Parameters, those that are not zero, and multiply-accumulates for one picture."""

    params: int
    nonzero: int
    macs: int


def measure_size(module: nn.Module, input_size: tuple[int, int, int]) -> ModuleSize:
    """Count a module; `input_size` is (channels, height, width)."""
    parameters = list(module.parameters())
    return ModuleSize(
        params=sum(p.numel() for p in parameters),
        nonzero=sum(int(torch.count_nonzero(p)) for p in parameters),
        macs=count_macs(module, input_size),
    )


def count_macs(module: nn.Module, input_size: tuple[int, int, int]) -> int:
    """Count multiply-accumulates of one forward pass: convolutions, matrix products and attention, as torch counts."""
    counter = FlopCounterMode(display=False)
    # a copy: in training mode BatchNorm would note the picture of zeros, and the counter trips over expanded parameters
    copied = copy.deepcopy(module).eval().requires_grad_(False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:  # torch counts no fused attention on a processor
        copied(torch.zeros(1, *input_size))
    return int(counter.get_total_flops()) // 2
