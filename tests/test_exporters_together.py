"""Modules exported at once give the graphs that they give one by one, and what cannot be told apart goes alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import onnx.numpy_helper
import onnxruntime
import pytest
import torch
from torch import nn

from taco.errors import GateError
from taco.exporters import together
from taco.exporters.graph import export_proto
from taco.exporters.protocol import Compressed
from taco.exporters.resize import Sized, resized
from taco.exporters.together import export_protos

PICTURE, TOKENS = (3, 8, 8), (5, 8)


def convolutions(width: int = 8) -> Compressed:
    torch.manual_seed(width)
    layers = (nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU6(), nn.Conv2d(width, 4, 1))
    return Compressed(nn.Sequential(*layers).eval(), PICTURE)


def tokens() -> Compressed:
    torch.manual_seed(0)
    return Compressed(nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)).eval(), TOKENS)


class Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (n, 3, h, w)."""
        return x + self.inner(x)


class Undecided(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map anything, one way or another."""
        return x + 1 if x.sum() > 0 else x * 2


def answers(proto: onnx.ModelProto, reads: Sequence[int]) -> np.ndarray:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    given = np.random.default_rng(1).standard_normal((1, *reads)).astype(np.float32)
    (found,) = session.run(["logits"], {"input": given})
    return np.asarray(found)


def structure(proto: onnx.ModelProto) -> list[object]:
    """Everything but names: operators, attributes, which value goes where, weights."""
    numbers = {"": -1}
    weights = {i.name: onnx.numpy_helper.to_array(i) for i in proto.graph.initializer}
    told: list[object] = []
    for node in proto.graph.node:
        told.append((node.op_type, sorted(a.SerializeToString() for a in node.attribute)))
        for name in (*node.input, *node.output):
            if name not in numbers and name in weights:
                told.append((weights[name].shape, weights[name].tobytes()))
            told.append(numbers.setdefault(name, len(numbers)))
    return told


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many modules each call of torch was given."""
    real, seen = together.program_proto, list[int]()

    def counted(module: nn.Module, examples: tuple[object, ...], *rest: object) -> onnx.ModelProto:
        seen.append(len(module.each) if isinstance(module, together._Together) else 1)
        return real(module, examples, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(together, "program_proto", counted)
    return seen


def test_each_graph_is_the_one_that_its_module_gives_alone(calls: list[int]) -> None:
    shared = convolutions().module
    models = [
        convolutions(), tokens(), convolutions(5), tokens(),
        Compressed(shared, PICTURE), Compressed(nn.Sequential(shared, nn.ReLU()).eval(), PICTURE),
        Compressed(Residual(nn.Conv2d(3, 3, 1)).eval(), PICTURE),
    ]  # fmt: skip
    found = export_protos(models)
    assert calls == [len(models)]
    for proto, model in zip(found, models, strict=True):
        alone = export_proto(model)
        assert structure(proto) == structure(alone)
        assert np.array_equal(answers(proto, model.input_size), answers(alone, model.input_size))
        assert [value.name for value in (*proto.graph.input, *proto.graph.output)] == ["input", "logits"]
        assert len({node.name for node in proto.graph.node}) == len(proto.graph.node)


def test_two_widths_exported_at_once_are_cut_to_size_in_between() -> None:
    wide, narrow = export_protos([convolutions(8), convolutions(2)])
    between = resized(Sized(wide, 8), Sized(narrow, 2), 6)
    shapes = {tuple(tensor.dims) for tensor in between.graph.initializer if len(tensor.dims) == 4}
    assert shapes == {(6, 3, 3, 3), (4, 6, 1, 1)}
    assert answers(between, PICTURE).shape == (1, 4, 8, 8)


def test_a_module_that_torch_cannot_export_is_named(calls: list[int]) -> None:
    with pytest.raises(GateError, match="torch cannot export Undecided"):
        export_protos([convolutions(), Compressed(Undecided(), PICTURE)])
    assert calls == [2]


@pytest.mark.parametrize("make", [nn.Identity, lambda: nn.Sequential(nn.Identity())], ids=["nothing", "nothing inside"])
def test_a_module_that_changes_nothing_is_exported_too(make: Callable[[], nn.Module]) -> None:
    found = export_protos([Compressed(make().eval(), PICTURE), convolutions()])
    given = np.random.default_rng(1).standard_normal((1, *PICTURE)).astype(np.float32)
    assert np.array_equal(answers(found[0], PICTURE), given)
    assert answers(found[1], PICTURE).shape == (1, 4, 8, 8)


def test_a_call_has_so_many_modules_and_so_large_ones_at_most(
    calls: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(together, "MOST", 2)
    assert len(export_protos([convolutions(n) for n in (2, 3, 4)])) == 3
    assert calls == [2], "the last one is alone, and goes the usual way"
    calls.clear()
    monkeypatch.setattr(together, "_MOST_BYTES", 1)
    assert len(export_protos([convolutions(n) for n in (2, 3)])) == 2
    assert calls == []
    assert export_protos([]) == []
