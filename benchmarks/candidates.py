"""How many candidates `--max-drop` makes, and what its model then loses: by all answers, against plain bisection.

`python -m benchmarks.candidates` SIMULATES searches, no model is cut: a ladder of 48 steps whose harms are those of
EfficientNet-Lite0 on `host-cpu-int8`, true losses limit * (harm / crossing) ** power, the crossing anywhere from step 3
to 39, and answers with the errors of 128 shots in three parts. A part is one candidate made on one division of the
shots: what a search takes. The same true losses and the same errors for all ways.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from taco.allocation.crossing import Answer
from taco.allocation.within import holding_steps

_LIMIT, _PARTS, _SEARCHES, _APART = 1.0, 3, 500, 3
_POWERS = (0.6, 1.0, 1.5, 3.0)
#: Sums of the units' losses at every fourth step of that ladder, a run of 2026-11-28; even in logarithms between.
_HARMS = (
    2e-4, 1.5e-3, 3e-3, 5.4e-3, 8.1e-3, 1.19e-2, 1.73e-2, 2.46e-2, 3.53e-2, 4.44e-2, 5.57e-2, 7.05e-2, 9.04e-2, 0.115,
    0.155, 0.302,
)  # fmt: skip
#: Standard error of one part at no loss, in points, and the loss at which its square is twice as large: as told of
#: candidates that lost 0 to 7.4 points on 43 and 86 shots.
_ERROR, _DOUBLE = 2.0, 3.0
_Z = 1.96
#: Standard deviation of the logarithm of the first guess over the true crossing: wrong by a factor of two (judgement;
#: the rates that the guess is made of were 160 to 240 points a nat on one model).
_GUESS = 0.7


class Search:
    """One ladder and what is known of it; counts parts."""

    def __init__(self, harms: np.ndarray, power: float, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        crossing = harms[self.rng.integers(3, 40)]
        self.true = _LIMIT * (harms / crossing) ** power
        self.made: dict[int, list[float]] = {}
        guess = crossing * math.exp(_GUESS * np.random.default_rng([seed, 1]).normal())
        self.guess = max(1, int(np.searchsorted(harms, guess, side="right")) - 1)

    @property
    def parts(self) -> int:
        """So many were made."""
        return sum(map(len, self.made.values()))

    def answer(self, index: int, parts: int = _PARTS) -> Answer:
        """Make a candidate until so many parts judged it, or it surely loses too much."""
        made, points, error = self.made.setdefault(index, []), 0.0, 0.0
        true = min(80.0, float(self.true[index]))
        for number in range(1, parts + 1):
            if len(made) < number:
                made.append(true + self.rng.normal() * _ERROR * math.sqrt(1 + true / _DOUBLE))
            points = float(np.mean(made[:number]))
            error = _ERROR * math.sqrt((1 + max(points, 0.0) / _DOUBLE) / number)
            if points - _Z * error > _LIMIT:
                break
        return Answer(points, error)


def bisected(search: Search, harms: np.ndarray) -> int:
    """Search as it was before: bisection, one part at first, all where a step seems to hold and none after it did."""
    passed, high, full = [0], len(harms), set[int]()
    while True:
        low = passed[-1]
        if high - low > (2 if low else 1):
            middle = (low + high) // 2
            holds = search.answer(middle, 1).loss <= _LIMIT
            if not holds:
                full.add(middle)
                holds = search.answer(middle).loss <= _LIMIT
            if holds:
                passed.append(middle)
            else:
                high = middle
        elif low == 0 or low in full or search.answer(low).loss <= _LIMIT:
            return low
        else:
            high = passed.pop()


def guided(search: Search, harms: np.ndarray) -> int:
    """Search as `--max-drop` does where nothing tells how much is lost for a harm: of uniform ratios."""
    return next(holding_steps(harms.tolist(), search.answer, _LIMIT, _APART), 0)


def guessed(search: Search, harms: np.ndarray) -> int:
    """Search as `--max-drop` does where a rate is known from other models, see `taco.search.ladder.Ladder`."""
    return next(holding_steps(harms.tolist(), search.answer, _LIMIT, _APART, search.guess), 0)


def main() -> None:
    """Print the table."""
    marks = np.linspace(1, 47, len(_HARMS))
    harms = np.array([0.0, *np.exp(np.interp(np.arange(1, 48), marks, np.log(_HARMS)))])
    ways: dict[str, Callable[[Search, np.ndarray], int]] = {
        "bisection": bisected, "all answers": guided, "all answers, a guess first": guessed
    }  # fmt: skip
    print("SIMULATED: no model was cut\n")
    print("| power | search | parts | candidates | true points lost, of 1 allowed | parts, ratio |")
    print("|---|---|---|---|---|---|")
    for power in _POWERS:
        before = 0.0
        for name, way in ways.items():
            searches = [Search(harms, power, seed) for seed in range(_SEARCHES)]
            lost = float(np.mean([search.true[way(search, harms)] for search in searches]))
            parts = float(np.mean([search.parts for search in searches]))
            before = before or parts
            candidates = np.mean([len(search.made) for search in searches])
            print(f"| {power:g} | {name} | {parts:.1f} | {candidates:.1f} | {lost:.2f} | {parts / before:.2f} |")


if __name__ == "__main__":
    main()
