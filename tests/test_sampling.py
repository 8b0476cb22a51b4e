"""Which positions are looked at: different ones, each as likely as any other, and always the same for one picture."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from taco.moments.sampling import draw_positions, keys_of


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 300), st.integers(0, 2**31), st.lists(st.integers(0, 2**32 - 1), max_size=4))
def test_positions_are_different_and_within_the_picture(count: int, more: int, seed: int, keys: list[int]) -> None:
    total = count + more
    drawn = draw_positions(total, count, keys, seed)
    assert drawn.shape == (len(keys), count)
    assert drawn.dtype == torch.int64
    for row in drawn.tolist():
        assert len(set(row)) == count
        assert 0 <= min(row) <= max(row) < total
        assert row == sorted(row)


def test_a_draw_depends_on_the_seed_and_the_picture_only() -> None:
    one, two = draw_positions(100, 9, [5, 6], 0)
    assert torch.equal(draw_positions(100, 9, [6], 0)[0], two)
    assert torch.equal(draw_positions(100, 9, [7, 5], 0)[1], one)
    assert not torch.equal(one, two)
    assert not torch.equal(draw_positions(100, 9, [5], 1)[0], one)


@pytest.mark.parametrize(("total", "count"), [(10, 7), (49, 16), (64, 8)])
def test_every_position_is_as_likely_as_any_other(total: int, count: int) -> None:
    pictures = 2_000
    often = np.bincount(draw_positions(total, count, list(range(pictures)), 3).flatten().numpy(), minlength=total)
    expected = pictures * count / total
    assert np.abs(often - expected).max() < 5 * np.sqrt(expected)  # five standard deviations at the most


def test_neighbours_are_not_taken_together_more_than_the_cut_allows() -> None:
    drawn = draw_positions(1000, 10, list(range(50)), 0)
    for row in drawn.tolist():
        around = [*row, row[0] + 1000]  # the stretches are 100 wide and turned: no gap exceeds two of them
        assert max(b - a for a, b in itertools.pairwise(around)) < 200


def test_the_same_pixels_have_the_same_key_wherever_they_lie() -> None:
    x = torch.randn(4, 3, 5, 5)
    keys = keys_of(x)
    assert len(set(keys)) == 4
    assert keys_of(x[2:]) == keys[2:]
    assert keys_of(x.contiguous(memory_format=torch.channels_last)) == keys
    assert keys_of(x.flip(0)) == keys[::-1]
