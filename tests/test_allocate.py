"""Widths for a budget: what is chosen, how often it is measured, and what an impossible budget is told."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taco.allocate import MARGIN, Allocation, by_macs, by_speedup, candidates, uniform
from taco.errors import BudgetInfeasibleError

DENSE = {"a": 96, "b": 144, "c": 20}


class Counted:
    """Calls a function of an allocation and notes every call."""

    def __init__(self, function: Callable[[Allocation], float]) -> None:
        self.function = function
        self.calls: list[float] = []

    def __call__(self, allocation: Allocation) -> float:
        self.calls.append(allocation.ratio)
        return self.function(allocation)

    @property
    def most(self) -> int:
        return max(Counter(self.calls).values(), default=0)


def ladder(values: list[float]) -> tuple[list[Allocation], Counted]:
    """Options with made-up figures: option i has values[i]."""
    options = [Allocation(1 - i / len(values), {"a": 100 - i}) for i in range(len(values))]
    by_ratio = {option.ratio: value for option, value in zip(options, values, strict=True)}
    return options, Counted(lambda allocation: by_ratio[allocation.ratio])


def suggested(error: BudgetInfeasibleError, flag: str) -> float:
    found = re.search(rf"Ask for {flag} ([0-9.]+[0-9])", error.todo)
    assert found is not None
    return float(found.group(1))


# --- widths ----------------------------------------------------------------------------------------------------------


def test_widths_by_hand() -> None:
    assert uniform(DENSE, 0.5, dict.fromkeys(DENSE, 8)).widths == {"a": 48, "b": 72, "c": 8}
    assert uniform(DENSE, 0.9, dict.fromkeys(DENSE, 8)).widths == {"a": 88, "b": 128, "c": 16}
    assert uniform(DENSE, 0.01, dict.fromkeys(DENSE, 8)).widths == {"a": 8, "b": 8, "c": 8}
    assert uniform({"thin": 3}, 0.5, dict.fromkeys({"thin": 3}, 8)).widths == {"thin": 3}
    assert uniform(DENSE, 1.0, dict.fromkeys(DENSE, 32)).widths == DENSE


@settings(deadline=None)
@given(
    st.dictionaries(st.text(min_size=1, max_size=3), st.integers(1, 500), min_size=1),
    st.sampled_from((1, 2, 4, 8, 16, 32)),
    st.floats(0.001, 1.2),
    st.floats(0.001, 1.2),
)
def test_widths_are_multiples_inside_the_dense_ones_and_grow_with_the_ratio(
    dense: dict[str, int], multiple: int, one: float, other: float
) -> None:
    narrow, wide = (uniform(dense, ratio, dict.fromkeys(dense, multiple)).widths for ratio in sorted((one, other)))
    for name, width in dense.items():
        assert 1 <= narrow[name] <= wide[name] <= width
        assert narrow[name] % multiple == 0 or narrow[name] == width


def test_candidates_go_from_the_dense_model_to_one_multiple_without_repetition() -> None:
    found = candidates(DENSE, dict.fromkeys(DENSE, 8))
    assert found[0] == Allocation(1.0, DENSE)
    assert found[-1].widths == {"a": 8, "b": 8, "c": 8}
    assert len({tuple(a.widths.items()) for a in found}) == len(found)
    assert [a.ratio for a in found] == sorted((a.ratio for a in found), reverse=True)


def test_where_nothing_can_be_cut_the_dense_model_is_the_only_candidate() -> None:
    assert candidates({}, dict.fromkeys({}, 8)) == [Allocation(1.0, {})]
    assert candidates({"thin": 4}, dict.fromkeys({"thin": 4}, 8)) == [Allocation(1.0, {"thin": 4})]


# --- by multiply-accumulates -----------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=40, unique=True), st.floats(0.01, 1))
def test_macs_choose_the_widest_that_fits_and_count_each_once(values: list[int], share: float) -> None:
    values = sorted(values, reverse=True)
    options, macs = ladder([float(v) for v in values])
    fits = [i for i, value in enumerate(values) if value / values[0] <= share]
    if fits:
        assert by_macs(options, share, macs) == options[fits[0]]  # type: ignore[arg-type]
    else:
        with pytest.raises(BudgetInfeasibleError) as caught:
            by_macs(options, share, macs)  # type: ignore[arg-type]
        reachable = suggested(caught.value, "--macs")
        assert by_macs(options, reachable, macs.function) in options  # type: ignore[arg-type]
        assert reachable <= values[-1] / values[0] + 0.0101
    assert macs.most == 1


def test_all_macs_kept_is_the_dense_model() -> None:
    options, macs = ladder([100, 80, 60])
    assert by_macs(options, 1.0, macs) is options[0]  # type: ignore[arg-type]


def test_a_share_that_is_reached_exactly_counts() -> None:
    options, macs = ladder([100, 29])  # 0.29 * 100 is 28.999999999999996
    assert by_macs(options, 0.29, macs) is options[1]  # type: ignore[arg-type]


def test_too_few_macs_are_told_the_least() -> None:
    options, macs = ladder([1000, 700, 412])
    with pytest.raises(BudgetInfeasibleError, match=r"narrowest model keeps 0\.412 of the MACs\. Ask for --macs 0\.42"):
        by_macs(options, 0.3, macs)  # type: ignore[arg-type]


# --- by measured speed-up --------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.floats(0.5, 8), min_size=2, max_size=40), st.floats(1.01, 6))
def test_speed_chooses_the_widest_that_is_fast_enough(values: list[float], asked: float) -> None:
    values = [1.0, *sorted(values)]
    options, measure = ladder(values)
    enough = [i for i, value in enumerate(values) if i and value >= asked * MARGIN]
    if enough:
        assert by_speedup(options, asked, measure) is options[enough[0]]
    else:
        with pytest.raises(BudgetInfeasibleError) as caught:
            by_speedup(options, asked, measure)
        reachable = suggested(caught.value, "--speedup")
        assert reachable == 1.0 or reachable * MARGIN <= values[-1] * (1 + 1e-9)
        assert reachable <= asked
    assert measure.most <= 1
    assert len(measure.calls) <= 6  # ceil(log2(41))
    assert 1.0 not in measure.calls  # the dense model is not measured against itself


@settings(deadline=None)
@given(st.lists(st.floats(0.5, 4), min_size=1, max_size=40), st.floats(1.01, 3))
def test_noise_never_ends_in_a_model_that_was_not_measured_fast_enough(values: list[float], asked: float) -> None:
    options, measure = ladder([1.0, *values])
    try:
        chosen = by_speedup(options, asked, measure)
    except BudgetInfeasibleError as error:
        best = max(measure.function(option) for option in options if option.ratio in measure.calls)
        assert best < asked * MARGIN
        assert f"is {best:.2f} times as fast" in error.what  # noqa: PT017
    else:
        assert chosen.ratio in measure.calls
        assert measure.function(chosen) >= asked * MARGIN
    assert measure.most <= 1


def test_an_impossible_speed_up_is_told_what_can_be_reached() -> None:
    options, measure = ladder([1.0, 1.1, 1.4, 1.62])
    message = r"speed-up of 3 cannot .* \(every inner width at 25%\) is 1\.62 times .*Ask for --speedup 1\.5 or less"
    with pytest.raises(BudgetInfeasibleError, match=message) as caught:
        by_speedup(options, 3, measure)
    assert caught.value.exit_code == 3


def test_with_noise_the_fastest_is_named_not_the_narrowest() -> None:
    options, measure = ladder([1.0, 1.2, 1.9, 1.7, 1.6])
    with pytest.raises(BudgetInfeasibleError, match=r"at 60%\) is 1\.90 times as fast"):
        by_speedup(options, 2, measure)


def test_no_speed_up_asked_measures_nothing() -> None:
    options, measure = ladder([1.0, 1.5])
    assert by_speedup(options, 1.0, measure) is options[0]
    assert measure.calls == []


def test_a_model_without_anything_to_cut_says_so() -> None:
    options, measure = ladder([1.0])
    with pytest.raises(BudgetInfeasibleError, match="there is nothing to cut"):
        by_speedup(options, 1.5, measure)
    assert measure.calls == []
