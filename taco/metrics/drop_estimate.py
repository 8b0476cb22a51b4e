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
    if dense.shape != other.shape:
        raise _unpaired(labels, dense, other)
    return drop_between(labels, right_shares(labels, dense), right_shares(labels, other), balanced=balanced)


def right_shares(labels: NDArray[np.integer], answers: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return in what share of the looks at each picture a model is right, (n,).

    Args:
        labels: (n,) int, true classes.
        answers: (n * looks, classes) float, logits, all looks at the first picture first.

    Raises:
        InputError: No picture, or not as many answers for each.
    """
    looks = len(answers) // max(1, labels.size)
    if answers.ndim != 2 or not len(answers) or len(answers) != looks * labels.size:
        raise _unpaired(labels, answers)
    shares: NDArray[np.float64] = (answers.argmax(1).reshape(-1, looks) == labels[:, None]).mean(1)
    return shares


def drop_between(
    labels: NDArray[np.integer], dense: NDArray[np.floating], other: NDArray[np.floating], *, balanced: bool
) -> Drop:
    """Return the same of what `right_shares` gives for both models, (n,) each."""
    found = paired_shares(labels, dense, other, balanced)
    return Drop(found.points, found.low, found.high, int(labels.size), found.lower_one_sided)


def _unpaired(labels: NDArray[np.integer], *answers: NDArray[np.floating]) -> InputError:
    shapes = " and ".join(str(given.shape) for given in answers)
    return InputError(
        f"answers {shapes} do not pair up with {labels.size} labels",
        "Let both models look at the same pictures, each as often",
    )
