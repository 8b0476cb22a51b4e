"""From times in alternating rounds to the cells of a latency table.

A cell is the median over rounds of a micro-model's time over the dense model's, times the dense model's p50 of all
runs: a machine that changes its speed between two runs, or within one, changes both alike (RUNTIMES.md, Measuring).
No torch.
"""

from __future__ import annotations

from collections.abc import Mapping

from taco.device.trt_units import DENSE
from taco.latency.table import Cell, WholeModel, ZerosGain
from taco.timing.timings import BenchResult, Ratio


def spread(result: BenchResult) -> float:
    """Return the widest interval, as a share of its median."""
    return max(_width(_ratio(result, name)) for name in result.models if name != DENSE)


def spread_of_whole(result: BenchResult) -> float:
    """Return the widest interval, as a share of the dense model's time: what it leaves open of a whole model's."""
    ratios = [_ratio(result, name) for name in result.models if name != DENSE]
    return max(ratio.high - ratio.low for ratio in ratios)


def cell(result: BenchResult, width: int, dense_ms: float) -> Cell:
    """Return the cell of one width.

    Args:
        result: Times of the dense model and of a unit's micro-models, which go by their widths.
        width: One of them.
        dense_ms: p50 of the dense model over all runs, milliseconds.
    """
    ratio, timing = _ratio(result, str(width)), result.models[str(width)]
    return Cell(
        width=width,
        min_ms=timing.min_ms,
        p50_ms=dense_ms * ratio.value,
        n=timing.n,
        spread=_width(ratio),
        source="measured",
    )


def wholes(result: BenchResult, widths: Mapping[str, Mapping[str, int]], dense_ms: float) -> tuple[WholeModel, ...]:
    """Return what whole models with narrower units take.

    Args:
        result: Times of the dense model and of these.
        widths: Their names -> unit -> width.
        dense_ms: p50 of the dense model over all runs, milliseconds.
    """
    found = []
    for name, kept in widths.items():
        ratio = _ratio(result, name)
        n, p50_ms = result.models[name].n, dense_ms * ratio.value
        found.append(WholeModel(widths=dict(kept), p50_ms=p50_ms, n=n, spread=_width(ratio)))
    return tuple(found)


def gains(result: BenchResult) -> tuple[ZerosGain, ...]:
    """Return what zeros in the weights of the dense model gain; models go by their patterns."""
    return tuple(_gain(name, result.speedup(DENSE, name)) for name in result.models if name != DENSE)


def _ratio(result: BenchResult, name: str) -> Ratio:
    """Return the time of a micro-model as a share of the dense model's."""
    return result.speedup(name, DENSE)


def _width(ratio: Ratio) -> float:
    """Return the width of a ratio's interval, as a share of it."""
    return (ratio.high - ratio.low) / ratio.value


def _gain(pattern: str, ratio: Ratio) -> ZerosGain:
    percent, low, high = (100 * (1 - 1 / value) for value in (ratio.value, ratio.low, ratio.high))
    return ZerosGain(pattern=pattern, percent=percent, low=low, high=high)
