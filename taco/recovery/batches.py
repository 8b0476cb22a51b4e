"""How many views a recovery step takes: it depends on what computes it."""

from __future__ import annotations

import torch

#: A processor computes no more views a second in larger batches, and more steps recover more from the same views
#: (docs/adr/0013); a GPU spends a small batch on launching kernels.
ON_CPU, ON_GPU = 8, 32


def batch_on(device: torch.device) -> int:
    """Return how many views a step takes on a device."""
    return ON_CPU if device.type == "cpu" else ON_GPU
