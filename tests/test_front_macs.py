"""The way by multiply-accumulates beside ours: what it spends is what the whole model computes."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from families import build, random_orders, units_of
from test_units import family

from taco.compress import stitch
from taco.front.allocations import _by_macs
from taco.surgery.size import count_macs


def test_shares_fall_in_what_the_whole_model_computes() -> None:
    """Counted anew: a step further down always computes less, evenly in the logarithm."""
    chosen = family("efficientnet_lite0")
    model, units = build(chosen), units_of(chosen).of("inner")
    solutions = random_orders(units, 0)
    bench = SimpleNamespace(target=SimpleNamespace(channel_multiple=8))
    loop: Any = SimpleNamespace(searcher=SimpleNamespace(bench=bench))
    lost = SimpleNamespace(at=lambda width, _currency: -float(width))
    offered: Any = SimpleNamespace(losses={u.name: lost for u in units}, chosen=SimpleNamespace(currency="probes"))
    found = list(_by_macs(loop, units, offered))

    whole = sum(u.macs * u.width for u in units)
    rest = count_macs(model, chosen.input_size) - whole

    def share(widths: Mapping[str, int]) -> float:
        """Of what the units compute; what else is computed stays."""
        kept = stitch(model, solutions, widths, compensate=False)
        return (count_macs(kept, chosen.input_size) - rest) / whole

    shares = [share(found[index].widths) for index in (0, 8, 16, 24)]
    assert shares[0] == pytest.approx(1.0, rel=0.01)
    ratios = [after / before for before, after in itertools.pairwise(shares)]
    assert ratios == pytest.approx([ratios[0]] * 3, rel=0.05)
