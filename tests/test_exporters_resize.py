"""A graph cut to size is the graph that torch exports at that size."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from taco.exporters.graph import export_proto
from taco.exporters.protocol import Compressed
from taco.exporters.resize import Sized, UnlikeError, resized

READS = (6, 10, 10)


def convolutions(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(6, width, 1), nn.BatchNorm2d(width), nn.ReLU6(),
        nn.Conv2d(width, width, 3, padding=1, groups=width), nn.ReLU(), nn.Conv2d(width, 6, 1),
    ).eval()  # fmt: skip


class Heads(nn.Module):
    """Something with a reshape that is told the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width, self.into, self.out = width, nn.Linear(10, 5 * width), nn.Linear(5 * width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = self.into(x).reshape(1, 6, 10, self.width, 5).transpose(2, 3).softmax(-1)
        result: torch.Tensor = self.out(heads.transpose(2, 3).reshape(1, 6, 10, 5 * self.width))
        return result


@cache
def sized(make: Callable[[int], nn.Module], width: int) -> Sized:
    return Sized(export_proto(Compressed(make(width), READS)), width)


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    name: str
    make: Callable[[int], nn.Module]
    wide: int
    narrow: int
    width: int


@pytest.mark.parametrize(
    "case", [Case("conv", convolutions, 24, 8, 16), Case("heads", Heads, 6, 2, 3)], ids=lambda case: case.name
)
def test_it_has_the_sizes_that_torch_gives_and_runs(case: Case) -> None:
    wide, narrow = sized(case.make, case.wide), sized(case.make, case.narrow)
    before = wide.proto.SerializeToString(deterministic=True)
    found = resized(wide, narrow, case.width)
    assert wide.proto.SerializeToString(deterministic=True) == before
    onnx.checker.check_model(found, full_check=True)
    right = sized(case.make, case.width).proto
    assert [(t.name, list(t.dims)) for t in found.graph.initializer] == [
        (t.name, list(t.dims)) for t in right.graph.initializer
    ]
    assert [n.op_type for n in found.graph.node] == [n.op_type for n in right.graph.node]
    session = onnxruntime.InferenceSession(found.SerializeToString(), providers=["CPUExecutionProvider"])
    assert session.run(None, {"input": np.zeros((1, *READS), np.float32)})[0].shape == (1, *READS)


def test_the_ends_are_the_exports_themselves() -> None:
    wide, narrow = sized(convolutions, 24), sized(convolutions, 8)
    for end in (wide, narrow):
        found = resized(wide, narrow, end.width)
        assert [list(t.dims) for t in found.graph.initializer] == [list(t.dims) for t in end.proto.graph.initializer]
    with pytest.raises(ValueError, match="does not lie between"):
        resized(wide, narrow, 25)


def test_graphs_of_two_forms_are_refused() -> None:
    other = Sized(sized(Heads, 2).proto, 4)
    with pytest.raises(UnlikeError, match="other nodes"):
        resized(sized(convolutions, 24), other, 8)


def test_a_size_that_is_no_whole_number_is_refused() -> None:
    wide, narrow = sized(convolutions, 24), sized(convolutions, 8)
    with pytest.raises(UnlikeError, match="a size is 24 at width 9 and 8 at 4"):
        resized(Sized(wide.proto, 9), Sized(narrow.proto, 4), 5)
