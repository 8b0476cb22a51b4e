"""Where torch computes: chosen once, told when it cannot be had."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from taco.compute import CPU, choose_device, device_of, moved, name_of
from taco.errors import InputError, MeasurementError
from taco.options import make_options


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    def seen(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return seen


@pytest.mark.parametrize(
    ("asked", "count", "chosen"),
    [("auto", 0, "cpu"), ("auto", 2, "cuda:0"), ("cpu", 2, "cpu"), ("cuda", 1, "cuda:0"), ("cuda:1", 2, "cuda:1")],
)
def test_a_gpu_is_taken_where_torch_sees_one(
    asked: str, count: int, chosen: str, gpus: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", torch.backends.cudnn.allow_tf32)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", torch.backends.cudnn.deterministic)
    gpus(count)
    assert choose_device(asked) == torch.device(chosen)
    assert torch.backends.cudnn.deterministic == (chosen != "cpu")


@pytest.mark.parametrize(("asked", "count", "told"), [("cuda", 0, "sees none"), ("cuda:2", 2, "sees 2 of them")])
def test_a_gpu_that_is_not_there_is_never_replaced(
    asked: str, count: int, told: str, gpus: Callable[[int], None]
) -> None:
    gpus(count)
    with pytest.raises(MeasurementError, match=told) as caught:
        choose_device(asked)
    assert "--compute cpu" in caught.value.todo


@pytest.mark.parametrize("asked", ["gpu", "cuda:", "cuda:a", "mps", ""])
def test_other_words_are_refused(asked: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--compute"):
        make_options({"task": tmp_path, "target": "host-cpu", "out": tmp_path / "out", "compute": asked})


def test_a_model_stays_where_it_lies() -> None:
    model = nn.Linear(2, 2)
    assert moved(model, CPU) is model
    assert device_of(model) == device_of(nn.Identity()) == CPU
    elsewhere = moved(model, torch.device("meta"))
    assert device_of(elsewhere).type == "meta"
    assert device_of(model) == CPU
    assert name_of(CPU) == "this processor"
