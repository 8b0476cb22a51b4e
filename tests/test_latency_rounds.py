"""The loop against made-up devices: it lands in the band, corrects a wrong table, and says what cannot be reached."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Collection, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taco.errors import BudgetInfeasibleError
from taco.latency.levels import Choice, Level
from taco.latency.limits import Space
from taco.latency.rounds import (
    AIM,
    BAND,
    MOST_ROUNDS,
    Known,
    Line,
    Round,
    Within,
    best_round,
    latency_rounds,
    least_loss,
    narrower,
)

Device = Callable[[Choice], float]


def make_options(units: int = 12, count: int = 16, exponent: float = 1.0) -> dict[str, list[Level]]:
    """Units whose time falls in `count` even steps from about 1 ms; the later ones lose more."""
    return {
        str(i): [
            Level(count - k, (k / count) ** 2 * (i + 1), (1 + i / 9) * (1 - k / count) ** exponent, "measured")
            for k in range(count)
        ]
        for i in range(units)
    }


def bent(
    scale: float, base: float, bend: float
) -> tuple[dict[str, list[Level]], float, float, Callable[[float], float]]:
    """Return options, their most and their least sum by the table, and the whole model's time at a sum."""
    options = make_options()
    total, least = (sum(levels[at].ms for levels in options.values()) for at in (0, -1))
    return options, total, least, lambda table_ms: base + scale * total * (table_ms / total) ** bend


def ran(options: dict[str, list[Level]], device: Device, speedup: float) -> tuple[list[Round], float, float]:
    dense_ms = device(Choice({name: levels[0] for name, levels in options.items()}))
    budget_ms = dense_ms / speedup
    known = Known(((sum(levels[0].ms for levels in options.values()), dense_ms),), 1.0)
    rounds = list(latency_rounds(known, budget_ms, least_loss(Space(options)), lambda c, _: device(c)))
    return rounds, budget_ms, dense_ms


@settings(max_examples=60)
@given(st.floats(0.5, 2.0), st.floats(0, 6), st.floats(0.8, 1.3), st.sampled_from([1.3, 1.5, 2.0, 3.0]))
def test_it_lands_in_the_band_whatever_the_table_is_wrong_by(
    scale: float, base: float, bend: float, speedup: float
) -> None:
    options, total, least, whole = bent(scale, base, bend)
    if whole(least) > whole(total) / speedup:
        return
    rounds, budget_ms, dense_ms = ran(options, lambda choice: whole(choice.table_ms), speedup)
    best = best_round(rounds, budget_ms, dense_ms)
    assert BAND * budget_ms <= best.measured_ms <= budget_ms
    assert len(rounds) <= MOST_ROUNDS


def test_a_true_table_needs_one_round() -> None:
    rounds, budget_ms, _ = ran(make_options(), lambda c: 1.5 + c.table_ms, 2.0)
    assert len(rounds) == 1
    assert rounds[0].predicted_ms == pytest.approx(rounds[0].measured_ms)
    assert rounds[0].measured_ms <= budget_ms


def test_every_round_predicts_better() -> None:
    rounds, budget_ms, _ = ran(make_options(), lambda c: 2.0 + 0.6 * c.table_ms, 2.0)
    errors = [abs(r.predicted_ms - r.measured_ms) / r.measured_ms for r in rounds]
    assert len(rounds) >= 2
    assert all(later < earlier for earlier, later in itertools.pairwise(errors))
    assert BAND * budget_ms <= rounds[-1].measured_ms <= budget_ms


def test_a_budget_that_the_table_calls_impossible_is_tried_all_the_same() -> None:
    options = make_options()
    floor = sum(levels[-1].ms for levels in options.values())
    rounds, budget_ms, dense_ms = ran(options, lambda c: 0.2 * (c.table_ms - floor) + 0.5, 5.0)
    assert rounds[0].choice.widths == {name: levels[-1].width for name, levels in options.items()} or len(rounds) > 1
    assert best_round(rounds, budget_ms, dense_ms).measured_ms <= budget_ms


def test_what_cannot_be_reached_is_told_the_fastest() -> None:
    rounds, budget_ms, dense_ms = ran(make_options(), lambda c: 10.0 + c.table_ms, 4.0)
    with pytest.raises(
        BudgetInfeasibleError, match=r"cannot be reached by inner widths .* is 2\.\d\d times as fast"
    ) as e:
        best_round(rounds, budget_ms, dense_ms)
    assert e.value.exit_code == 3
    with pytest.raises(BudgetInfeasibleError, match=r"the dense one \(\S+ ms\); widths 12\. Ask for"):
        best_round(rounds, budget_ms, dense_ms, lambda choice: f"widths {sum(choice.widths.values())}")
    assert "--speedup 2." in e.value.todo
    assert "--latency-ms 11." in e.value.todo
    assert len({tuple(r.choice.widths.items()) for r in rounds}) == len(rounds)


def test_nothing_is_measured_twice_where_steps_are_coarse() -> None:
    options = {"a": [Level(2, 0.0, 10.0, "measured"), Level(1, 1.0, 1.0, "measured")]}
    rounds, budget_ms, dense_ms = ran(options, lambda c: c.table_ms, 2.0)
    assert len(rounds) == 1
    assert best_round(rounds, budget_ms, dense_ms).measured_ms == 1.0  # far below the budget, and the only one


def test_without_anything_to_cut_no_round_is_made() -> None:
    options = {"a": [Level(2, 0.0, 10.0, "measured")]}
    rounds, budget_ms, dense_ms = ran(options, lambda c: c.table_ms, 2.0)
    assert rounds == []
    with pytest.raises(BudgetInfeasibleError, match=r"is 1\.00 times as fast"):
        best_round(rounds, budget_ms, dense_ms)


def test_of_several_good_rounds_the_slowest_is_taken() -> None:
    line, choice = Line(0.0, 1.0), Choice({})
    rounds = [Round(choice, 0.0, ms, line) for ms in (7.0, 11.0, 9.0, 4.0)]
    assert best_round(rounds, 10.0, 20.0).measured_ms == 9.0


@settings(max_examples=60)
@given(st.floats(0.5, 2.0), st.floats(0, 6), st.floats(0.8, 1.5), st.sampled_from([1.5, 2.0, 3.0]))
def test_with_whole_models_known_the_first_round_is_nearly_right(
    scale: float, base: float, bend: float, speedup: float
) -> None:
    options, total, least, whole = bent(scale, base, bend)
    budget_ms = whole(total) / speedup
    if whole(least) > budget_ms:
        return
    known = Known(tuple((share * total, whole(share * total)) for share in (1.0, 0.6, 0.35, 0.15)), 1.0)
    rounds = list(latency_rounds(known, budget_ms, least_loss(Space(options)), lambda c, _: whole(c.table_ms)))
    assert rounds[0].predicted_ms == pytest.approx(rounds[0].measured_ms, rel=0.06)
    assert BAND * budget_ms <= best_round(rounds, budget_ms, whole(total)).measured_ms <= budget_ms
    assert len(rounds) <= 3


def test_known_whole_models_bracket_a_time_and_reach_beyond_the_last() -> None:
    known = Known(((10.0, 20.0), (4.0, 8.0), (2.0, 5.0)), 1.0)
    assert known.line(12.0).predict(7.0) == pytest.approx(14.0)
    assert known.line(6.5).predict(3.0) == pytest.approx(6.5)
    assert known.line(1.0).predict(1.0) == pytest.approx(3.5)
    assert known.line(30.0).predict(10.0) == pytest.approx(20.0)
    early = known.corrected([(3.0, 6.0)], 6.5)
    assert (early.predict(3.0), early.scale) == (pytest.approx(6.0), pytest.approx(1.5))
    late = known.corrected([(3.0, 9.0)], 6.5)
    assert (late.predict(3.0), late.scale) == (pytest.approx(9.0), pytest.approx(0.95 * 1.5))
    slow = known.corrected([(3.0, 9.0), (2.0, 8.1)], 6.5)
    assert slow.scale == pytest.approx((0.95 + 0.6) / 2 * 1.5), "the last step gained 0.9 where 1.5 was expected"
    assert known.corrected([(3.0, 9.0), (2.0, 9.6)], 6.5).scale == pytest.approx(0.5 * 1.5)
    assert Known(((10.0, 20.0), (10.0, 5.0)), 1.0).line(6.0).scale == 1.0, "no slope without a difference"
    assert Known(((10.0, 20.0), (5.0, 21.0)), 1.0).line(AIM * 15).scale == pytest.approx(0.1), "no slope upwards"


def test_rounds_on_both_sides_of_a_time_tell_what_lies_between() -> None:
    known = Known(((10.0, 20.0), (4.0, 8.0), (2.0, 5.0)), 1.0)
    both = known.corrected([(3.0, 9.0), (1.0, 5.0)], 6.0)
    assert both.invert(6.0) == pytest.approx(1.5), "a straight line between them, whatever the known models say"
    nearest = known.corrected([(5.0, 12.0), (1.0, 5.0), (3.0, 9.0), (2.0, 5.5)], 7.25)
    assert nearest.invert(7.25) == pytest.approx(2.5)
    upside_down = known.corrected([(3.0, 5.0), (2.0, 9.0)], 6.0)
    assert upside_down.predict(2.0) == pytest.approx(9.0), "the faster one counts more: chance, the last round counts"


def test_where_seven_tenths_of_every_gain_come_true_three_rounds_are_enough() -> None:
    options, total, _, whole = bent(1.0, 1.0, 1.0)
    known = Known(tuple((share * total, whole(share * total)) for share in (1.0, 0.6, 0.35, 0.15)), 1.0)

    def device(choice: Choice) -> float:
        return whole(total) - 0.7 * (whole(total) - whole(choice.table_ms))

    budget_ms = whole(total) / 2.0
    rounds = list(latency_rounds(known, budget_ms, least_loss(Space(options)), lambda c, _: device(c)))
    assert rounds[0].measured_ms > budget_ms
    assert BAND * budget_ms <= rounds[-1].measured_ms <= budget_ms
    assert len(rounds) <= 3


def test_ways_that_gain_differently_do_not_lead_each_other_astray() -> None:
    """Two ways take turns as the least harmful; one takes a fifth more than predicted, the other a fifth less."""
    options = make_options()
    total = sum(levels[0].ms for levels in options.values())
    known = Known(((total, 1.0 + total), (0.3 * total, 1.0 + 0.3 * total)), 1.0)
    turns = itertools.cycle(["more", "less"])
    other = {
        name: [dataclasses.replace(level, loss=level.loss * (12 - int(name)) ** 2) for level in levels]
        for name, levels in options.items()
    }
    spaces = {"more": Space(options), "less": Space(other)}
    made: dict[tuple[tuple[str, int], ...], str] = {}

    def choose(within: Within, tried: Collection[Mapping[str, int]]) -> tuple[str, Choice] | None:
        way = next(turns)
        choice = spaces[way].choose(within(way).table_ms)
        made[tuple(choice.widths.items())] = way
        return None if choice.widths in tried else (way, choice)

    def device(choice: Choice, _: float) -> float:
        factor = {"more": 1.2, "less": 0.8}[made[tuple(choice.widths.items())]]
        return factor * (1.0 + choice.table_ms)

    budget_ms = (1.0 + total) / 2
    rounds = list(latency_rounds(known, budget_ms, choose, device))
    assert BAND * budget_ms <= rounds[-1].measured_ms <= budget_ms
    off = [abs(r.measured_ms / budget_ms - AIM) for r in rounds]
    assert off[2] < off[0], "a way knows what its own first round took"
    assert off[3] < off[1]


def test_a_way_that_was_not_tried_is_taken_to_be_as_far_off_as_the_others() -> None:
    """Every way in turn, and all models take an eighth more than the known ones say."""
    options = make_options()
    total = sum(levels[0].ms for levels in options.values())
    known = Known(((total, 1.0 + total), (0.3 * total, 1.0 + 0.3 * total)), 1.0)
    ways = iter("abcd")

    def choose(within: Within, tried: Collection[Mapping[str, int]]) -> tuple[str, Choice] | None:
        way = next(ways)
        return way, Space(options).choose(within(way).table_ms)

    rounds = list(latency_rounds(known, (1.0 + total) / 2, choose, lambda c, _: 1.125 * (1.0 + c.table_ms)))
    assert rounds[0].measured_ms == pytest.approx(1.125 * rounds[0].predicted_ms)
    assert rounds[1].measured_ms == pytest.approx(rounds[1].predicted_ms), "another way knows it too"
    assert BAND * (1.0 + total) / 2 <= rounds[1].measured_ms <= (1.0 + total) / 2
    assert len(rounds) == 2


def test_after_three_rounds_one_at_the_edge_of_the_band_will_do() -> None:
    options, answers = make_options(), iter([10.9, 9.95, 10.4, 9.0])
    total = sum(levels[0].ms for levels in options.values())
    known = Known(((total, 20.0), (0.2 * total, 4.0)), 1.0)
    rounds = list(latency_rounds(known, 10.0, least_loss(Space(options)), lambda *_: next(answers)))
    assert [r.measured_ms for r in rounds] == [10.9, 9.95, 10.4], "not sure enough in the second, good enough after it"


def test_narrower_choices_are_faster_one_after_another() -> None:
    options = make_options()
    rounds, *_ = ran(options, lambda c: 1.5 + c.table_ms, 2.0)
    more = narrower(Space(options), rounds[-1], rounds[-1].line, 2)
    times = [rounds[-1].choice.table_ms, *(c.table_ms for c in more)]
    assert len(more) == 2
    assert times == sorted(times, reverse=True)
    assert times[2] > 0.9 * times[0]


def test_two_measurements_close_together_do_not_turn_the_line_over() -> None:
    line = Line.fit([(10.0, 12.0), (5.0, 7.0), (4.99, 7.4)], 1.0)
    assert line.predict(4.99) == pytest.approx(7.4)
    assert 0.5 < line.scale < 1.5
    assert Line.fit([(10.0, 12.0), (9.9, 13.0)], 1.0).scale == pytest.approx(0.1)
    assert Line.fit([(10.0, 12.0)], 1.7).scale == 1.7
    assert line.invert(line.predict(3.0)) == pytest.approx(3.0)
