"""What a Jetson timed, as figures of the network's units: cells for a latency table, and shares of a whole engine.

No torch: units come as plain names.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from taco.errors import MeasurementError
from taco.timing.timings import median_ratio

_AT = "@"


@dataclasses.dataclass(frozen=True, slots=True)
class UnitTime:
    """One unit at one width, timed as an engine of its own.

    Attributes:
        unit: Its name.
        width: What was kept.
        min_ms: Fastest run.
        p50_ms: Its time: that of the unit's widest engine times the median of the rounds' ratios.
        n: Timed runs.
        spread: Width of the 95 % interval of that median, as a share of it.
    """

    unit: str
    width: int
    min_ms: float
    p50_ms: float
    n: int
    spread: float


def model_name(unit: str, width: int) -> str:
    """Return the name under which a unit at a width is asked for and answered."""
    return f"{unit}{_AT}{width}"


def cells(rounds_ms: Mapping[str, Sequence[Sequence[float]]]) -> list[UnitTime]:
    """Return what each unit costs at each width, from the answer of the agent's `sweep`.

    A shared machine changes its speed between rounds, so each width is compared with the unit's widest one within the
    rounds, and the ratio is what counts.

    Args:
        rounds_ms: `model_name(unit, width)` -> samples by round, milliseconds, all of the same rounds.

    Raises:
        MeasurementError: A name is not of that form, or rounds are missing.
    """
    widths: dict[str, list[int]] = {}
    for name in rounds_ms:
        unit, at, width = name.rpartition(_AT)
        if not at or not width.isdigit():
            raise MeasurementError(f"the device timed {name!r}, which names no unit and width")
        widths.setdefault(unit, []).append(int(width))
    return [
        _cell(unit, width, rounds_ms[model_name(unit, max(known))], rounds_ms[model_name(unit, width)])
        for unit, known in widths.items()
        for width in sorted(known, reverse=True)
    ]


def _cell(unit: str, width: int, widest: Sequence[Sequence[float]], own: Sequence[Sequence[float]]) -> UnitTime:
    if not own or len(widest) != len(own):
        raise MeasurementError(f"the device timed {model_name(unit, width)} in other rounds than its unit's widest")
    pairs = zip(widest, own, strict=True)
    ratio = median_ratio([statistics.median(mine) / statistics.median(wide) for wide, mine in pairs])
    samples = [sample for one in own for sample in one]
    whole = statistics.median(sample for one in widest for sample in one)
    spread = (ratio.high - ratio.low) / ratio.value
    return UnitTime(unit, width, min(samples), whole * ratio.value, len(samples), spread)


def unit_shares(modules: Iterable[Mapping[str, Any]], members: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Return the milliseconds of a profiled engine that each unit has a part in.

    A layer between two units counts for both: these are shares of one engine, and do not add up to it.

    Args:
        modules: Rows of a `LayerProfile`: `module` and `ms`.
        members: Unit -> names of the modules whose width it decides.
    """
    ms = {str(row["module"]): float(row["ms"]) for row in modules}
    return {
        unit: sum(time for module, time in ms.items() if any(_inside(module, name) for name in names))
        for unit, names in members.items()
    }


def _inside(module: str, name: str) -> bool:
    return module == name or module.startswith(f"{name}.")
