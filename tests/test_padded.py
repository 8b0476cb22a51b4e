"""SAME padding in one pass: the values and gradients of timm's own, whatever the sizes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers.padding import pad_same
from torch import nn

from taco.surgery.padded import padded_same


@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilation=st.integers(1, 2),
)
@settings(max_examples=60, deadline=None)
def test_values_and_gradients_are_those_of_timm(
    size: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int], dilation: int
) -> None:
    conv = nn.Conv2d(3, 2, kernel, stride, dilation=dilation)
    x = torch.randn(2, 3, *size, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    weights, found = None, []
    for pad in (
        lambda x: pad_same(x, list(conv.kernel_size), list(conv.stride), list(conv.dilation)),
        lambda x: padded_same(x, conv),
    ):
        own = x.clone().requires_grad_(True)
        y = pad(own * 2)
        weights = torch.randn_like(y) if weights is None else weights
        (y * weights).sum().backward()
        found.append((y.detach(), own.grad))
    for theirs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_what_needs_no_zeros_is_passed_on() -> None:
    x = torch.randn(1, 2, 8, 8)
    assert padded_same(x, nn.Conv2d(2, 2, 1)) is x


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_new_map_is_channels_last_and_of_the_same_type(dtype: torch.dtype) -> None:
    y = padded_same(torch.randn(2, 4, 8, 8, dtype=dtype), nn.Conv2d(4, 4, 3, 2))
    assert (tuple(y.shape), y.dtype) == ((2, 4, 9, 9), dtype)
    assert y.is_contiguous(memory_format=torch.channels_last)
