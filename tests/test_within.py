"""The last step that holds: found by bisection, few asked, never one that was not seen to hold."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from taco.allocation.within import last_within

LOSSES = st.lists(st.floats(-5, 5), min_size=1, max_size=60)


@given(st.integers(1, 200), st.integers(0, 200), st.floats(0, 3))
def test_of_rising_losses_the_last_that_holds_is_found_with_few_questions(steps: int, turn: int, limit: float) -> None:
    asked: list[int] = []

    def lose(index: int) -> float:
        asked.append(index)
        return limit if index < turn else limit + 1

    found = last_within(steps, lose, limit)
    assert found.index == max(0, min(turn, steps) - 1)
    assert len(asked) <= math.ceil(math.log2(steps)) if steps > 1 else not asked
    assert list(found.lost) == asked == list(dict.fromkeys(asked)), "no step is asked twice"
    assert 0 not in asked


@given(LOSSES, LOSSES, st.floats(-1, 1), st.integers(1, 4))
def test_with_any_noise_the_answer_was_seen_to_hold_and_wider_ones_stand_by(
    losses: list[float], seeming: list[float], limit: float, apart: int
) -> None:
    """Glances may err to either side; the answer, and every step that was passed over, were asked in full."""
    full: list[int] = []

    def lose(index: int) -> float:
        full.append(index)
        return losses[index]

    found = last_within(len(losses), lose, limit, lambda index: seeming[index % len(seeming)], apart)
    assert len(full) == len(set(full))
    assert found.index == 0 or (losses[found.index] <= limit and found.index in full)
    assert found.holding[0] == found.index
    assert found.holding[-1] == 0
    assert list(found.holding) == sorted(set(found.holding), reverse=True)
    assert {i for i, loss in found.lost.items() if loss > limit} <= set(full)
    assert max(found.lost, default=0) <= found.index or any(i > found.index and losses[i] > limit for i in full)


@given(st.integers(2, 200), st.integers(1, 200), st.integers(1, 8))
def test_steps_apart_of_the_last_one_spare_questions_but_never_the_first(steps: int, turn: int, apart: int) -> None:
    asked: list[int] = []

    def lose(index: int) -> float:
        asked.append(index)
        return float(index >= turn)

    found, last = last_within(steps, lose, 0.0, apart=apart), min(turn, steps) - 1
    assert last - apart < found.index <= last
    assert found.index > 0 or last == 0, "the dense model is the answer only where the first step does not hold"
    assert not asked or len(asked) <= math.ceil(math.log2(steps))


@given(st.integers(1, 200), st.integers(0, 200))
def test_of_steps_that_hold_only_the_last_is_asked_in_full(steps: int, turn: int) -> None:
    full: list[int] = []

    def truth(index: int) -> float:
        return float(index >= turn)

    def lose(index: int) -> float:
        full.append(index)
        return truth(index)

    found = last_within(steps, lose, 0.0, truth)
    assert found.index == max(0, min(turn, steps) - 1)
    assert [i for i in full if truth(i) == 0] == [found.index] * (found.index > 0)


def test_a_last_step_that_only_seemed_to_hold_is_turned_back_from() -> None:
    full: list[int] = []

    def lose(index: int) -> float:
        full.append(index)
        return float(index > 6)

    found = last_within(32, lose, 0.5, lambda index: float(index > 11))
    assert found.index == 6
    assert full[-1] == 6
    assert found.lost[11] == 1.0
