"""What two reports say beside each other: `taco report diff A B --json`. Every change is B minus A, or B over A."""

from __future__ import annotations

from pydantic import Field

from taco.report.accuracy_schema import Paired
from taco.report.parts import Frozen, Proportion


class Interval(Frozen):
    """A figure with the interval that holds the true one."""

    value: float
    low: float
    high: float


class Side(Frozen):
    """One of the two runs."""

    name: str = Field(description="as it was named on the command line")
    target: str
    created: str
    command: list[str]


class ClassChange(Frozen):
    """The recall of one class in both runs, each on its own pictures."""

    name: str
    a: Proportion | None
    b: Proportion | None
    points: float | None = Field(description="B minus A on the pictures of the class that both judged")
    pictures: int = Field(description="of the class that both judged")


class AccuracyChange(Frozen):
    """Accuracies, and their difference on the pictures that both runs judged."""

    a: Proportion | None
    b: Proportion | None
    pictures: int = Field(description="pictures that both runs judged, under the same label")
    points: Interval | None = Field(description="B minus A on those, paired 95 % interval; null where not comparable")
    paired: Paired | None = Field(description="A first, B second, on those pictures")
    balanced: bool = Field(description="points weigh each class alike, because the classes differ in number")
    classes: list[ClassChange]
    why_not: str | None = Field(description="why there is no difference with an interval")


class SpeedChange(Frozen):
    """Times, and their ratio where the same device was measured."""

    a_ms: float | None
    b_ms: float | None
    ratio: float | None = Field(description="A's time over B's: above 1, B is faster; null where not comparable")
    interval: tuple[float, float] | None = Field(description="of the ratio; null where none can be given")
    coverage: float | None = Field(description="how sure the interval is, 0 to 1; at least so much")
    how: str = Field(description="how the two were compared, or why not")


class SizeChange(Frozen):
    """One measure of size."""

    name: str
    a: int
    b: int


class Setting(Frozen):
    """Something that was asked or used, and differs."""

    name: str
    a: str
    b: str


class Difference(Frozen):
    """The whole comparison."""

    a: Side
    b: Side
    verdict: str
    accuracy: AccuracyChange
    speed: SpeedChange
    sizes: list[SizeChange]
    settings: list[Setting]
    warnings: list[str]
