"""What whole models that were timed with a table tell: what a sum of cells is worth, and a block that is left out."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from taco.latency.levels import Level, dense
from taco.latency.rounds import Known
from taco.latency.table import LatencyTable, WholeModel
from taco.latency.together import Together, total_ms

#: Less than that of a block's time is an accident of its whole models.
_LEAST_SAVED = 0.2


#: Unit -> levels.
Options = Mapping[str, Sequence[Level]]


def known_wholes(table: LatencyTable, options: Options, dense_ms: float, together: tuple[Together, ...] = ()) -> Known:
    """Return the whole models of smaller widths that were timed with a table, as far as they cut what may be cut.

    Args:
        table: Times.
        options: Unit -> levels.
        dense_ms: The dense model, measured now.
        together: Units that share layers.
    """
    scale = dense_ms / table.dense_ms
    found = [(dense(options, together).table_ms, dense_ms)]
    for whole in table.wholes:
        if whole.widths.keys() == options.keys():
            found.append((_sum(table, whole, together), scale * whole.p50_ms))
    return Known(tuple(found), scale)


def saved_share(table: LatencyTable, options: Options, together: tuple[Together, ...] = ()) -> float:
    """Return which share of its time by the table a block saves that is left out, where widths save all of theirs.

    A block that is timed by itself also reads its input and writes its output, and is started; none of that goes away
    with it (OpenVINO: 0.6 in INT8, 0.75 in fp32; ONNX Runtime: 0.95). Least squares over the whole models that were
    timed without some blocks; 1 where there is none.

    Args:
        table: Times.
        options: Unit -> levels.
        together: Units that share layers.
    """
    known = known_wholes(table, options, table.dense_ms, together)
    by_table, saved = list[float](), list[float]()
    for whole in table.wholes:
        gone = {name for name in options if table.units[name].holder in whole.left_out}
        if gone and options.keys() - gone == whole.widths.keys() - set(whole.left_out):
            stays = total_ms({name: options[name][0].ms for name in gone}, together)
            worth = known.line(whole.p50_ms).invert(whole.p50_ms)
            by_table.append(_blocks_ms(table, options, gone))
            saved.append(_sum(table, whole, together) + stays - worth)
    energy = float(np.dot(by_table, by_table))
    return min(1.0, max(_LEAST_SAVED, float(np.dot(by_table, saved)) / energy)) if energy > 0 else 1.0


def left_ms(dense_ms: Mapping[str, float], share: float, together: tuple[Together, ...] = ()) -> float:
    """Return what a block still counts that is left out, whose units' levels each hold its time.

    Args:
        dense_ms: Unit -> its dense level; of all units in the block.
        share: See `saved_share`.
        together: Units that share layers: their block's time counts once.
    """
    return total_ms(dense_ms, together) - share * statistics.fmean(dense_ms.values())


def _blocks_ms(table: LatencyTable, options: Options, units: set[str]) -> float:
    """Return what the dense blocks that hold some units take together; the units of one block share its time."""
    blocks: dict[str, list[float]] = {}
    for name in units:
        blocks.setdefault(table.units[name].holder, []).append(options[name][0].ms)
    return math.fsum(map(statistics.fmean, blocks.values()))


def _sum(table: LatencyTable, whole: WholeModel, together: tuple[Together, ...]) -> float:
    """Return what the table says of the units that a whole model has."""
    kept = {name: width for name, width in whole.widths.items() if name not in whole.left_out}
    return total_ms({name: table.units[name].at(width).p50_ms for name, width in kept.items()}, together)
