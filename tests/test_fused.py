"""The fused form computes the same values and the same gradients, on the same parameters."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from taco.recovery.taps import answer, block_ends
from taco.surgery.fused import FusedConv, fused

SIZE = (3, 64, 64)


def model(name: str) -> nn.Module:
    torch.manual_seed(0)
    created: nn.Module = timm.create_model(name, num_classes=3).eval().to(memory_format=torch.channels_last)
    for module in created.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean):
                nn.init.normal_(tensor, 0.8, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return created


def picture(n: int = 2) -> torch.Tensor:
    return torch.randn(n, *SIZE).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet", "tf_efficientnet_lite0", "test_convnext"])
def test_values_features_and_gradients_are_those_of_the_plain_model(name: str) -> None:
    plain, x = model(name), picture()
    faster = fused(plain, SIZE)
    assert any(isinstance(m, FusedConv) for m in faster.modules()) == (name != "test_convnext")  # it has linear layers
    ends = block_ends(plain, SIZE)
    grads = []
    for one in (plain, faster):
        found = answer(one, x, ends)
        sum(f.square().mean() for f in [*found.features.values(), found.logits]).backward()  # type: ignore[union-attr]
        grads.append({n: p.grad.clone() for n, p in plain.named_parameters() if p.grad is not None})
        plain.zero_grad(set_to_none=True)
    expected = answer(plain, x, ends)
    for key, features in answer(faster, x, ends).features.items():
        torch.testing.assert_close(features, expected.features[key], rtol=1e-3, atol=1e-3)
    assert grads[0].keys() == grads[1].keys()
    for key, gradient in grads[0].items():
        assert (grads[1][key] - gradient).norm() <= 1e-3 * gradient.norm() + 1e-6, key


@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet", "tf_efficientnet_lite0"])
def test_in_bfloat16_the_fused_form_is_as_near_to_float32_as_the_plain_one(name: str) -> None:
    plain, x = model(name), picture()
    faster = fused(plain, SIZE)
    grads = []
    for one, enabled in ((plain, False), (plain, True), (faster, True)):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            logits = one(x)
        logits.float().square().sum().backward()
        grads.append(torch.cat([p.grad.flatten() for p in plain.parameters() if p.grad is not None]))
        plain.zero_grad(set_to_none=True)
    errors = [float((half - grads[0]).norm() / grads[0].norm()) for half in grads[1:]]
    assert 0 < errors[1] < max(2 * errors[0], 0.02)


def test_depthwise_kernels_are_computed_in_float32_under_autocast() -> None:
    kinds: dict[bool, set[torch.dtype]] = {True: set(), False: set()}

    def note(module: nn.Module, _args: object, output: torch.Tensor) -> None:
        assert isinstance(module, FusedConv)
        kinds[module.conv.groups > 1].add(output.dtype)

    faster = fused(model("tf_efficientnet_lite0"), SIZE)
    for module in faster.modules():
        if isinstance(module, FusedConv):
            module.register_forward_hook(note)
    with torch.autocast("cpu", torch.bfloat16):
        faster(picture())
    assert kinds == {True: {torch.float32}, False: {torch.bfloat16}}


def test_parameters_and_buffers_are_shared_and_the_given_model_is_unchanged() -> None:
    plain = model("test_efficientnet")
    names = [name for name, _ in plain.named_modules()]
    faster = fused(plain, SIZE)
    own = {id(p) for p in plain.parameters()}
    assert {id(p) for p in faster.parameters()} == own
    assert [name for name, _ in plain.named_modules()] == names
    before = faster(picture(1))
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.mul_(1.1)
    assert not torch.equal(faster(picture(1)), before)
    x = picture(1)
    torch.testing.assert_close(faster(x), plain(x), rtol=1e-3, atol=1e-3)


class Twice(nn.Module):
    """The convolution's output is read by the norm and by something else: it must not be fused."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return (self.norm(y) + 5 * y).mean((2, 3))


def test_a_model_that_cannot_be_fused_is_returned_as_it_is() -> None:
    plain = Twice().eval()
    nn.init.constant_(plain.norm.weight, 3.0)
    assert fused(plain, SIZE) is plain


def test_a_broken_model_is_returned_as_it_is() -> None:
    plain = model("test_resnet")
    with torch.no_grad():
        next(plain.parameters()).fill_(torch.nan)
    assert fused(plain, SIZE) is plain
