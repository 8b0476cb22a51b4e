"""The small model that a run of the same task took on another device, seen with this device's clock.

What a model loses hardly hangs on the device; what it takes does. So the widths that another device's search took are
weighed by this one's own table: where little of the same expected loss is faster, they are taken, with all
that was recovered, and nothing is searched. Where something is, this device has its own search, which begins there.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from taco.latency.from_widths import choice_of
from taco.latency.levels import Choice
from taco.latency.limits import Space
from taco.latency.wholes import known_wholes
from taco.rundir import RunDir, content_key
from taco.search.latency_search import LatencySearcher, Offered
from taco.search.unit_losses import allocation_of

#: How finely the fastest of the same loss is looked for: the logarithm of its time is halved so often.
_HALVINGS = 9
_TAKEN = "drop-taken"


@dataclasses.dataclass(frozen=True, slots=True)
class Earlier:
    """What a finished search took.

    Attributes:
        target: For which it was.
        widths: Of all units, as in `Allocation`.
        gains: Size of pictures, for people -> how many times as fast the dense model for it was there as that for its
            own size, of all sizes that competed; empty where none did.
        behind: Every other size -> how many times as long it took there for as little change of the answers.
    """

    target: str
    widths: Mapping[str, int]
    gains: Mapping[str, float] = dataclasses.field(default_factory=dict)
    behind: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class Notes:
    """What searches took whose candidates lose the same, in the run's folder.

    Attributes:
        rundir: The folder; what was adopted from another run lies there too.
        alike: What these searches have in common, as JSON values.
    """

    rundir: RunDir
    alike: Mapping[str, Any]

    @classmethod
    def of(cls, rundir: RunDir, limit: float, asked: Sequence[Mapping[str, Any]], how: Sequence[Any]) -> Notes:
        """Return the notes of searches like one.

        Args:
            rundir: The folder.
            limit: Points that may be lost.
            asked: All that a candidate's answers depend on beside its widths, one for each division of the shots.
            how: How steps are made from a table.
        """
        return cls(rundir, {"limit": limit, "asked": content_key([dict(one) for one in asked]), "how": [*how]})

    def known(self, but: str = "") -> list[Earlier]:
        """Return what was taken; a note that cannot be read says nothing.

        Args:
            but: A target, left out: a run that was stopped after its own note goes on as if there were none.
        """
        found = (depends for depends, _ in self.rundir.measured(_TAKEN) if self.alike.items() <= depends.items())
        taken = (
            (str(depends.get("target")), depends.get("widths"), depends.get("gains", {}), depends.get("behind", {}))
            for depends in found
        )
        return [
            Earlier(target, widths, gains, behind)
            for target, widths, gains, behind in taken
            if target != but and _are_widths(widths) and _are_times(gains) and _are_times(behind)
        ]

    def add(self, taken: Earlier) -> None:
        """Note what a search took."""
        depends = {**self.alike, **dataclasses.asdict(taken)}
        self.rundir.json_step(_TAKEN, depends, dict, measured=True)


def _are_widths(found: object) -> bool:
    return isinstance(found, dict) and all(type(width) is int for width in found.values())


def _are_times(found: object) -> bool:
    return isinstance(found, dict) and all(type(times) is float and 0 < times < math.inf for times in found.values())


@dataclasses.dataclass(frozen=True, slots=True)
class Weighed:
    """The same by this device's table.

    Attributes:
        earlier: What was taken there.
        choice: Its levels here.
        ms: What the whole model takes, predicted.
        best_ms: What the fastest takes that is expected to lose no more.
        within: Percent by which the fastest may be faster while what was taken is taken here too.
    """

    earlier: Earlier
    choice: Choice
    ms: float
    best_ms: float
    within: float

    @property
    def near(self) -> bool:
        """Whether a search has no more to gain than may be left."""
        return self.ms <= times(self.within) * self.best_ms

    @property
    def words(self) -> str:
        """What a person is told."""
        then = "they are taken" if self.near else "this device has its own search"
        return (
            f"the widths that a run for {self.earlier.target} took: {self.ms:.3g} ms by the table here, and the "
            f"fastest of the same expected loss {self.best_ms:.3g} ms: {then}"
        )


def times(percent: float) -> float:
    """Return how many times as long is so many percent longer."""
    return 1 + percent / 100


def fastest_of(loop: LatencySearcher, offered: Offered, earlier: Sequence[Earlier], within: float) -> Weighed | None:
    """Return the fastest by this device's table of what was taken elsewhere.

    Args:
        loop: Knows the units.
        offered: What may be chosen here.
        earlier: What other runs took.
        within: See `Weighed`.

    Returns:
        None where there is nothing, or this device cannot have it.
    """
    found = (_weighed(loop, offered, one, within) for one in earlier)
    weighed = [one for one in found if one is not None]
    return min(weighed, key=lambda one: one.ms, default=None)


def _weighed(loop: LatencySearcher, offered: Offered, earlier: Earlier, within: float) -> Weighed | None:
    space, table = offered.space, offered.table
    choice = choice_of(earlier.widths, table, space, offered.lost)
    if choice is None or allocation_of(loop.searcher, choice).widths != dict(earlier.widths):
        return None
    if not any(name in choice.levels for name in space.drops):  # pictures decided there, and decide here, against them
        space = dataclasses.replace(space, drops={})
    line = known_wholes(table, space.options, loop.dense_ms, space.together).line(0.0)
    ms, best_ms = (
        line.predict(table_ms) for table_ms in (choice.table_ms, least_ms(space, choice.loss, choice.table_ms))
    )
    return Weighed(earlier, choice, ms, best_ms, within) if best_ms > 0 else None


def least_ms(space: Space, loss: float, slow: float) -> float:
    """Return the least time by the table of any levels that are expected to lose no more.

    Args:
        space: What may be chosen.
        loss: Most that may be lost.
        slow: A time in which something loses no more; returned where nothing faster is found.
    """
    quick = space.fastest().table_ms
    if not 0 < quick < slow:
        return slow
    low, high, least = math.log(quick), math.log(slow), slow
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        found = space.choose(math.exp(middle) * (1 + 1e-9))
        if found.loss <= loss:
            least, high = min(least, found.table_ms), middle
        else:
            low = middle
    return least
