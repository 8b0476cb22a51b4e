"""Allocations in order, from the dense model to the smallest: what a search for accuracy climbs down."""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from taco.allocate import Allocation


@dataclasses.dataclass(frozen=True, slots=True)
class Rung:
    """One allocation.

    Attributes:
        allocation: The widths.
        loop: What the report tells of how the device decided them; None where it did not.
        at: Which of the run's sizes of pictures it is for, see `taco.steps.sizes.Sizes.every`.
        behind: Every other size that competed, for people -> how many times as long it takes on this device for as
            little change of the answers.
        unprofiled: Those of the other sizes of which that is an estimate, for they were too far behind to be profiled.
    """

    allocation: Allocation
    loop: Mapping[str, Any] | None = None
    at: int = 0
    behind: Mapping[str, float] = dataclasses.field(default_factory=dict)
    unprofiled: Collection[str] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Taken:
    """What a run for another device took, where this device has hardly anything faster of the same expected loss.

    Attributes:
        rung: The very same widths.
        told: What the report tells.
    """

    rung: Rung
    told: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Uncut:
    """A model from which nothing is cut, of a size of pictures that takes less time: to ask it costs hardly anything.

    Attributes:
        rung: Its widths, all of them.
        step: The last step of the ladder that is not faster.
    """

    rung: Rung
    step: int


@dataclasses.dataclass(frozen=True, slots=True)
class Ladder:
    """All of them; a rung may take long to make, so it is made when it is asked for.

    Attributes:
        harms: What each is expected to lose before recovery, rising from 0 of the dense model; in any unit.
        rung: Index -> the rung; 0 is the dense model.
        first: Where to begin; None where nothing tells.
        uncut: Size of pictures, as `Rung.at` -> the model for it from which nothing is cut, of sizes that take less
            time than the first: it stands beside the steps, and loses what it loses, whatever a step there may.
        rate: Points that are lost for each unit of harm, about: a guess where to begin; None where none is known.
    """

    harms: Sequence[float]
    rung: Callable[[int], Rung]
    first: int | None = None
    uncut: Mapping[int, Uncut] = dataclasses.field(default_factory=dict)
    rate: float | None = None

    def begin(self, limit: float, held: int = 0) -> int | None:
        """Return where to begin; None where nothing tells, not even a guess.

        Args:
            limit: Most points that may be lost.
            held: A step that is known to hold: later ones lose by what they harm beyond it.
        """
        if self.first is not None or self.rate is None:
            return self.first
        return max(held + 1, self._last_within(self.harms[held] + limit / self.rate))

    def begun_at(self, harm: float) -> Ladder:
        """Return the same, to begin at the last step that is expected to lose no more; never at the dense model."""
        return dataclasses.replace(self, first=max(1, self._last_within(harm)))

    def placed(self, at: int) -> Ladder:
        """Return the same for another of the run's sizes of pictures."""
        return dataclasses.replace(self, rung=lambda index: dataclasses.replace(self.rung(index), at=at))

    def _last_within(self, harm: float) -> int:
        return bisect.bisect_right(self.harms, harm) - 1
