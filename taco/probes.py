"""What cutting one unit alone does to the answers: the common currency in which units are weighed against each other.

The share of its readers' output that a unit loses says how widths of ONE unit compare; how much a lost share matters
differs a hundredfold between units (measured, docs/adr/0011). So every unit is cut alone at a few widths and the
divergence of the answers from the dense specialist's is taken on the select pictures, which moments never saw: on the
calibration pictures themselves wide late layers look free, because their refit has as many columns as samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from torch import nn

from taco.compress import UnitSolution, stitch
from taco.exporters.protocol import FloatArray
from taco.latency.levels import Probe

#: Shares of the dense width.
_SHARES = (0.75, 0.5, 0.25)


def probe_units(
    model: nn.Module,
    solutions: Mapping[str, UnitSolution],
    steps: Mapping[str, int],
    answer: Callable[[nn.Module], FloatArray],
    progress: Callable[[int], None],
) -> dict[str, list[Probe]]:
    """Cut every unit alone at a few widths and compare the answers.

    Args:
        model: The dense specialist, eval mode; not modified.
        solutions: Of its units.
        steps: Unit -> kept widths are multiples of this.
        answer: Module -> (n, classes) float32 logits on the select pictures.
        progress: Called with 1 after every unit.

    Returns:
        Unit -> probes, the widest first.
    """
    dense = answer(model)
    found: dict[str, list[Probe]] = {}
    for name, solution in solutions.items():
        found[name] = []
        for width in _widths(solution.unit.width, steps[name]):
            harm = divergence(dense, answer(stitch(model, {name: solution}, {name: width})))
            found[name].append(Probe(float(solution.order.loss[solution.unit.width - width]), harm))
        progress(1)
    return found


def divergence(dense: FloatArray, other: FloatArray) -> float:
    """Return the mean Kullback-Leibler divergence of answers from the dense model's, in nats.

    Args:
        dense: (n, classes) logits.
        other: (n, classes) logits.
    """
    p, q = _log_softmax(dense), _log_softmax(other)
    return max(0.0, float((np.exp(p) * (p - q)).sum(1).mean()))


def _log_softmax(logits: FloatArray) -> FloatArray:
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    found: FloatArray = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return found


def _widths(width: int, step: int) -> Iterator[int]:
    atoms: Sequence[int] = sorted({max(1, round(width * share / step)) for share in _SHARES}, reverse=True)
    yield from (step * n for n in atoms if step * n < width)
