"""The parts of `report.json` on how widths were searched: by accuracy lost, and on whole models."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from taco.report.parts import Frozen


class DropFigures(Frozen):
    """Accuracy lost against the dense specialist on held-out shots, in points; positive is a loss."""

    points: float = Field(
        description="what decides: over several looks at every picture, by heads that have not seen them"
    )
    low: float = Field(description="lower end of the paired 95 % interval over the pictures")
    high: float


class DropTrial(DropFigures):
    """One candidate, recovered with a part of the time."""

    kept_percent: float = Field(description="of all widths")
    steps: int = Field(description="of its recovery")
    judging_images: int | None = Field(
        None,
        description="shots that judged it: not all where it surely lost too much before, or, in older reports, seemed "
        "to hold and a smaller one held; null in still older ones",
    )
    pictures: str | None = Field(None, description="their size in pixels, height x width, where several competed")
    beyond: float | None = Field(
        None,
        description="points lost beyond the uncut model for smaller pictures that held and with which it was compared; "
        "null where it was compared with the dense specialist",
    )
    room: float | None = Field(
        None,
        description="most that it might lose beyond that one: the limit less what that one loses, at least 0; null "
        "where `beyond` is",
    )
    expected_nats: float | None = Field(
        None,
        description="by how much it was expected to change the answers before recovery, beyond the model it was "
        "compared with, nats; null where measured time and losses did not choose it (also where it was taken over "
        "from another device), and in older reports",
    )


#: `behind` of a size that changes the answers more however long it takes, or that loses too much with nothing cut.
NEVER = 100.0


class SizeGain(Frozen):
    """What a size of pictures gains on two devices."""

    pictures: str = Field(description="the size in pixels, height x width")
    here: float = Field(description="how many times as fast the dense model for it is as that for its own size")
    there: float = Field(description="the same on the device of the other run")
    behind: float | None = Field(
        None,
        description="how many times as long a model of this size took there for as little change of the answers as the "
        "one that was taken, 100 where none changed so little; null for the size that was taken",
    )


class OtherSize(Frozen):
    """A size of pictures that the model does not read, though it might have."""

    pictures: str = Field(description="the size in pixels, height x width")
    behind: float = Field(
        description="how many times as long a model of this size takes for as little change of the answers before "
        "recovery as the one that was taken, 100 where none changes them so little; read between five times"
    )
    profiled: bool = Field(
        description="whether its units were timed; else their times are those of another size, changed as the dense "
        "model's"
    )


class TakenOver(Frozen):
    """Widths that the search of a run for another device took."""

    target: str = Field(description="of that run")
    ms: float = Field(description="of the whole model with those widths, predicted by this device's own table")
    best_ms: float = Field(description="the same of the fastest widths that are expected to lose no more")
    one_pass: bool = Field(
        description="whether that table is of one pass over the units, without whole models and without timing again "
        "what was in doubt"
    )
    sizes: list[SizeGain] = Field([], description="of every size of pictures where several competed")


class DropSearchSection(Frozen):
    """What `--max-drop` tried and why it took this model."""

    asked_points: float
    trials: list[DropTrial] = Field(description="in the order tried")
    shipped: DropFigures = Field(
        description="of the exported file: what its candidate lost, and what conversion took from its answers on the "
        "select pictures"
    )
    full_recoveries: int = Field(description="models that were recovered fully and exported until one held")
    judging_images: int = Field(description="shots that judged the candidates")
    looks: int = Field(description="at each of them: as it is, and cut out a little differently")
    sides: int = Field(
        description="how often each candidate was made, each time without those that judged it; 1: the select pictures "
        "alone judged"
    )
    taken_over: TakenOver | None = Field(
        None, description="where the widths are those of a run for another device; null where they were searched"
    )
    sizes: list[OtherSize] = Field(
        [], description="the others, where several competed and the widths were searched; in older reports empty"
    )


class LevelSearch(Frozen):
    """Search on whole models, beyond the sum of the units' losses."""

    method: Literal["spdy", "evopress"]
    evaluations: int = Field(description="whole models that were judged before any recovery")
    divergence: float = Field(description="from the dense answers on the select pictures, nats, of what was chosen")
    divergence_dp: float | None = Field(description="the same of the levels with the least sum of losses")
