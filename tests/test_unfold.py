"""Unfolded inputs and their moments against an explicit im2col in float64, for layers of every shape."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import Conv2dSame
from torch import nn

from taco.calibrate import CalibrationOptions, calibrate, calibrate_in_waves
from taco.moments.unfold import positions_of, unfold, weight_matrix
from tests.test_calibrate import im2col


def axis(low: int, high: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(low, high), st.integers(low, high))


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A convolution, its input and how both lie in memory."""

    layer: nn.Conv2d
    x: torch.Tensor


@st.composite
def convolutions(draw: st.DrawFn) -> Drawn:
    groups = draw(st.sampled_from([1, 2, 3]))
    inside, outside = (groups * draw(st.integers(1, 3)) for _ in range(2))
    if draw(st.booleans()):
        groups = inside  # depthwise, with any multiplier
        outside = inside * draw(st.integers(1, 2))
    kernel, stride, dilation = draw(axis(1, 3)), draw(axis(1, 3)), draw(axis(1, 2))
    # torch 2.14.1 crashes where a kernel of one is "dilated": depthwise (2, 1), dilation (2, 2), padding, channels last
    dilation = tuple(d if k > 1 else 1 for d, k in zip(dilation, kernel, strict=True))
    padding = draw(st.one_of(axis(0, 2), st.sampled_from(["same", "valid", "timm"])))
    size = [d * (k - 1) + 1 + draw(st.integers(0, 5)) for k, d in zip(kernel, dilation, strict=True)]
    if padding == "timm":
        layer: nn.Conv2d = Conv2dSame(inside, outside, kernel, stride, 0, dilation, groups)
    else:
        stride = (1, 1) if padding == "same" else stride
        layer = nn.Conv2d(inside, outside, kernel, stride, padding, dilation, groups)
    x = torch.randn(draw(st.integers(1, 3)), inside, *size, generator=torch.Generator().manual_seed(0)) + 1
    return Drawn(layer, x.contiguous(memory_format=draw(st.sampled_from(LAYOUTS))))


LAYOUTS = (torch.contiguous_format, torch.channels_last)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@settings(max_examples=40, deadline=None)
@given(convolutions())
def test_every_convolution_unfolds_as_an_explicit_im2col(drawn: Drawn) -> None:
    rows = im2col(drawn.layer, drawn.x.double().numpy())
    found = unfold(drawn.layer, drawn.x)
    assert positions_of(drawn.layer, drawn.x) == rows.shape[1]
    np.testing.assert_array_equal(found, rows.astype(np.float32))
    moments = calibrate(nn.Sequential(drawn.layer).eval(), ["0"], [drawn.x])["0"]
    # An entry about the origin, a channel's mean, is at most the product of two of these: Cauchy and Schwarz.
    square = (rows**2).mean(1)
    origin = drawn.x.double().mean((0, 2, 3)).numpy().reshape(drawn.layer.groups, -1)
    scale = np.sqrt(square + 2 * np.repeat(origin**2, square.shape[1] // origin.shape[1], 1))
    error = moments.second.numpy() - rows.transpose(0, 2, 1) @ rows / rows.shape[1]
    assert np.all(np.abs(error) <= 1e-5 * scale[:, :, None] * scale[:, None, :] + 1e-12)
    assert not moments.second.diagonal(dim1=1, dim2=2)[torch.from_numpy(square == 0)].any()  # dead taps are zero
    assert moments.n == rows.shape[1]


@settings(max_examples=30, deadline=None)
@given(convolutions(), st.data())
def test_chosen_rows_are_those_of_the_whole_about_any_origin(drawn: Drawn, data: st.DataObject) -> None:
    layer, x = drawn.layer, drawn.x
    total = positions_of(layer, x)
    chosen = torch.tensor(data.draw(st.lists(st.integers(0, total - 1), min_size=1, max_size=9)))
    origin = torch.linspace(-2, 3, x.shape[1])
    cols = weight_matrix(layer).shape[2]
    shift = origin.repeat_interleave(layer.kernel_size[0] * layer.kernel_size[1]).view(layer.groups, 1, cols)
    torch.testing.assert_close(unfold(layer, x, chosen), unfold(layer, x)[:, chosen], rtol=0, atol=0)
    torch.testing.assert_close(unfold(layer, x, chosen, origin), (unfold(layer, x) - shift)[:, chosen])
    torch.testing.assert_close(unfold(layer, x, None, origin), unfold(layer, x) - shift)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=0, max_size=3), st.integers(1, 6))
def test_a_linear_layer_takes_the_last_axis_whatever_stands_before(before: list[int], features: int) -> None:
    layer = nn.Linear(features, 2)
    x = torch.randn(*before, features, generator=torch.Generator().manual_seed(1))
    rows = x.reshape(-1, features)
    assert torch.equal(unfold(layer, x), rows[None])
    assert positions_of(layer, x) == len(rows)
    chosen = torch.tensor([len(rows) - 1, 0])
    assert torch.equal(unfold(layer, x, chosen, torch.ones(features)), rows[None, chosen] - 1)


def test_a_picture_without_a_batch_is_one() -> None:
    layer, x = nn.Conv2d(2, 3, 3, padding=1), torch.randn(2, 5, 4)
    assert positions_of(layer, x) == 20
    assert torch.equal(unfold(layer, x), unfold(layer, x[None]))


class ChannelsLast(nn.Module):
    """As ConvNeXt does: a convolution, then linear layers on (N, H, W, C)."""

    def __init__(self) -> None:
        super().__init__()
        self.dw = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.fc = nn.Linear(4, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.dw(x).permute(0, 2, 3, 1))


@pytest.mark.parametrize("positions", [None, 7])
def test_linear_layers_on_channels_last_maps_keep_pictures_apart(positions: int | None) -> None:
    model, x = ChannelsLast().eval(), torch.randn(5, 4, 6, 6)
    options = CalibrationOptions(positions=positions)
    found = dict(calibrate_in_waves(model, ["fc"], lambda: [x[:2], x[2:]], options))["fc"]
    assert found.held_out is not None
    counted = positions or 36
    assert (found.fit.n, found.held_out.n) == (3 * counted, 2 * counted)
    if positions is None:
        rows = model.dw(x[1::2]).detach().double().permute(0, 2, 3, 1).reshape(-1, 4)
        torch.testing.assert_close(found.held_out.second[0], rows.T @ rows / 72, rtol=1e-5, atol=1e-6)
