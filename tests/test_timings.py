"""Tests of `taco.timing.timings`, against hand-computed values."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taco.errors import InputError
from taco.timing.timings import BenchResult, ModelTiming, median_ratio

RATIOS = st.lists(st.floats(0.1, 10), min_size=1, max_size=60)


def timing(*rounds):
    return ModelTiming(tuple(map(tuple, rounds)), "CPUExecutionProvider", "onnxruntime", "1.20", 9.0, {})


def result(**models):
    return BenchResult(models, threads=1, rounds=2, stopped_early=False, measured_on={})


def test_percentiles_are_over_all_samples():
    one = timing([4.0, 1.0], [3.0, 2.0, 5.0])
    assert one.samples_ms == (4.0, 1.0, 3.0, 2.0, 5.0)
    assert (one.n, one.min_ms, one.p50_ms) == (5, 1.0, 3.0)
    assert one.p90_ms == pytest.approx(4.6)
    assert one.p99_ms == pytest.approx(4.96)


def test_a_model_takes_what_its_rounds_say_beside_the_reference():
    """The machine was fast in two of five rounds, and after the dense model of the fourth: that moves one p50 alone."""
    dense = timing([2.0], [2.6], [2.6], [2.6], [2.0])
    found = result(dense=dense, small=timing([1.0], [1.3], [1.3], [1.0], [1.0]))
    assert found.models["small"].p50_ms == 1.0
    assert found.steady_ms("small", "dense") == pytest.approx(1.3)
    assert found.steady_ms("dense", "dense") == dense.p50_ms


def test_speedup_is_the_median_of_the_rounds_ratios_not_the_ratio_of_medians():
    slow = timing([10.0], [20.0], [60.0])
    fast = timing([5.0], [4.0], [20.0])
    ratio = result(dense=slow, other=fast).speedup("dense", "other")
    assert ratio.rounds == (2.0, 5.0, 3.0)
    assert ratio.value == 3.0
    assert slow.p50_ms / fast.p50_ms == 4.0


def test_an_outlier_within_a_round_does_not_move_its_ratio():
    ratio = result(dense=timing([4.0, 4.0, 400.0]), other=timing([2.0, 2.0, 2.0])).speedup("dense", "other")
    assert ratio.value == 2.0


def test_a_machine_that_slows_down_for_both_keeps_the_ratio():
    base = [1.0, 1.5, 3.0, 1.2, 1.0, 2.0]
    both = result(dense=timing(*[[2 * x] for x in base]), other=timing(*[[x] for x in base]))
    ratio = both.speedup("dense", "other")
    assert (ratio.value, ratio.low, ratio.high) == (2.0, 2.0, 2.0)


def test_a_model_against_itself_is_one():
    assert result(dense=timing([3.0], [4.0])).speedup("dense", "dense").value == 1.0


def test_a_name_that_was_not_measured_is_an_error():
    with pytest.raises(InputError, match=r"'int8' was not measured\. Measured are: 'dense'"):
        result(dense=timing([1.0])).speedup("dense", "int8")


# k and coverage by the binomial table: n=6: 1 - 2/64; n=9: k=2, 1 - 2*10/512; n=25: k=8, 1 - 2*726206/2**25
@pytest.mark.parametrize(
    ("n", "low", "high", "coverage"),
    [(1, 1, 1, 0.0), (2, 1, 2, 0.5), (5, 1, 5, 0.9375), (6, 1, 6, 0.96875), (9, 2, 8, 0.9609375), (25, 8, 18, 0.95671)],
)
def test_the_interval_is_the_order_statistic_one(n, low, high, coverage):
    ratio = median_ratio([float(i) for i in range(n, 0, -1)])
    assert (ratio.low, ratio.high) == (low, high)
    assert ratio.coverage == pytest.approx(coverage, abs=1e-5)


@given(RATIOS)
def test_the_interval_holds_the_median_and_says_what_it_covers(ratios):
    ratio = median_ratio(ratios)
    assert min(ratios) <= ratio.low <= ratio.value <= ratio.high <= max(ratios)
    assert (ratio.coverage >= 0.95) == (len(ratios) >= 6)
    assert ratio.rounds == tuple(ratios)


@given(RATIOS, st.randoms(use_true_random=False))
def test_the_order_of_rounds_does_not_matter(ratios, random):
    shuffled = list(ratios)
    random.shuffle(shuffled)
    one, other = median_ratio(ratios), median_ratio(shuffled)
    assert (one.value, one.low, one.high) == (other.value, other.low, other.high)
