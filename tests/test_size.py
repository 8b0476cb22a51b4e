"""Sizes, against figures worked out by hand."""

from __future__ import annotations

import dataclasses

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from taco.surgery.size import ModuleSize, count_macs, measure_size


class _Attention(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.flatten(2)
        return F.scaled_dot_product_attention(tokens, tokens, tokens)


class _Expanded(nn.Module):
    """Uses a view of a parameter as an input, as timm's attention pooling does."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.ones(1, 1, 8))
        self.linear = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.linear(self.query.expand(len(x), -1, -1))
        return out


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    module: nn.Module
    macs: int


CASES = (
    Case("linear", nn.Linear(8, 5), 3 * 4 * 8 * 5),
    Case("convolution", nn.Conv2d(3, 6, 3, padding=1), 4 * 8 * 6 * 3 * 9),
    Case("depthwise", nn.Conv2d(3, 3, 3, padding=1, groups=3), 4 * 8 * 3 * 9),
    Case("strided", nn.Conv2d(3, 6, 2, stride=2), 2 * 4 * 6 * 3 * 4),
    Case("attention: q k and the sum over v", _Attention(), 2 * 3 * 3 * 32),
    Case("expanded parameter", _Expanded(), 8 * 5),
)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_macs_by_hand(case: Case) -> None:
    assert count_macs(case.module, (3, 4, 8)) == case.macs


def test_parameters_and_zeros() -> None:
    module = nn.Sequential(nn.Linear(8, 5), nn.BatchNorm1d(5))
    with torch.no_grad():
        module[0].weight.fill_(1)
        module[0].bias.copy_(torch.tensor([1.0, 0, 0, 2, 0]))
    # 40 + 5 of the layer, 5 scales and 5 shifts of the normalisation; three biases and the shifts are zero
    sized = nn.Sequential(nn.Flatten(), module)
    assert measure_size(sized, (1, 1, 8)) == ModuleSize(params=55, nonzero=47, macs=40)


def test_a_shared_parameter_counts_once() -> None:
    layer = nn.Linear(4, 4)
    assert measure_size(nn.Sequential(layer, layer), (1, 1, 4)).params == 20


def test_the_module_is_left_as_it_was() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    count_macs(module, (3, 4, 4))
    assert module.training
    assert all(p.requires_grad for p in module.parameters())
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())


def test_lite0_agrees_with_the_published_figures() -> None:
    # 4.7 million parameters, 407 million multiply-accumulates (Google's EfficientNet-Lite page)
    size = measure_size(timm.create_model("tf_efficientnet_lite0"), (3, 224, 224))
    assert size.params == pytest.approx(4.65e6, rel=0.02)
    assert size.macs == pytest.approx(407e6, rel=0.06)


def test_a_vit_counts_its_attention() -> None:
    model = timm.create_model("test_vit").eval()
    tokens, dim, depth = 101, 64, 6  # 160 pixels in patches of 16, and the class token
    dense = sum(m.in_features * m.out_features * tokens for m in model.blocks.modules() if isinstance(m, nn.Linear))
    rest = 100 * 16 * 16 * 3 * dim + dim * 1000
    assert count_macs(model, (3, 160, 160)) == dense + rest + depth * 2 * tokens * tokens * dim
