"""Re-estimate BatchNorm statistics on the task's pictures after widths changed."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import nn


def has_batchnorm(model: nn.Module) -> bool:
    """Tell whether there is anything to re-estimate."""
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())


def reestimate(model: nn.Module, batches: Iterable[torch.Tensor]) -> nn.Module:
    """Return a copy whose running statistics are the averages over `batches`; the given model is not modified.

    It can hurt where the compensation already absorbed the change (METHOD.md 5): keep it only if it helps on select.
    """
    renewed = copy.deepcopy(model).eval()
    norms = [m for m in renewed.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative average
        norm.train()
    with torch.no_grad():
        for batch in batches:
            renewed(batch)
    for norm, original in zip(norms, _norms(model), strict=True):
        norm.momentum = original.momentum
        norm.eval()
    return renewed


def _norms(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    return [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
