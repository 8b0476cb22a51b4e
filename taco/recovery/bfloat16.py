"""Whether a processor or GPU trains faster in bfloat16: asked of it, then of the clock, never assumed."""

from __future__ import annotations

import copy
import time

import torch
from torch import nn

from taco.compute import CPU, device_of, finished
from taco.recovery.batches import batch_on
from taco.surgery.fused import faster_form

_ROUNDS = 3
#: bfloat16 must be so many times as fast. Where it gains less, the noise of the clock would choose the arithmetic, and
#: two runs of one command would differ by it; where it gained, a step of recovery took 0.7 of the time.
_WORTH = 1.15


def has_bfloat16(device: torch.device = CPU) -> bool:
    """Tell whether a device computes in bfloat16 natively (AVX512_BF16, AMX or Arm's bf16; Ampere and later)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    tests = ("_is_avx512_bf16_supported", "_is_amx_tile_supported", "_is_arm_bf16_supported")
    return any(bool(getattr(torch.cpu, name)()) for name in tests if hasattr(torch.cpu, name))


def autocast(device: torch.device = CPU, *, enabled: bool = True) -> torch.autocast:
    """Return bfloat16 autocast where it is enabled and the device has bfloat16 arithmetic, a no-op elsewhere."""
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled and has_bfloat16(device))


def is_faster(model: nn.Module, input_size: tuple[int, int, int]) -> bool:
    """Time passes, forward and backward, of what recovery would train, in both kinds of arithmetic, in turn.

    The best time of each decides, and a near draw is float32's.

    A device without bfloat16 arithmetic only emulates it: there the answer is no, without a measurement.

    Args:
        model: What will be trained, where it will be; not modified.
        input_size: (channels, height, width) of its input.
    """
    device = device_of(model)
    if not has_bfloat16(device):
        return False
    own = copy.deepcopy(model).to(memory_format=torch.channels_last).eval().requires_grad_(True)
    trial = faster_form(own, input_size)
    x = torch.zeros(batch_on(device), *input_size, device=device).contiguous(memory_format=torch.channels_last)
    taken: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(_ROUNDS):
        for enabled, seconds in taken.items():
            begin = time.perf_counter()
            with autocast(device, enabled=enabled):
                loss = trial(x).float().square().sum()
            loss.backward()
            finished(device)
            seconds.append(time.perf_counter() - begin)
            trial.zero_grad(set_to_none=True)
    return min(taken[True]) * _WORTH < min(taken[False])
