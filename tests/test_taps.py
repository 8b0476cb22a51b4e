"""What is read at the ends of blocks."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from taco.recovery.taps import LARGEST_SIDE, LAST, answer, averaged, block_ends

SIZE = (3, 64, 64)


def model(name: str) -> nn.Module:
    torch.manual_seed(0)
    created: nn.Module = timm.create_model(name, num_classes=3)
    return created.eval()


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("test_resnet", ["layer1.0", "layer2.0", "layer3.0", "layer4.0"]),  # two of them change the size
        ("test_convnext", [f"stages.{i}.blocks.{j}" for i, n in enumerate((1, 2, 4, 2)) for j in range(n)]),
        ("test_vit", [f"blocks.{i}" for i in range(6)]),
        ("test_efficientnet", [f"blocks.{i}.0" for i in range(1, 5)]),  # no residual block at all
    ],
)
def test_every_block_is_an_end_also_those_that_change_size(name: str, ends: list[str]) -> None:
    net = model(name)
    assert list(block_ends(net, net.pretrained_cfg["input_size"])) == ends


def test_a_model_without_blocks_has_none() -> None:
    assert block_ends(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)), SIZE) == ()


@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet", "test_convnext"])
def test_the_answer_is_the_models_own(name: str) -> None:
    net, x = model(name), torch.randn(2, *SIZE)
    ends = block_ends(net, SIZE)
    found = answer(net, x, ends)
    assert torch.equal(found.logits, net(x))
    assert set(found.features) == {*ends, LAST}
    assert torch.equal(found.features[LAST], averaged(net.forward_features(x)))
    inside: list[torch.Tensor] = []
    net.get_submodule(ends[0]).register_forward_hook(lambda _m, _a, output: inside.append(averaged(output)))
    assert torch.equal(answer(net, x, ends).features[ends[0]], inside[0])


def test_no_hook_stays_even_after_a_failure() -> None:
    net = model("test_resnet")
    ends = block_ends(net, SIZE)
    answer(net, torch.randn(1, *SIZE), ends)
    with pytest.raises(RuntimeError):
        answer(net, torch.randn(1, 5, 64, 64), ends)
    assert not any(module._forward_hooks for module in net.modules())


def test_a_block_that_is_gone_passes_nothing_on() -> None:
    net = model("test_convnext")
    ends = block_ends(net, SIZE)
    net.set_submodule(ends[-1], nn.Identity())
    found = answer(net, torch.randn(1, *SIZE), [*ends, "no.such.block"])
    assert set(found.features) == {*ends[:-1], LAST}


def test_large_maps_are_averaged_and_nothing_else() -> None:
    ramp = torch.arange(28 * 56.0).reshape(1, 1, 28, 56)
    small = averaged(ramp)
    assert small.shape == (1, 1, LARGEST_SIDE, LARGEST_SIDE)
    assert small[0, 0, 0, 0] == ramp[0, 0, :2, :4].mean()
    for shape in ((2, 5, 14, 14), (2, 50, 8), (2, 5)):
        untouched = torch.randn(shape)
        assert averaged(untouched) is untouched
