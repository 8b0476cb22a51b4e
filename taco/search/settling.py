"""Time many groups of models, each until it is sure or its share of the time is up, and those in doubt again later."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from taco.device.trt_units import REPEATS, SMALL_SPREAD
from taco.timing.calm import calm, doubt, usual_ms
from taco.timing.cells import spread, spread_of_whole
from taco.timing.timings import BenchResult, pooled

log = logging.getLogger(__name__)

#: Share of the dense model's time: a unit that is known as well is not timed again. SIMULATED with the intervals of one
#: disturbed machine (0.5 to 2.4 % for each unit): repeats of all made choices 0.2 % faster (docs/adr/0012).
_MATTERS = 0.01

#: Times models, named, against each other in alternating rounds; may repeat them for so many seconds.
Timer = Callable[[Mapping[str, Path], float], BenchResult]


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """How long a profile may take.

    Attributes:
        max_seconds: No unit is begun after that.
        repeat_share: Of `max_seconds`: when timing has taken so long, nothing is timed again. In the first half of it
            the rounds of each unit go on until its intervals are small, all with equal parts of what is left; then
            those come again whose intervals matter.
        most_rounds: A measurement that has as many rounds is not repeated.
    """

    max_seconds: float
    repeat_share: float
    most_rounds: int

    @property
    def repeat_s(self) -> float:
        """For timing, seconds."""
        return self.repeat_share * self.max_seconds


@dataclasses.dataclass(frozen=True, slots=True)
class Settler:
    """Times groups of models.

    Attributes:
        timer: Times one group.
        most_rounds: Rounds of a group until it is taken as it is; `REPEATS` times what the timer makes at once.
        clock: Seconds, from anywhere.
    """

    timer: Timer
    most_rounds: int
    clock: Callable[[], float]

    def settle(self, models: Mapping[str, Path], repeat_s: float) -> BenchResult:
        """Time until every interval is small, or so many seconds are over, or it has been repeated often enough.

        Agents go on by themselves up to `most_rounds`; a timer that cannot is asked again.
        """
        begin, repeat_s = self.clock(), max(0.0, repeat_s)
        result = self.timer(models, repeat_s)
        for _ in range(REPEATS - 1):
            enough = spread(result) <= SMALL_SPREAD or result.rounds >= self.most_rounds
            if enough or self.clock() - begin > repeat_s:
                break
            result = pooled(result, self.timer(models, repeat_s))
        return result

    def again(
        self, results: Mapping[str, BenchResult], models: Mapping[str, Mapping[str, Path]], until: float
    ) -> dict[str, BenchResult]:
        """Time groups again whose intervals matter, until the clock shows `until`; returns all, more rounds in some.

        An interval matters by its share of the dense model's time, not of its own: the fastest levels take a hundredth
        of that. The widest one comes first, but each once before any comes twice: what disturbs a machine often lasts
        longer than a group takes.
        """
        found, times = dict(results), Counter[str]()
        while self.clock() < until:
            doubts = self._mattering(found)
            wanting = [name for name in doubts if times[name] < REPEATS]
            if not wanting:
                break
            name = min(wanting, key=lambda name: (times[name], -doubts[name]))
            log.debug("%s is timed again: its widest interval is %.3g of the dense model's time", name, doubts[name])
            found[name] = pooled(found[name], self.timer(models[name], 0.0))
            times[name] += 1
        return found

    def matters(self, results: Mapping[str, BenchResult]) -> bool:
        """Whether there is anything that `again` would time."""
        return bool(self._mattering(results))

    def settled(self, results: Mapping[str, BenchResult]) -> bool:
        """Whether all intervals are small, in rounds in which nothing slowed the machine."""
        return all(wide <= SMALL_SPREAD for wide in self._doubts(results).values())

    def calm(self, results: Mapping[str, BenchResult]) -> dict[str, BenchResult]:
        """Return of each group the rounds in which nothing slowed the machine; all, where there are none."""
        usual = usual_ms(results.values(), self._least)
        return {name: calm(result, usual, self._least) or result for name, result in results.items()}

    def _mattering(self, results: Mapping[str, BenchResult]) -> dict[str, float]:
        return {name: wide for name, wide in self._doubts(results, spread_of_whole).items() if wide > _MATTERS}

    def _doubts(
        self, results: Mapping[str, BenchResult], width: Callable[[BenchResult], float] = spread
    ) -> dict[str, float]:
        usual = usual_ms(results.values(), self._least)
        return {name: doubt(result, usual, self._least, width) for name, result in results.items()}

    @property
    def _least(self) -> int:
        return self.most_rounds // REPEATS
