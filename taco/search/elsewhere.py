"""What runs for other devices took, as a step of this device's own search: taken, or where to begin."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from taco.latency.table import LatencyTable
from taco.progress import Progress
from taco.search.earlier import Earlier, Weighed, fastest_of, times
from taco.search.ladder import Taken
from taco.search.latency_ladder import as_given, rung_of
from taco.search.latency_search import LatencySearcher, Offered


@dataclasses.dataclass(frozen=True, eq=False)
class Elsewhere:
    """The fastest of it by this device's table.

    Attributes:
        loop: Knows the units.
        offered: What may be chosen here.
        weighed: What was taken, against the fastest of the same expected loss here.
        at: Its size of pictures, see `Rung`.
        gains: See `Earlier`; of this device.
        behind: Likewise.
    """

    loop: LatencySearcher
    offered: Offered
    weighed: Weighed
    at: int = 0
    gains: Mapping[str, float] = dataclasses.field(default_factory=dict)
    behind: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def taken(self) -> Taken | None:
        """The same widths as a step of the search; None where this device has something faster."""
        found, table = self.weighed, self.offered.table
        if not found.near:
            return None
        there = found.earlier
        told = {
            "target": there.target,
            "ms": found.ms,
            "best_ms": found.best_ms,
            "one_pass": table.stopped_early and not table.wholes,
            "sizes": [
                {"pictures": words, "here": here, "there": there.gains[words], "behind": there.behind.get(words)}
                for words, here in self.gains.items()
            ],
        }
        rung = rung_of(self.loop, self.offered, as_given(self.offered, found.choice), self.at)
        return Taken(dataclasses.replace(rung, behind=self.behind), told)


def look_elsewhere(
    loop: LatencySearcher, progress: Progress, earlier: Sequence[Earlier], within: float
) -> Elsewhere | None:
    """Weigh what runs for other devices took by this device's table, which ends early where that is enough.

    Args:
        loop: Knows the units.
        progress: Told about what takes time, and what comes out.
        earlier: What was taken.
        within: See `Weighed`.

    Returns:
        None where there is nothing, or this device cannot have it.
    """
    if not earlier:
        return None

    def enough(table: LatencyTable) -> bool:
        found = fastest_of(loop, loop.offered(progress, table), earlier, within)
        return found is not None and found.near

    offered = loop.offered(progress, loop.table(progress, enough))
    found = fastest_of(loop, offered, earlier, within)
    if found is None:
        return None
    progress.say(found.words)
    return Elsewhere(loop, offered, found)


def carries_over(at: str, here: Mapping[str, float], there: Earlier, within: float) -> bool:
    """Whether a size of pictures that another device's clock chose is as good a choice by this one's.

    What a size loses is the same everywhere, and which is fastest for the same loss hangs on how much time each gains.
    So it is where no other size gains so much more here that it would be faster by more than `within`. That narrower
    models gain as dense ones do is a judgement.

    Args:
        at: The size.
        here: Size -> how many times as fast the dense model for it is as that for its own size.
        there: What the other device's search took at that size.
        within: Percent, see `Weighed`.
    """
    if at not in here or set(here) != set(there.gains) or set(here) != {at, *there.behind}:
        return False
    return all(longer * times(within) >= 1 for longer in behind(at, here, there).values())


def behind(at: str, here: Mapping[str, float], there: Earlier) -> dict[str, float]:
    """Return `Earlier.behind` as it is here: what it was there, but for what sizes gain more or less here."""
    return {
        other: longer * (here[at] / here[other]) / (there.gains[at] / there.gains[other])
        for other, longer in there.behind.items()
    }
