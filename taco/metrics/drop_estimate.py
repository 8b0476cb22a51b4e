"""How many points of accuracy a model has lost, from several looks at few pictures.

With 32 select pictures one answer is 3 points, so that a limit of one point could only be told apart by luck. A picture
that is looked at several times is right in part, and what a model loses shows before a whole answer falls. The
pictures, not the looks, are what the interval counts (docs/adr/0023). Numpy only.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from taco.device.statistics import paired_shares
from taco.errors import InputError
from taco.metrics.accuracy import Drop


def estimate_drop(
    labels: NDArray[np.integer], dense: NDArray[np.floating], other: NDArray[np.floating], *, balanced: bool
) -> Drop:
    """Estimate how much less often another model is right than the dense one.

    Args:
        labels: (n,) int, true classes.
        dense: (n * looks, classes) float, logits of the dense model, all looks at the first picture first.
        other: The same of the other one.
        balanced: Whether each class weighs the same, as `Score.balanced` says.

    Raises:
        InputError: No picture, or arrays that do not pair up.
    """
    looks = len(dense) // max(1, labels.size)
    paired = dense.ndim == 2 and dense.shape == other.shape
    if not paired or not len(dense) or len(dense) != looks * labels.size:
        raise InputError(
            f"answers {dense.shape} and {other.shape} do not pair up with {labels.size} labels",
            "Let both models look at the same pictures, each as often",
        )
    first, second = ((answers.argmax(1).reshape(-1, looks) == labels[:, None]).mean(1) for answers in (dense, other))
    found = paired_shares(labels, first, second, balanced)
    return Drop(found.points, found.low, found.high, int(labels.size), found.lower_one_sided)
