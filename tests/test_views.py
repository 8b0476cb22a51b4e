"""Augmented views."""

from __future__ import annotations

import random

import numpy as np
import torch

from taco.device.images import Preprocessing
from taco.recovery.views import as_inputs, augmented_views

SIZE = Preprocessing((3, 24, 32), "bicubic", (0.5, 0.4, 0.3), (0.2, 0.25, 0.5), 0.9, "center")


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def test_views_have_the_models_size_and_come_picture_by_picture() -> None:
    flat = [np.full((40, 50, 3), value, np.uint8) for value in (10, 200)]
    views = augmented_views(flat, [3, 3], SIZE, seed=0)
    assert views.shape == (6, 24, 32, 3)
    assert views.dtype == np.uint8
    assert (views[:3] == 10).all()
    assert (views[3:] == 200).all()


def test_a_seed_gives_the_same_views_and_another_seed_others() -> None:
    pictures = [picture(40, 50), picture(60, 30, 1)]
    one, two, other = (augmented_views(pictures, [2, 2], SIZE, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    assert (one != other).any()
    assert (one[0] != one[1]).any()  # two views of one picture differ


def test_about_half_of_the_views_are_mirrored() -> None:
    ramp = np.repeat(np.linspace(0, 255, 64).astype(np.uint8)[None, :, None], 48, 0).repeat(3, 2)
    views = augmented_views([ramp], [60], SIZE, seed=0).astype(int)
    mirrored = (views[:, 12, 0, 0] > views[:, 12, -1, 0]).sum()
    assert 15 <= mirrored <= 45


def test_the_interpolation_is_the_models() -> None:
    pictures = [picture(100, 100)]
    bilinear = SIZE._replace(interpolation="bilinear")
    one, other = (augmented_views(pictures, [1], p, 0).astype(int) for p in (SIZE, bilinear))
    assert 0 < np.abs(one - other).mean() < 40  # the same crop, sharper


def test_pictures_smaller_than_the_input_and_read_only_ones_work() -> None:
    tiny = picture(3, 2)
    tiny.flags.writeable = False
    assert augmented_views([tiny, picture(300, 7)], [2, 2], SIZE, 0).shape == (4, 24, 32, 3)


def test_global_random_states_are_untouched() -> None:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    augmented_views([picture(40, 50)], [2], SIZE, seed=9)
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


def test_what_is_drawn_of_a_picture_depends_on_its_number_alone() -> None:
    pictures = [picture(40, 50), picture(60, 30, 1), picture(50, 50, 2)]
    together = augmented_views(pictures, [2, 1, 3], SIZE, 7)
    assert together.shape[0] == 6
    np.testing.assert_array_equal(augmented_views(pictures[2:], [3], SIZE, 7, [2]), together[3:])
    np.testing.assert_array_equal(augmented_views(pictures[1:2], [1], SIZE, 7, [1]), together[2:3])
    assert (augmented_views(pictures[2:], [3], SIZE, 7, [1]) != together[3:]).any()
