"""Targets of the dense model on the compressed model's inputs: moments against explicit products, and the problem."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import Conv2dSame
from torch import nn

from taco.calibrate import CalibrationOptions
from taco.errors import TaskError, UnsupportedModuleError
from taco.moments.asymmetric import AsymmetricMoments, PairedModels, effective_weight
from taco.moments.sums import Moments
from taco.moments.unfold import known, unfold, weight_matrix

ALL = CalibrationOptions(positions=None)


class Net(nn.Module):
    """Every kind of layer; `twice` runs two times, `never` not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Conv2dSame(3, 8, 3, stride=2)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.grouped = nn.Conv2d(8, 12, 1, groups=2)
        self.twice = nn.Conv2d(12, 12, 3, padding=1)
        self.never = nn.Linear(2, 2)
        self.head = nn.Linear(12, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run all but `never`."""
        x = self.grouped(self.depthwise(self.first(x)).relu()).relu()
        x = self.twice(self.twice(x).relu()).relu()
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


LAYERS = ("depthwise", "grouped", "twice", "head")


def nets(seed: int = 0) -> tuple[Net, Net]:
    torch.manual_seed(seed)
    dense = Net().eval()
    compressed = copy.deepcopy(dense)
    with torch.no_grad():
        for parameter in compressed.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return dense, compressed


def pictures(*sizes: int, seed: int = 1) -> Iterator[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    whole = torch.randn(sum(sizes), 3, 11, 10, generator=generator) + 0.5
    yield from whole.split(list(sizes))


def seen(model: nn.Module, name: str, x: torch.Tensor) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    hook = model.get_submodule(name).register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    with torch.no_grad():
        model(x)
    hook.remove()
    return found


def test_moments_are_those_of_explicit_products_in_float64() -> None:
    dense, compressed = nets()
    found = PairedModels(dense, compressed).calibrate(LAYERS, pictures(4, 3), ALL)
    batch = torch.cat(list(pictures(4, 3)))
    for name in LAYERS:
        layer = known(dense.get_submodule(name))
        X, hat = (
            torch.cat([unfold(layer, x) for x in seen(model, name, batch)], 1).double() for model in (dense, compressed)
        )
        Y = weight_matrix(layer).double() @ X.mT
        n = X.shape[1]
        moments = found[name]
        assert moments.inputs.n == n
        close = {"rtol": 1e-5, "atol": 1e-5}
        torch.testing.assert_close(moments.inputs.second, hat.mT @ hat / n, **close)
        torch.testing.assert_close(moments.cross, Y @ hat / n, **close)
        torch.testing.assert_close(moments.target_mean, Y.mean(2), **close)


def test_the_dense_model_itself_asks_for_its_own_weights() -> None:
    dense, _ = nets()
    found = PairedModels(dense, dense).calibrate(LAYERS, pictures(6), ALL)
    for name in LAYERS:
        W = weight_matrix(known(dense.get_submodule(name)))
        for centred in (False, True):
            best = effective_weight(found[name], W, 1e-2, centred)
            torch.testing.assert_close(best, W.double(), rtol=1e-3, atol=1e-3)


def test_sampled_positions_do_not_depend_on_batches_and_pair_inputs_with_their_own_outputs() -> None:
    dense, compressed = nets()
    few = CalibrationOptions(positions=5)
    one, two = (PairedModels(dense, compressed).calibrate(LAYERS, pictures(*sizes), few) for sizes in ((7,), (2, 5)))
    for name in LAYERS:
        torch.testing.assert_close(one[name].cross, two[name].cross, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(one[name].inputs.second, two[name].inputs.second, rtol=1e-5, atol=1e-6)
    assert one["twice"].inputs.n == 2 * 7 * 5
    assert one["twice"].inputs.passed_over == 2 * 7 * (6 * 5 - 5)
    own = PairedModels(dense, dense).calibrate(LAYERS, pictures(7), few)
    W = weight_matrix(known(dense.get_submodule("twice")))
    torch.testing.assert_close(own["twice"].cross, W.double() @ own["twice"].inputs.second, rtol=1e-4, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    groups=st.integers(1, 3),
    rows=st.integers(1, 4),
    cols=st.integers(1, 6),
    centred=st.booleans(),
    damping=st.sampled_from([1e-3, 1e-1]),
    seed=st.integers(0, 10**6),
)
def test_the_symmetric_problem_of_the_effective_weight_is_the_asymmetric_one(
    groups: int, rows: int, cols: int, centred: bool, damping: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(groups, *shape, generator=generator, dtype=torch.float64)

    n = 20
    X, Y, W = draw(n, cols) + 0.3, draw(rows, n) + 0.2, draw(rows, cols)
    inputs = Moments(X.mT @ X / n, X.mean(1), n)
    moments = AsymmetricMoments(inputs, Y @ X / n, Y.mean(2))
    best = effective_weight(moments, W, damping, centred)
    H = inputs.centred_H if centred else inputs.H
    ridge = (damping * H.diagonal(dim1=1, dim2=2).mean(1))[:, None, None]
    if centred:
        X, Y = X - X.mean(1, keepdim=True), Y - Y.mean(2, keepdim=True)

    def gap(V: torch.Tensor) -> torch.Tensor:
        asked = (Y - V @ X.mT).square().sum((1, 2)) / n + (ridge / 2 * (V - W).square()).sum((1, 2))
        D = V - best
        return asked - 0.5 * ((D @ (H + ridge * torch.eye(cols))) * D).sum((1, 2))

    torch.testing.assert_close(gap(draw(rows, cols)), gap(draw(rows, cols)), rtol=1e-8, atol=1e-8)


def test_refusals() -> None:
    dense, compressed = nets()
    with pytest.raises(TaskError, match="no picture"):
        PairedModels(dense, compressed).calibrate(LAYERS, [], ALL)
    with pytest.raises(UnsupportedModuleError, match="never"):
        PairedModels(dense, compressed).calibrate(["head", "never"], pictures(2), ALL)
