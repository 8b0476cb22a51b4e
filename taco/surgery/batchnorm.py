"""Re-estimate BatchNorm statistics on the task's pictures after widths changed."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import nn

from taco.compute import device_of


def has_batchnorm(model: nn.Module) -> bool:
    """Tell whether there is anything to re-estimate."""
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())


def reestimate(model: nn.Module, batches: Iterable[torch.Tensor]) -> nn.Module:
    """Return a copy whose running statistics are the averages over `batches`; the given model is not modified.

    It can hurt where the compensation already absorbed the change (METHOD.md 5): keep it only if it helps on select.

    Args:
        model: Any mode; the copy is in eval mode, and computes where the model lies.
        batches: (N, C, H, W) float32. Each counts by its pictures. A batch of one picture is left out, because it may
            have no variance; without any other the statistics stay as they are.
    """
    renewed = copy.deepcopy(model).eval()
    norms, seen = _norms(renewed), 0
    with torch.no_grad():
        for batch in batches:
            if len(batch) < 2:
                continue
            seen += len(batch)
            for norm in norms:
                norm.train()
                norm.momentum = len(batch) / seen  # the first batch replaces the old statistics
            renewed(batch.to(device_of(renewed)))
    for norm, original in zip(norms, _norms(model), strict=True):
        norm.momentum = original.momentum
        norm.eval()
    return renewed


def _norms(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    return [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
