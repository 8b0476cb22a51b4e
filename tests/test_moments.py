"""Sums of unfolded inputs: precision, merging, symmetry, and the memory that they are said to take."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from taco.errors import SolverError
from taco.moments.sums import STRIPE, LayerMoments, Moments, Sums


def rows_of(groups: int, n: int, cols: int, mean: float = 0.0) -> torch.Tensor:
    return torch.randn(groups, n, cols, generator=torch.Generator().manual_seed(n)) + mean


def exact(rows: torch.Tensor) -> Moments:
    rows = rows.double()
    return Moments(rows.transpose(1, 2) @ rows / rows.shape[1], rows.mean(1), rows.shape[1])


def summed(rows: torch.Tensor, *sizes: int) -> Moments:
    sums = Sums()
    sums.start(rows[:, : sizes[0]].mean(1))
    assert sums.origin is not None
    for part in rows.split(sizes, 1):
        sums.add(part - sums.origin[:, None])
    return sums.finish("layer")


def relative_error(found: Moments, expected: Moments) -> float:
    """The largest error of an entry of the covariance over the two standard deviations that bound it."""
    cov = expected.centred_H
    deviation = cov.diagonal(dim1=1, dim2=2).sqrt()
    error = (found.centred_H - cov).abs() / (deviation[:, :, None] * deviation[:, None, :])
    return float(error.max())


@pytest.mark.parametrize("mean", [0.0, 3.0, 100.0])
@pytest.mark.parametrize("n", [64, 4096, 40_000])
def test_float32_products_are_within_a_hundred_thousandth_of_float64(n: int, mean: float) -> None:
    # A float32 product of n terms errs by about sqrt(n) * 6e-8 of the bound, at most 4e-6 for a product of 4,096 terms;
    # sums over products are float64 and add nothing. Inputs with a mean of 100 are themselves rounded to 4e-6.
    rows = rows_of(2, n, 17, mean)
    sizes = [4096] * (n // 4096) + ([n % 4096] if n % 4096 else [])
    assert relative_error(summed(rows, *sizes), exact(rows)) < 1e-5


def test_more_columns_than_one_stripe_come_out_whole_and_symmetric() -> None:
    rows = rows_of(1, 50, STRIPE + 60)
    found = summed(rows, 30, 20)
    assert torch.equal(found.second, found.second.transpose(1, 2))
    torch.testing.assert_close(found.second, exact(rows).second, rtol=1e-5, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(1, 6), st.lists(st.integers(1, 9), min_size=2, max_size=5))
def test_merging_parts_in_any_order_gives_the_whole(groups: int, cols: int, sizes: list[int]) -> None:
    rows = rows_of(groups, sum(sizes), cols, 2.0)
    whole = exact(rows)
    parts = [exact(part) for part in rows.split(sizes, 1)]
    for order in (parts, parts[::-1]):
        merged = order[0]
        for part in order[1:]:
            merged = Moments.merge(merged, part)
        assert merged.n == whole.n
        torch.testing.assert_close(merged.second, whole.second, rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(merged.mean, whole.mean, rtol=1e-13, atol=1e-13)


def test_what_was_passed_over_is_stated_and_merged() -> None:
    one, two = exact(rows_of(1, 4, 2)), dataclasses.replace(exact(rows_of(1, 6, 2)), passed_over=14)
    assert not one.subsampled
    assert one.positions_seen == 4
    merged = LayerMoments(one, two).all
    assert merged.subsampled
    assert (merged.n, merged.passed_over, merged.positions_seen) == (10, 14, 24)


def test_without_halves_all_is_what_was_fitted() -> None:
    one = exact(rows_of(1, 4, 2))
    assert LayerMoments(one, None).all is one


def test_the_stated_size_is_that_of_the_tensors() -> None:
    found = summed(rows_of(3, 8, 5), 8)
    assert Sums.size_bytes(3, 5) == sum(t.numel() * t.element_size() for t in (found.second, found.mean))


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1e30])
def test_inputs_that_overflow_name_the_layer(value: float) -> None:
    rows = rows_of(1, 4, 3)
    rows[0, 1, 2] = value
    with pytest.raises(SolverError, match="inputs of layer are not finite"):
        summed(rows, 4)
