"""The last step that holds: found by bisection, few asked, never one that was not seen to hold."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from taco.allocation.within import last_within


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


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=60), st.floats(-1, 1))
def test_with_any_noise_the_answer_was_seen_to_hold_and_wider_ones_stand_by(losses: list[float], limit: float) -> None:
    found = last_within(len(losses), losses.__getitem__, limit)
    assert found.index == 0 or losses[found.index] <= limit
    assert found.holding[0] == found.index
    assert found.holding[-1] == 0
    assert all(losses[i] <= limit for i in found.holding[:-1])
    assert list(found.holding) == sorted(set(found.holding), reverse=True)
