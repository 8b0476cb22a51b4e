"""Second moments against explicit loops over every output position."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from timm.layers import Conv2dSame, StdConv2d
from torch import nn

from taco.calibrate import calibrate
from taco.errors import SolverError, TaskError, UnsupportedModuleError
from taco.moments.sums import Moments
from taco.moments.unfold import can_unfold, unfold, weight_matrix


def batch(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@dataclasses.dataclass(frozen=True, slots=True)
class Convolution:
    """One convolution and a picture size."""

    name: str
    make: Callable[[], nn.Conv2d]
    size: tuple[int, int] = (7, 6)


CONVOLUTIONS = (
    Convolution("3x3", lambda: nn.Conv2d(3, 4, 3, padding=1)),
    Convolution("valid", lambda: nn.Conv2d(3, 4, 3)),
    Convolution("stride", lambda: nn.Conv2d(3, 4, 3, stride=2, padding=1)),
    Convolution("dilation", lambda: nn.Conv2d(3, 4, 3, dilation=2, padding=2)),
    Convolution("uneven", lambda: nn.Conv2d(3, 4, (1, 3), stride=(2, 1), padding=(1, 2), dilation=(1, 2))),
    Convolution("groups", lambda: nn.Conv2d(6, 4, 3, padding=1, groups=2)),
    Convolution("depthwise", lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4)),
    Convolution("multiplier", lambda: nn.Conv2d(2, 6, 3, stride=2, padding=1, groups=2)),
    Convolution("pointwise", lambda: nn.Conv2d(5, 3, 1)),
    Convolution("pointwise stride padding groups", lambda: nn.Conv2d(6, 4, 1, stride=2, padding=1, groups=2)),
    Convolution("same", lambda: Conv2dSame(3, 4, 3, stride=2), (6, 6)),
    Convolution("same odd", lambda: Conv2dSame(3, 4, 3, stride=2), (7, 6)),
    Convolution("same depthwise", lambda: Conv2dSame(4, 4, 5, stride=2, groups=4), (8, 7)),
    Convolution("same dilation", lambda: Conv2dSame(3, 4, 3, dilation=2), (6, 7)),
    Convolution("same pointwise stride", lambda: Conv2dSame(3, 4, 1, stride=2), (6, 7)),
)


def before_and_after(layer: nn.Conv2d, axis: int, length: int) -> tuple[int, int]:
    """Zeros on both sides of one axis, by TensorFlow's rule for SAME, the odd one behind."""
    if layer.padding == "valid":
        return 0, 0
    if not isinstance(layer, Conv2dSame) and layer.padding != "same":
        return int(layer.padding[axis]), int(layer.padding[axis])
    stride, reach = layer.stride[axis], layer.dilation[axis] * (layer.kernel_size[axis] - 1) + 1
    total = max(0, (-(-length // stride) - 1) * stride + reach - length)
    return total // 2, total - total // 2


def im2col(layer: nn.Conv2d, x: np.ndarray) -> np.ndarray:
    """(groups, positions, cols), written with loops."""
    (top, bottom), (left, right) = (before_and_after(layer, a, x.shape[2 + a]) for a in (0, 1))
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    (kh, kw), (sh, sw), (dh, dw) = layer.kernel_size, layer.stride, layer.dilation
    height = (x.shape[2] - dh * (kh - 1) - 1) // sh + 1
    width = (x.shape[3] - dw * (kw - 1) - 1) // sw + 1
    each = x.shape[1] // layer.groups
    rows: list[list[np.ndarray]] = [[] for _ in range(layer.groups)]
    for picture in x:
        for i in range(height):
            for j in range(width):
                patch = picture[:, i * sh : i * sh + dh * kh : dh, j * sw : j * sw + dw * kw : dw][:, :kh, :kw]
                for g in range(layer.groups):
                    rows[g].append(patch[g * each : (g + 1) * each].ravel())
    return np.array(rows)


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=lambda case: case.name)
def test_convolution_moments_equal_an_explicit_im2col(case: Convolution) -> None:
    layer = case.make()
    x = batch(2, layer.in_channels, *case.size)
    rows = im2col(layer, x.double().numpy())
    found = calibrate(nn.Sequential(layer).eval(), ["0"], [x])["0"]
    assert found.n == rows.shape[1]
    np.testing.assert_allclose(found.mean, rows.mean(1), atol=1e-6)
    np.testing.assert_allclose(found.second, rows.transpose(0, 2, 1) @ rows / found.n, atol=1e-5)


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=lambda case: case.name)
def test_unfolded_inputs_times_the_weight_matrix_are_the_output(case: Convolution) -> None:
    layer = case.make()
    x = batch(2, layer.in_channels, *case.size)
    y = layer(x).detach()
    product = unfold(layer, x) @ weight_matrix(layer).transpose(1, 2)  # (groups, positions, rows)
    ours = product.permute(1, 0, 2).reshape(2, -1, layer.out_channels).permute(0, 2, 1).reshape(y.shape)
    ours = ours if layer.bias is None else ours + layer.bias.detach()[:, None, None]
    torch.testing.assert_close(ours, y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(8, 5), (3, 7, 5), (2, 3, 4, 5)], ids=["flat", "tokens", "channels last"])
def test_a_linear_layer_counts_every_token(shape: tuple[int, ...]) -> None:
    x = batch(*shape)
    found = calibrate(nn.Sequential(nn.Linear(5, 2)), ["0"], [x])["0"]
    rows = x.reshape(-1, 5).double()
    assert found.n == len(rows)
    torch.testing.assert_close(found.second[0], rows.T @ rows / len(rows), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.mean[0], rows.mean(0), rtol=1e-6, atol=1e-6)


def small_net() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3, 2, 1)).eval()


def test_three_small_batches_equal_one_big_batch() -> None:
    x = batch(7, 3, 8, 8)
    net = small_net()
    one, three = (calibrate(net, ["0", "3"], b)["3"] for b in ([x], [x[:2], x[2:3], x[3:]]))
    assert one.n == three.n == 7 * 16
    torch.testing.assert_close(three.second, one.second, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(three.mean, one.mean, rtol=1e-6, atol=1e-7)


def test_H_is_twice_the_second_moment_and_centred_H_twice_the_covariance() -> None:
    x = batch(4, 2, 6, 6) + 3.0
    layer = nn.Conv2d(2, 3, 3)
    found = calibrate(nn.Sequential(layer), ["0"], [x])["0"]
    rows = im2col(layer, x.double().numpy())[0]
    np.testing.assert_allclose(found.H[0], 2 * rows.T @ rows / len(rows), rtol=1e-5)
    np.testing.assert_allclose(found.centred_H[0], 2 * np.cov(rows.T, bias=True), atol=1e-5)
    assert found.second.dtype == found.mean.dtype == torch.float64
    assert torch.equal(found.second, found.second.transpose(1, 2))


@pytest.mark.parametrize("mean", [0.0, 10.0, 1000.0])
def test_float32_sums_keep_the_covariance_of_inputs_with_a_large_mean(mean: float) -> None:
    x = (batch(20_000, 6, seed=3) @ batch(6, 6, seed=4) + mean).float()
    found = calibrate(nn.Sequential(nn.Linear(6, 2)), ["0"], x.split(999))["0"]
    expected = 2 * torch.cov(x.double().T, correction=0)
    torch.testing.assert_close(found.centred_H[0], expected, rtol=1e-4, atol=1e-4)


def test_a_constant_input_has_no_variance() -> None:
    x = batch(512, 3)
    x[:, 1] = 5.3
    found = calibrate(nn.Sequential(nn.Linear(3, 2)), ["0"], x.split(100))["0"]
    assert abs(float(found.centred_H[0, 1, 1])) < 1e-13


def test_every_call_of_a_shared_layer_counts() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(self.layer(x))

    model, x = Twice(), batch(5, 3)
    found = calibrate(model, ["layer"], [x])["layer"]
    rows = torch.cat([x, model.layer(x).detach()]).double()
    assert found.n == 10
    torch.testing.assert_close(found.second[0], rows.T @ rows / 10, rtol=1e-5, atol=1e-6)


def test_the_model_is_as_before() -> None:
    net = small_net()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    calibrate(net, ["3"], [batch(2, 3, 8, 8)])
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert not any(m._forward_pre_hooks for m in net.modules())
    net(batch(1, 3, 8, 8)).sum().backward()  # nothing of the pass is left that cannot be trained


def test_hooks_are_gone_after_a_failure() -> None:
    net = small_net()
    with pytest.raises(RuntimeError):
        calibrate(net, ["3"], [batch(2, 1, 8, 8)])
    assert not any(m._forward_pre_hooks for m in net.modules())


def test_progress_is_told_of_every_picture() -> None:
    done: list[int] = []
    calibrate(small_net(), ["3"], [batch(2, 3, 8, 8), batch(3, 3, 8, 8)], done.append)
    assert done == [2, 3]


def test_a_layer_that_never_runs_is_named() -> None:
    net = small_net()
    net.add_module("unused", nn.Linear(2, 2))
    net.forward = lambda x: nn.Sequential.forward(net[:4], x)  # type: ignore[method-assign]
    with pytest.raises(UnsupportedModuleError, match="unused was never run"):
        calibrate(net, ["3", "unused"], [batch(1, 3, 8, 8)])


def test_no_picture_is_not_blamed_on_a_layer() -> None:
    with pytest.raises(TaskError, match="no picture to calibrate on"):
        calibrate(small_net(), ["3"], [])


def test_overflowing_activations_name_the_layer() -> None:
    with pytest.raises(SolverError, match="inputs of 3 are not finite"):
        calibrate(small_net(), ["3"], [batch(1, 3, 8, 8) * float("inf")])


@pytest.mark.parametrize(
    "layer",
    [nn.Conv2d(3, 4, 3, padding_mode="circular"), StdConv2d(3, 4, 3), nn.GELU()],
    ids=["circular", "standardised weights", "no weights"],
)
def test_a_layer_that_multiplies_something_else_is_refused(layer: nn.Module) -> None:
    assert not can_unfold(layer)
    with pytest.raises(UnsupportedModuleError, match="no known weight matrix"):
        unfold(layer, batch(1, 3, 6, 6))


def test_weight_matrices_are_grouped_views() -> None:
    grouped = nn.Conv2d(6, 4, 3, groups=2)
    assert weight_matrix(grouped).shape == (2, 2, 27)
    assert weight_matrix(nn.Linear(5, 3)).shape == (1, 3, 5)
    assert weight_matrix(grouped).data_ptr() == grouped.weight.data_ptr()
    torch.testing.assert_close(weight_matrix(grouped)[1, 0], grouped.weight.detach()[2].flatten())


def test_moments_are_frozen() -> None:
    moments = Moments(torch.eye(2)[None], torch.zeros(1, 2), 3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        moments.n = 4  # type: ignore[misc]
