"""Global response norms (ConvNeXt-V2, Woo et al., CVPR 2023) on fewer channels.

The norm is x + beta + gamma x g / mean(g), g the size of each channel over a picture. When channels leave, the mean
runs over the others, which mostly are the larger ones. What a consumer's refit assumes is that the channels that stay
do not change, so gamma takes up the change of the mean: gamma mean_kept(E g) / mean_all(E g).
"""

from __future__ import annotations

import torch
from timm.layers.grn import GlobalResponseNorm
from torch import nn

from taco.moments.sums import Moments


class ChannelSizes:
    """Sums up the size of every channel over pictures, at the input of a norm."""

    def __init__(self) -> None:
        self._total: torch.Tensor | None = None
        self._n = 0

    def see(self, norm: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        """Add a batch; a forward pre-hook."""
        assert isinstance(norm, GlobalResponseNorm)  # noqa: S101 - the unit's role says so
        sizes = inputs[0].norm(p=2, dim=norm.spatial_dim).double().sum(0)
        self._total = sizes if self._total is None else self._total + sizes
        self._n += len(inputs[0])

    def moments(self) -> Moments:
        """Return the mean sizes as `mean`, (1, channels) float64; there are no second moments."""
        assert self._total is not None  # noqa: S101 - calibration raises where there is no picture
        return Moments(torch.zeros(1, 0, 0, dtype=torch.float64), self._total[None] / self._n, self._n)


def rescale(norm: nn.Module, sizes: Moments, keep: torch.Tensor) -> None:
    """Let gamma take up the change of the mean; in place, nothing is cut yet.

    Args:
        norm: It must belong to the caller.
        sizes: From `ChannelSizes`.
        keep: (kept,) int64, the channels that stay.
    """
    every = sizes.mean[0]
    with torch.no_grad():
        norm.get_parameter("weight").mul_(float(every[keep].mean() / every.mean()))
