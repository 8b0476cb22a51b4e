"""Exports share one list of operators: the same graphs, made sooner, and by torch alone where its insides differ."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.onnx._internal.exporter import _registration

from taco.exporters import operators
from taco.exporters.graph import export_proto
from taco.exporters.operators import remembered_operators
from taco.exporters.protocol import Compressed


def exported() -> bytes:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    return export_proto(Compressed(net, (3, 8, 8))).SerializeToString(deterministic=True)


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often torch had to make the list."""
    real, times = _registration.onnxscript_apis.get_torchlib_ops, list[int]()

    class Counting:
        def get_torchlib_ops(self) -> Any:
            times.append(1)
            return real()

        def __getattr__(self, name: str) -> Any:
            return getattr(inside, name)

    inside = _registration.onnxscript_apis
    monkeypatch.setattr(_registration, "onnxscript_apis", Counting())
    return times


def test_the_list_is_made_once_and_graphs_stay_the_same(listed: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    remembered = [exported() for _ in range(2)]
    assert len(listed) == 1
    monkeypatch.setattr(operators, "_remembering", lambda real: real)
    assert exported() == remembered[0] == remembered[1]
    assert len(listed) == 2


def test_torch_is_left_as_it_was(listed: list[int]) -> None:
    before = _registration.onnxscript_apis

    @remembered_operators()
    def interrupted() -> None:
        assert _registration.onnxscript_apis is not before
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert _registration.onnxscript_apis is before


def test_a_torch_of_other_insides_exports_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operators, "_ASKED", "no_such_name")
    operators._remembering.cache_clear()
    try:
        assert exported()
    finally:
        operators._remembering.cache_clear()
