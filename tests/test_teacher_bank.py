"""The teacher's answers, kept once: what is stored, how exactly, and in which file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from taco.device.images import Preprocessing
from taco.errors import TaskError
from taco.recovery.taps import LAST, answer
from taco.recovery.teacher_bank import UNLABELLED, BankWriter, Layout, ask_teacher
from taco.recovery.views import as_inputs

SIZE = Preprocessing((3, 24, 32), "bicubic", (0.5, 0.4, 0.3), (0.2, 0.25, 0.5), 0.9, "center")


class Teacher(nn.Module):
    """timm's two halves, with one named block."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 6, 5, 4)
        self.block = nn.Conv2d(6, 6, 1)
        self.head = nn.Linear(6, 4)
        self.gain = gain

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(self.gain * self.stem(x))

    def forward_head(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x.mean((2, 3)))


def pixels(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 24, 32, 3), np.uint8)


def test_the_bank_holds_the_teachers_own_answers() -> None:
    teacher, views = Teacher().eval(), pixels(70)  # more than two batches
    bank = ask_teacher(teacher, views, SIZE, ends=["block", "stem"], labels=np.arange(70) % 4)
    with torch.no_grad():
        found = answer(teacher, as_inputs(views, SIZE), ["block", "stem"])
    assert set(bank.features) == {"block", "stem", LAST}
    np.testing.assert_allclose(bank.logits, found.logits.numpy(), rtol=1e-4, atol=1e-5)
    for name, targets in bank.features.items():
        restored = targets.values.astype(np.float32) * targets.scale[:, None, None, None]
        np.testing.assert_allclose(restored, found.features[name].numpy(), rtol=2e-3, atol=2e-3)
    assert (len(bank), bank.labels[5]) == (70, 1)
    np.testing.assert_array_equal(bank.pixels, views)


@pytest.mark.parametrize("gain", [1e-8, 1.0, 1e9])
def test_no_feature_is_too_large_or_too_small_for_the_bank(gain: float) -> None:
    bank = ask_teacher(Teacher(gain).eval(), pixels(3), SIZE, ends=["stem"])
    for targets in bank.features.values():
        values = targets.values.astype(np.float64)
        assert np.isfinite(values).all()
        np.testing.assert_allclose(np.square(values).reshape(3, -1).mean(1), 1.0, rtol=1e-2)


def test_a_bank_in_a_file_is_the_same_bank(tmp_path: Path) -> None:
    teacher, views = Teacher().eval(), pixels(40)
    in_memory = ask_teacher(teacher, views, SIZE, ends=["block"])
    layout = Layout.of(teacher, SIZE.input_size, ["block"], 40)
    writer = BankWriter(teacher, layout, SIZE, tmp_path / "bank")
    told: list[int] = []
    writer.add(views[:33], np.full(33, UNLABELLED, np.int64), told.append)
    writer.add(views[33:], np.full(7, UNLABELLED, np.int64), told.append)
    assert told == [32, 1, 7]
    del writer
    facts = json.loads(json.dumps(dataclasses.asdict(layout)))
    opened = Layout.from_json(facts).open(tmp_path / "bank", SIZE)
    np.testing.assert_array_equal(opened.pixels, views)
    np.testing.assert_allclose(opened.logits, in_memory.logits, rtol=1e-5, atol=1e-6)
    for name, targets in in_memory.features.items():
        np.testing.assert_allclose(opened.features[name].values, targets.values, rtol=2e-3, atol=2e-3)
    assert opened.size_bytes == 40 * layout.view_bytes
    assert abs((tmp_path / "bank").stat().st_size - opened.size_bytes) < 64 * 8
    with pytest.raises(ValueError, match="read-only"):
        opened.pixels[0] = 0
    index = np.array([2, 0])
    assert torch.equal(opened.inputs(index), as_inputs(views[index], SIZE))


def test_a_disk_without_room_is_said_before_anything_is_asked(tmp_path: Path) -> None:
    layout = Layout.of(Teacher().eval(), SIZE.input_size, [], 1 << 50)
    with pytest.raises(TaskError, match=r"the teacher's answers need \d+ MiB in .*: .+\. Free some space"):
        layout.allocate(tmp_path / "bank", SIZE)
    assert not list(tmp_path.iterdir())


def test_no_picture_is_an_error_with_advice() -> None:
    with pytest.raises(TaskError, match=r"no picture to ask the teacher about\. Give more"):
        ask_teacher(Teacher(), pixels(0), SIZE)
