"""Whether this processor trains faster in bfloat16: asked of the processor, then of the clock, never assumed."""

from __future__ import annotations

import copy
import time

import torch
from torch import nn

_BATCH, _ROUNDS = 8, 3


def has_bfloat16() -> bool:
    """Tell whether this processor computes in bfloat16 natively (AVX512_BF16, AMX or Arm's bf16)."""
    tests = ("_is_avx512_bf16_supported", "_is_amx_tile_supported", "_is_arm_bf16_supported")
    return any(bool(getattr(torch.cpu, name)()) for name in tests if hasattr(torch.cpu, name))


def autocast(*, enabled: bool = True) -> torch.autocast:
    """Return bfloat16 autocast where it is enabled and this processor has bfloat16 arithmetic, a no-op elsewhere."""
    return torch.autocast("cpu", torch.bfloat16, enabled=enabled and has_bfloat16())


def is_faster(model: nn.Module, input_size: tuple[int, int, int]) -> bool:
    """Time forward and backward passes of a copy in both kinds of arithmetic, in turn; the best of each decides.

    A processor without bfloat16 arithmetic only emulates it: there the answer is no, without a measurement.

    Args:
        model: What will be trained; not modified.
        input_size: (channels, height, width) of its input.
    """
    if not has_bfloat16():
        return False
    trial = copy.deepcopy(model).to(memory_format=torch.channels_last).eval().requires_grad_(True)
    x = torch.zeros(_BATCH, *input_size).contiguous(memory_format=torch.channels_last)
    taken: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(_ROUNDS):
        for enabled, seconds in taken.items():
            begin = time.perf_counter()
            with autocast(enabled=enabled):
                trial(x).float().square().sum().backward()
            seconds.append(time.perf_counter() - begin)
            trial.zero_grad(set_to_none=True)
    return min(taken[True]) < min(taken[False])
