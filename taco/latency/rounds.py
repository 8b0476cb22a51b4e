"""The feedback loop: allocate, measure the whole model, correct the prediction, allocate again (METHOD.md 7).

Blocks timed by themselves do not sum up to the whole model: the stem, the head and what a runtime does between blocks
are missing, units of one block share its time, and narrow layers gain more in a whole model, whose weights no longer
fit a cache, than by themselves. So the whole is predicted by a straight line, base + scale x sum: at first through
whole models that were timed with the profile, then corrected by every measurement of the loop.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import numpy as np

from taco.errors import BudgetInfeasibleError
from taco.latency.levels import Choice
from taco.latency.limits import LimitError, Space
from taco.latency.midway import Aim, midway

MOST_ROUNDS = 5
MOST_REFINED = 3
#: A result counts from this share of the budget on; what is faster has lost more than it had to.
BAND = 0.95
#: Two measurements of one model differ by about as much: so near to an end of the band another round is made, where
#: fewer than `_FEW` were; after so many any that lies in the band will do.
_EDGE, _FEW = 0.007, 3
#: Allocations aim a little below the budget, so that an error of the prediction does not exceed it.
AIM = 0.98
_ONLY = "the only way"
#: Beyond these a slope is an accident of two measurements that lie close together.
_SLOPES = (0.1, 10.0)


#: How much of a gain by the table comes true in a whole model: at least and at most, where a round was too slow. Over
#: the 23 first steps after such a round in benchmarks.loop it was 0.96 in the median, eight in ten lay between 0.7 and
#: 1.5 (what a block that is left out still takes is counted before: `taco.latency.wholes`).
_COMES_TRUE = (0.5, 0.95)
#: What the next choice takes, of this one's time, that is kept for a final measurement that falls short: part of what
#: that and the round lie apart is chance (two files timed again and again: a standard deviation of 0.5 to 1.7 % while
#: nothing slowed the machine, up to 4 % while something did).
_SPARE_STEP = 0.985
#: Way of spending the time -> what its next choice may take.
Within = Callable[[str], Aim]
#: That, and the widths of what was tried already -> a way and a choice, or None where all is tried.
Chooser = Callable[[Within, Collection[Mapping[str, int]]], tuple[str, Choice] | None]


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """base_ms + scale x (sum of the table's milliseconds)."""

    base_ms: float
    scale: float

    def predict(self, table_ms: float) -> float:
        """Return the milliseconds of the whole model."""
        return self.base_ms + self.scale * table_ms

    def invert(self, whole_ms: float) -> float:
        """Return the sum at which the whole model takes so long."""
        return (whole_ms - self.base_ms) / self.scale

    @staticmethod
    def through(table_ms: float, whole_ms: float, scale: float) -> Line:
        """Return the line of a slope through one point."""
        return Line(whole_ms - scale * table_ms, scale)

    @staticmethod
    def fit(points: Sequence[tuple[float, float]], scale: float) -> Line:
        """Return the line with the slope of all points, through the last one, which is nearest to the budget.

        Args:
            points: (sum by the table, whole model), milliseconds; the dense model first.
            scale: Slope where the points do not tell one.
        """
        x, y = np.array(points, np.float64).T
        x, y = x - x[0], y - y[0]  # the dense model is surest: the slope is that of lines through it
        energy = float(x @ x)
        slope = float(x @ y) / energy if energy > 0 else scale
        return Line.through(*points[-1], _slope_near(slope, scale))


@dataclasses.dataclass(frozen=True, slots=True)
class Known:
    """Whole models whose time is known before the first round.

    Attributes:
        wholes: (sum by the table, whole model), milliseconds; the dense model first, and others that were timed.
        scale: Slope where these do not tell one.
    """

    wholes: tuple[tuple[float, float], ...]
    scale: float

    def line(self, whole_ms: float) -> Line:
        """Return the line through the two whole models on both sides of a time, or through the two nearest to it."""
        points = sorted(self.wholes, reverse=True)
        pairs = list(itertools.pairwise(points))
        if not pairs:
            return Line.through(*self.wholes[0], self.scale)
        wide, narrow = next((pair for pair in pairs if pair[1][1] <= whole_ms), pairs[-1])
        width = wide[0] - narrow[0]
        slope = (wide[1] - narrow[1]) / width if width > 0 else self.scale
        nearest = min((wide, narrow), key=lambda point: abs(point[1] - whole_ms))
        return Line.through(*nearest, _slope_near(slope, self.scale))

    def corrected(self, rounds: Sequence[tuple[float, float]], whole_ms: float) -> Line:
        """Return the line through two rounds on both sides of a time; without them through the last round.

        Without known models its slope is that of all rounds, with them it is theirs. A choice takes the levels whose
        times by the table are low, by chance too: less of that comes true in the whole model. So after a round that was
        too slow the slope is taken to be lower; where the last step gained even less, as the mean of both, because one
        step tells little of the next (which gained 0 to 4 times as much in benchmarks.loop).

        Args:
            rounds: (sum by the table, whole model) of every round, milliseconds.
            whole_ms: What is aimed at.
        """
        if (around := _around(rounds, whole_ms)) is not None:
            slower, faster = (rounds[at] for at in around)
            return Line.through(*faster, (slower[1] - faster[1]) / (slower[0] - faster[0]))
        if len(self.wholes) == 1:
            return Line.fit([*self.wholes, *rounds], self.scale)
        slope, (table_ms, last_ms) = self.line(whole_ms).scale, rounds[-1]
        if last_ms > whole_ms:
            came_true = _COMES_TRUE[1]
            if len(rounds) > 1 and (less := rounds[-2][0] - table_ms) > 0:
                seen = (came_true + (rounds[-2][1] - last_ms) / (slope * less)) / 2
                came_true = min(came_true, max(_COMES_TRUE[0], seen))
            slope *= came_true
        return Line.through(table_ms, last_ms, slope)


@dataclasses.dataclass(frozen=True, slots=True)
class Round:
    """One allocation and what it takes.

    Attributes:
        choice: The levels.
        predicted_ms: Whole model, before it was measured.
        measured_ms: Whole model, end to end.
        line: The prediction after this measurement.
    """

    choice: Choice
    predicted_ms: float
    measured_ms: float
    line: Line


def latency_rounds(
    known: Known, budget_ms: float, choose: Chooser, measure: Callable[[Choice, float], float]
) -> Iterator[Round]:
    """Yield rounds until one lies within the band, nothing new would be tried, or `MOST_ROUNDS` are done.

    Every way of spending the time has a line of its own, through what it took. Until then it is taken to be as far off
    as those that were measured: at first all are off alike, by what the known whole models do not tell.

    Args:
        known: Whole models whose time is known.
        budget_ms: What the compressed one may take.
        choose: What to try next.
        measure: Choice and its predicted time -> milliseconds of the whole model.

    Raises:
        LimitError: A limit beside the budget cannot be held.
    """
    aim_ms, made, off = AIM * budget_ms, dict[str, list[tuple[Choice, float]]](), dict[str, float]()
    tried: list[Mapping[str, int]] = []
    taken: list[float] = []

    def factor() -> float:
        return statistics.geometric_mean(off.values()) if off else 1.0

    def points(way: str) -> list[tuple[float, float]]:
        return [(choice.table_ms, ms) for choice, ms in made.get(way, [])]

    def line(way: str) -> Line:
        if way in made:
            return known.corrected(points(way), aim_ms)
        untried = known.line(aim_ms / factor())
        return Line(factor() * untried.base_ms, factor() * untried.scale)

    def aim(way: str) -> Aim:
        around = _around(points(way), aim_ms)
        both = None if around is None else (made[way][around[0]][0], made[way][around[1]][0])
        return Aim(line(way).invert(aim_ms), both)

    for number in range(1, MOST_ROUNDS + 1):
        found = choose(aim, tried)
        if found is None:
            return
        way, choice = found
        tried.append(choice.widths)
        predicted = line(way).predict(choice.table_ms)
        measured = measure(choice, predicted)
        if way not in off:
            off[way] = factor() * measured / predicted
        made.setdefault(way, []).append((choice, measured))
        yield Round(choice, predicted, measured, line(way))
        taken.append(measured)
        edge, last = (_EDGE, taken[-1:]) if number < _FEW else (0.0, taken)
        if any((BAND + edge) * budget_ms <= ms <= (1 - edge) * budget_ms for ms in last):
            return


def least_loss(space: Space) -> Chooser:
    """Return what chooses by the sum of losses alone; the dense model is no choice."""
    all_dense = space.dense().widths

    def choose(within: Within, tried: Collection[Mapping[str, int]]) -> tuple[str, Choice] | None:
        choice = next_best(space, within(_ONLY), tried)
        return None if choice.widths in (all_dense, *tried) else (_ONLY, choice)

    return choose


def refined_rounds(
    start: Round, budget_ms: float, search: Callable[[float], Choice], measure: Callable[[Choice, float], float]
) -> Iterator[Round]:
    """Yield rounds with searched levels, from the table's time of `start` down, until one is within the budget.

    A search trades levels of equal time by the table; what it finds may take a little longer than the table says. Then
    it is asked for so much less, `MOST_REFINED` times at most.

    Args:
        start: The round to improve; its line predicts.
        budget_ms: What the whole model may take.
        search: Milliseconds by the table -> levels.
        measure: Choice and its predicted time -> milliseconds of the whole model.
    """
    line = Line.through(start.choice.table_ms, start.measured_ms, start.line.scale)
    table_ms = start.choice.table_ms
    for _ in range(MOST_REFINED):
        try:
            choice = search(table_ms)
        except BudgetInfeasibleError:
            return
        if choice.widths == start.choice.widths:
            return
        predicted = line.predict(choice.table_ms)
        measured = measure(choice, predicted)
        line = Line.through(choice.table_ms, measured, start.line.scale)
        yield Round(choice, predicted, measured, line)
        if measured <= budget_ms:
            return
        table_ms = line.invert(AIM * budget_ms)


def within(space: Space, line: Line, aim_ms: float) -> Choice:
    """Return the best choice that is predicted to take at most `aim_ms`; where there is none, the fastest of all."""
    return best_within(space, line.invert(aim_ms))


def next_best(space: Space, aim: Aim, tried: Collection[Mapping[str, int]]) -> Choice:
    """Return the best choice between two that were measured, where an aim has them; else the best within its time."""
    return midway(space, aim, tried) or best_within(space, aim.table_ms)


def best_within(space: Space, table_ms: float) -> Choice:
    """Return the best choice within a time by the table; where there is none, the fastest of all."""
    try:
        return space.choose(table_ms)
    except LimitError:
        raise
    except BudgetInfeasibleError:
        return space.fastest()


def best_round(
    rounds: Sequence[Round], budget_ms: float, dense_ms: float, price: Callable[[Choice], str] | None = None
) -> Round:
    """Return the round that uses most of the budget without exceeding it.

    Args:
        rounds: All that were made.
        budget_ms: What the whole model may take.
        dense_ms: What the dense one takes.
        price: Says what a choice costs in accuracy; asked only for the fastest where all are too slow.

    Raises:
        BudgetInfeasibleError: Every round takes longer; names the fastest and its price.
    """
    good = [r for r in rounds if r.measured_ms <= budget_ms]
    if good:
        return max(good, key=lambda r: r.measured_ms)
    quickest = min(rounds, key=lambda r: r.measured_ms, default=None)
    least = quickest.measured_ms if quickest else dense_ms
    told = f"; {price(quickest.choice)}" if quickest and price else ""
    ratio, enough_ms = dense_ms / least, math.ceil(100 * least) / 100
    raise BudgetInfeasibleError(
        f"{budget_ms:.3g} ms cannot be reached by inner widths and blocks on this device: the fastest model that "
        f"was measured takes {least:.3g} ms and is {ratio:.2f} times as fast as the dense one ({dense_ms:.3g} ms)"
        f"{told}",
        f"Ask for --speedup {max(1.0, math.floor(100 * ratio) / 100):g} or less, for --latency-ms {enough_ms:g} or "
        "more, or choose a smaller --model; --allocation uniform also cuts units that could not be timed by themselves",
    )


def narrower(space: Space, chosen: Round, line: Line, count: int) -> list[Choice]:
    """Return up to `count` further choices, each predicted to be a little faster (`_SPARE_STEP`) than the one before.

    They are taken, one after another, where a final measurement falls short.
    """
    found: list[Choice] = []
    seen = {tuple(chosen.choice.widths.items())}
    at = Line.through(chosen.choice.table_ms, chosen.measured_ms, line.scale)
    for number in range(1, count + 1):
        choice = within(space, at, chosen.measured_ms * _SPARE_STEP**number)
        if tuple(choice.widths.items()) not in seen:
            seen.add(tuple(choice.widths.items()))
            found.append(choice)
    return found


def _around(rounds: Sequence[tuple[float, float]], whole_ms: float) -> tuple[int, int] | None:
    """Return which rounds are the nearest on either side of a time, the slower one first.

    None where there are none, or where the table takes the slower one for the faster.
    """
    numbers = range(len(rounds))
    slower = min((at for at in numbers if rounds[at][1] > whole_ms), key=lambda at: rounds[at][1], default=None)
    faster = max((at for at in numbers if rounds[at][1] <= whole_ms), key=lambda at: rounds[at][1], default=None)
    if slower is None or faster is None or rounds[slower][0] <= rounds[faster][0]:
        return None
    return slower, faster


def _slope_near(slope: float, scale: float) -> float:
    return min(max(slope, _SLOPES[0] * scale), _SLOPES[1] * scale)
