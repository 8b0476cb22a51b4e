"""Whether one of two models is proven to be right less often: one rule for every sentence that says so.

The interval of the difference and McNemar's exact test may disagree near the edge: the interval is approximate, and
weighs classes alike where they differ in number. Only what both say counts as proven.
"""

from __future__ import annotations

from typing import Literal

from taco.report.accuracy_schema import Paired

#: Of the second model against the first: right less often, more often, no difference proven, or judged both ways.
Proof = Literal["loss", "gain", "none", "borderline"]
_SURE_P = 0.05


def proof(lost: tuple[float, float] | None, paired: Paired | None) -> Proof:
    """Judge two models by what is known of them.

    Args:
        lost: 95 % interval of the points that the second one loses; None where nothing was judged.
        paired: Both on the same pictures; None in reports of before these were counted: the interval alone judges them.
    """
    found = [one for one in (_by_interval(lost), _by_test(paired)) if one is not None]
    if not found:
        return "none"
    return found[0] if len(set(found)) == 1 else "borderline"


def borderline(lost: tuple[float, float], paired: Paired) -> str:
    """Say in what the two disagree; only for what `proof` calls borderline."""
    if _by_test(paired) == "none":
        return "borderline: the paired interval leaves out 0, but McNemar's exact test does not rule out chance"
    if _by_interval(lost) == "none":
        return "borderline: McNemar's exact test rules out chance, but the paired interval holds 0"
    return "borderline: the paired interval and McNemar's exact test point in opposite directions"


def _by_interval(lost: tuple[float, float] | None) -> Proof | None:
    if lost is None:
        return None
    return "loss" if lost[0] > 0 else "gain" if lost[1] < 0 else "none"


def _by_test(paired: Paired | None) -> Proof | None:
    if paired is None:
        return None
    if paired.p >= _SURE_P:
        return "none"
    return "loss" if paired.only_first > paired.only_second else "gain"
