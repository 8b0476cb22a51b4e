"""What we know of timm's fused attention: how qkv's rows and proj's columns are laid out, and what can be cut.

`qkv` makes 3 x heads x head_dim rows in that order; `proj` reads heads x head_dim columns. Queries and keys of one head
only meet in their product, so each head may drop dimensions of its own, as long as all heads keep as many.
"""

from __future__ import annotations

import torch
from timm.layers import Attention
from torch import nn

from taco.errors import UnsupportedModuleError


class AttentionStandIn(nn.Linear):
    """A layer that couples like a whole attention: it reads tokens and writes tokens, mixing all channels."""

    def __init__(self, attention: Attention) -> None:
        super().__init__(attention.qkv.in_features, attention.proj.out_features)

    def forward(self, x: torch.Tensor, *_: object, **__: object) -> torch.Tensor:  # type: ignore[override]
        """Ignore masks: only the channels count."""
        return super().forward(x)


def check_attention(attention: Attention) -> None:
    """Refuse the variants whose output is touched between the heads and `proj`.

    Raises:
        UnsupportedModuleError: It gates or normalises across its heads.
    """
    if type(attention.qkv) is not nn.Linear or type(attention.proj) is not nn.Linear:
        raise UnsupportedModuleError("its projections are not plain linear layers", "It stays dense")
    if getattr(attention, "gate", None) is not None:
        raise UnsupportedModuleError("its output is gated by a projection of its own", "It stays dense")
    if not isinstance(getattr(attention, "norm", nn.Identity()), nn.Identity):
        raise UnsupportedModuleError("its output is normalised across all heads", "It stays dense")


def check_head_width(attention: Attention) -> None:
    """Refuse heads whose dimensions are compared with each other.

    Raises:
        UnsupportedModuleError: Queries and keys are normalised over the head's dimensions.
    """
    if not (isinstance(attention.q_norm, nn.Identity) and isinstance(attention.k_norm, nn.Identity)):
        raise UnsupportedModuleError("queries and keys are normalised over the width of a head", "It stays dense")


def heads_of(attention: Attention) -> tuple[int, int]:
    """Return the number of heads and the width of one."""
    heads = int(attention.num_heads)
    return heads, int(attention.qkv.out_features) // (3 * heads)


def settle(attention: Attention, keep: torch.Tensor) -> None:
    """Declare new sizes after rows of `qkv` went, and fold the softmax scale into the queries.

    The scale is 1 / sqrt(width of a head); with fewer dimensions it would grow, so the queries shrink by
    sqrt(new / old).

    Args:
        attention: `qkv` and `proj` are cut already, its declared sizes are still the old ones.
        keep: (3 * heads * head_dim,) bool, the rows of the old `qkv` that stayed.
    """
    heads, width = heads_of_rows(attention, keep)
    factor = (width / (len(keep) / (3 * attention.num_heads))) ** 0.5
    attention.num_heads, attention.head_dim, attention.attn_dim = heads, width, heads * width
    attention.scale = width**-0.5
    if factor == 1:
        return
    with torch.no_grad():
        attention.qkv.weight[: heads * width] *= factor
        if attention.qkv.bias is not None:
            attention.qkv.bias[: heads * width] *= factor


def heads_of_rows(attention: Attention, keep: torch.Tensor) -> tuple[int, int]:
    """Return how many heads a mask over the rows of `qkv` leaves, and how wide."""
    rows = keep.view(3, attention.num_heads, -1).sum(2)
    widths = set(rows[rows > 0].tolist())
    assert len(widths) == 1  # noqa: S101 - units keep as many dimensions of every head
    return int((rows[0] > 0).sum()), int(widths.pop())
