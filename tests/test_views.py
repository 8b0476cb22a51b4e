"""Augmented views and the teacher's answers to them."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from taco.device.images import Preprocessing
from taco.errors import TaskError
from taco.views import as_inputs, ask_teacher, augmented_views, autocast, has_bfloat16, outputs

SIZE = Preprocessing((3, 24, 32), "bicubic", (0.5, 0.4, 0.3), (0.2, 0.25, 0.5), 0.9, "center")


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


class Teacher(nn.Module):
    """timm's two halves."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 6, 5, 4)
        self.head = nn.Linear(6, 4)
        self.gain = gain

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        return self.gain * self.stem(x)

    def forward_head(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x.mean((2, 3)))


def test_views_have_the_models_size_and_come_picture_by_picture() -> None:
    flat = [np.full((40, 50, 3), value, np.uint8) for value in (10, 200)]
    views = augmented_views(flat, 3, SIZE, seed=0)
    assert views.shape == (6, 24, 32, 3)
    assert views.dtype == np.uint8
    assert (views[:3] == 10).all()
    assert (views[3:] == 200).all()


def test_a_seed_gives_the_same_views_and_another_seed_others() -> None:
    pictures = [picture(40, 50), picture(60, 30, 1)]
    one, two, other = (augmented_views(pictures, 2, SIZE, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    assert (one != other).any()
    assert (one[0] != one[1]).any()  # two views of one picture differ


def test_about_half_of_the_views_are_mirrored() -> None:
    ramp = np.repeat(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], 48, 0).repeat(3, 2)
    views = augmented_views([ramp], 60, SIZE, seed=0).astype(int)
    mirrored = (views[:, 12, 0, 0] > views[:, 12, -1, 0]).sum()
    assert 15 <= mirrored <= 45


def test_the_interpolation_is_the_models() -> None:
    pictures = [picture(100, 100)]
    bilinear = SIZE._replace(interpolation="bilinear")
    one, other = (augmented_views(pictures, 1, p, 0).astype(int) for p in (SIZE, bilinear))
    assert 0 < np.abs(one - other).mean() < 40  # the same crop, sharper


def test_pictures_smaller_than_the_input_and_read_only_ones_work() -> None:
    tiny = picture(3, 2)
    tiny.flags.writeable = False
    assert augmented_views([tiny, picture(300, 7)], 2, SIZE, 0).shape == (4, 24, 32, 3)


def test_global_random_states_are_untouched() -> None:
    teacher = Teacher()
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    augmented_views([picture(40, 50)], 2, SIZE, seed=9)
    ask_teacher(teacher, augmented_views([picture(40, 50)], 1, SIZE, 0), SIZE)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    np.testing.assert_array_equal(np.random.get_state()[1], before[2])


def test_inputs_are_normalised_and_channels_last() -> None:
    pixels = picture(24, 32)[None]
    x = as_inputs(pixels, SIZE)
    expected = (pixels[0, 5, 6] / 255.0 - np.array(SIZE.mean)) / np.array(SIZE.std)
    np.testing.assert_allclose(x[0, :, 5, 6].numpy(), expected, rtol=1e-5)
    assert x.dtype == torch.float32
    assert x.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("exact", "tolerance"), [(True, 1e-3), (False, 2e-2)], ids=["float32", "fast"])
def test_the_bank_holds_the_teachers_own_answers(exact: bool, tolerance: float) -> None:
    teacher = Teacher().eval()
    pixels = np.stack([picture(24, 32, seed) for seed in range(70)])  # more than two batches
    done: list[int] = []
    bank = ask_teacher(teacher, pixels, SIZE, exact=exact, progress=done.append)
    assert done == [32, 32, 6]
    with torch.no_grad():
        features, logits = outputs(teacher, as_inputs(pixels, SIZE))
    assert (bank.features.float() - features).norm() <= tolerance * features.norm()
    assert (bank.logits - logits).norm() <= tolerance * logits.norm()
    assert bank.features.dtype == torch.float16
    assert bank.logits.dtype == torch.float32
    assert not bank.logits.requires_grad


def test_the_bank_hands_out_views_by_index() -> None:
    pixels = np.stack([picture(24, 32, seed) for seed in range(4)])
    bank = ask_teacher(Teacher(), pixels, SIZE)
    index = np.array([2, 0])
    assert torch.equal(bank.inputs(index), as_inputs(pixels[index], SIZE))


def test_features_beyond_float16_are_kept() -> None:
    pixels = picture(24, 32)[None]
    bank = ask_teacher(Teacher(gain=1e6), pixels, SIZE, exact=True)
    assert bank.features.dtype == torch.float32
    assert bank.features.isfinite().all()
    assert bank.features.abs().max() > 65504


def test_no_picture_is_an_error_with_advice() -> None:
    with pytest.raises(TaskError, match=r"no picture to ask the teacher about\. Give more"):
        ask_teacher(Teacher(), np.empty((0, 24, 32, 3), np.uint8), SIZE)


def test_autocast_is_off_where_asked_or_not_native() -> None:
    with autocast(enabled=False):
        assert not torch.is_autocast_enabled("cpu")
    with autocast():
        assert torch.is_autocast_enabled("cpu") == has_bfloat16()


def test_the_processor_decides_on_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported", "_is_arm_bf16_supported")
    for name in names:
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    assert not has_bfloat16()
    for name in names:
        with monkeypatch.context() as patch:
            patch.setattr(torch.cpu, name, lambda: True, raising=False)
            assert has_bfloat16()
