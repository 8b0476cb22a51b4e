"""Which models no other one beats, which one to take, what that loses, and where ours are beaten. Pure; no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from taco.front.schema import FrontPoint
from taco.report import wording
from taco.wording import asked_points

#: What a person can be handed as a bundle of ours.
PICKABLE = frozenset({"ours", "uniform", "macs", "dense", "resized", "beside"})


@dataclasses.dataclass(frozen=True, slots=True)
class Mark:
    """One model, as far as comparing goes.

    Attributes:
        name: Unique.
        kind: As in `taco.front.schema`.
        ms: Milliseconds.
        percent: Right answers on the judged pictures.
        lost: Points lost on the select pictures.
    """

    name: str
    kind: str
    ms: float
    percent: float
    lost: float

    @classmethod
    def of(cls, point: FrontPoint) -> Mark:
        """Return what a stored point is compared by."""
        return cls(point.name, point.kind, point.takes_ms, point.accuracy.percent, point.select.points)


def dominated_by(mark: Mark, others: Sequence[Mark]) -> str | None:
    """Return the most accurate, then fastest, model that is no slower and no less right, and better in one of both."""
    better = [
        o
        for o in others
        if o.ms <= mark.ms and o.percent >= mark.percent and (o.ms < mark.ms or o.percent > mark.percent)
    ]
    return min(better, key=lambda o: (-o.percent, o.ms, o.name)).name if better else None


def beating(marks: Sequence[Mark]) -> list[Mark]:
    """Return the models of others that none of ours is as fast and as right as: above and left of our front."""
    ours = [m for m in marks if m.kind == "ours"]
    return [
        m
        for m in marks
        if m.kind not in ("ours", "dense") and not any(o.ms <= m.ms and o.percent >= m.percent for o in ours)
    ]


def above(marks: Sequence[Mark]) -> str:
    """Name the models of others above and left of our front, with time and accuracy; empty where there is none."""
    return ", ".join(f"{mark.name} ({mark.ms:.2f} ms, {mark.percent:.1f} %)" for mark in beating(marks))


def recommend(marks: Sequence[Mark], limit: float) -> tuple[str, str] | None:
    """Return the name of the model to take and the reason; choices look at select pictures alone.

    Args:
        marks: All models.
        limit: Points that may be lost.

    Returns:
        The fastest pickable one within the limit; where there is none, the one that loses least.
    """
    pickable = [m for m in marks if m.kind in PICKABLE]
    if not pickable:
        return None
    within = [m for m in pickable if m.lost <= limit]
    if not within:
        least = min(pickable, key=lambda m: (m.lost, m.ms))
        return (
            least.name,
            f"no model loses at most {asked_points(limit)} on the select pictures; this one loses least there",
        )
    best = min(within, key=lambda m: (m.ms, m.lost))
    loses = f"it loses {best.lost:.1f} points" if best.lost > 0 else "it loses nothing"
    return best.name, f"the fastest that loses at most {asked_points(limit)} on the select pictures: {loses} there"


def exceeds(taken: FrontPoint, limit: float) -> str:
    """Say that the model to take loses more than the limit on pictures that had no say; empty where it does not."""
    if taken.drop_points <= limit:
        return ""
    found = (
        f"on the evaluation pictures {taken.name}, which is recommended, loses {wording.points(taken.drop_points)}, "
        f"{wording.more(taken.drop_ci95[0], limit)} than the {limit:g} that may be lost"
    )
    if taken.select.points > limit:
        return found
    return f"{found}: the select pictures could not tell. More --shots make the choice surer"
