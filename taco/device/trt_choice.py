"""INT8 or FP16: what is used is what was measured to be faster on this device and keeps its answers."""

from __future__ import annotations

from typing import Dict, Mapping, NamedTuple, Optional, Sequence, Tuple

from taco.device.intervals import median_interval, ratios

ROLES = ("dense", "compressed")


class Chosen(NamedTuple):
    """Which models are used.

    `names` maps dense and compressed to a model each; `given_up` says why INT8 is not used, None where it is or was not
    asked for; `gain` is the time of FP16 over that of INT8, of the compressed model: the median of the rounds and its
    interval, None where there is nothing to compare with.
    """

    names: Dict[str, str]
    given_up: Optional[str]
    gain: Optional[Tuple[float, float, float]]


def choose(rounds: Mapping[str, Sequence[Sequence[float]]], instead: Mapping[str, str]) -> Chosen:
    """Choose by time.

    Args:
        rounds: Model -> samples by round, all of the same rounds.
        instead: Role -> the model in FP16 that stands in where INT8 does not pay; empty where there is none.
    """
    names = {role: role for role in ROLES}
    if not instead:
        return Chosen(names, None, None)
    gain = median_interval(ratios(rounds[instead["compressed"]], rounds["compressed"]))
    if gain[0] > 1:
        return Chosen(names, None, gain)
    why = (
        f"INT8 is slower than FP16 here: of the compressed model FP16 takes {gain[0]:.2f} of the INT8 time "
        f"({gain[1]:.2f} to {gain[2]:.2f})"
    )
    return Chosen(dict(instead), why, gain)
