"""Re-estimated statistics against sums by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from taco.model import state_sha256
from taco.surgery.batchnorm import has_batchnorm, reestimate


def net() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.3), nn.ReLU(), nn.BatchNorm2d(4), nn.Dropout()
    )
    model[1].running_mean.fill_(7)  # type: ignore[union-attr,operator]
    return model.eval()


def batch(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) + 1


def test_one_batch_gives_its_own_statistics() -> None:
    model, x = net(), batch(4)
    renewed = reestimate(model, [x])
    y = model[0](x).detach()
    torch.testing.assert_close(renewed[1].running_mean, y.mean((0, 2, 3)))
    torch.testing.assert_close(renewed[1].running_var, y.var((0, 2, 3)))


def test_batches_count_by_their_pictures() -> None:
    model, big, small = net(), batch(6), batch(2, seed=1)
    renewed = reestimate(model, [big, small])
    means = [model[0](x).detach().mean((0, 2, 3)) for x in (big, small)]
    torch.testing.assert_close(renewed[1].running_mean, 0.75 * means[0] + 0.25 * means[1])


def test_later_layers_see_what_the_renewed_ones_give() -> None:
    model, x = net(), batch(8)
    renewed = reestimate(model, [x])
    middle = renewed[2](renewed[1].train()(renewed[0](x))).detach()
    torch.testing.assert_close(renewed[3].running_mean, middle.mean((0, 2, 3)), rtol=1e-3, atol=1e-3)


def test_the_given_model_is_not_modified_and_the_copy_is_ready() -> None:
    model = net()
    before = state_sha256(model)
    renewed = reestimate(model, [batch(4)])
    assert state_sha256(model) == before
    assert not any(m.training for m in (*model.modules(), *renewed.modules()))
    assert (renewed[1].momentum, renewed[3].momentum) == (0.3, 0.1)
    assert torch.equal(renewed[0].weight, model[0].weight)


@pytest.mark.parametrize("batches", [[], [batch(1)]], ids=["none", "one picture"])
def test_without_a_batch_of_two_the_statistics_stay(batches: list[torch.Tensor]) -> None:
    model = net()
    renewed = reestimate(model, batches)
    assert state_sha256(renewed) == state_sha256(model)
    assert renewed is not model
    assert not any(m.training for m in renewed.modules())


def test_a_last_picture_alone_does_not_break_a_one_pixel_map() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 8), nn.BatchNorm2d(4)).eval()  # 1 x 1: one picture has no variance
    renewed = reestimate(model, [batch(5), batch(1)])
    torch.testing.assert_close(renewed[1].running_mean, model[0](batch(5)).detach().mean((0, 2, 3)))


def test_a_model_without_batchnorm_says_so() -> None:
    assert has_batchnorm(net())
    assert not has_batchnorm(nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4)))
