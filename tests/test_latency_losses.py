"""Currencies of losses: each by hand, and probes are taken unless another surely ranks models better."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taco.latency.losses import (
    CURRENCIES,
    Joint,
    Probe,
    UnitLoss,
    choose_currency,
    exchange_rate,
    lost,
    rank_correlation,
)


def make_loss(*probes: Probe, readers: int = 1) -> UnitLoss:
    """Eight channels; the share that is lost grows by a tenth with each that leaves."""
    return UnitLoss(np.arange(9) / 10, readers, probes)


@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 3))
def test_logarithms_grow_with_what_is_lost_and_are_about_the_share_when_small(a: float, b: float, readers: int) -> None:
    low, high = sorted((a * readers, b * readers))
    assert lost(low, readers) <= lost(high, readers)
    assert math.isfinite(lost(high, readers))
    assert lost(low, readers) >= low * (1 - 1e-12)
    assert lost(1e-6, readers) == pytest.approx(1e-6, rel=1e-5)


def test_every_currency_by_hand() -> None:
    unit = make_loss(Probe(6, 0.4), Probe(4, 2.0))
    assert unit.at(5, "shares") == pytest.approx(0.3)
    assert unit.at(5, "logarithms") == pytest.approx(-math.log(0.7))
    assert unit.at(6, "probes") == pytest.approx(0.4)
    assert unit.at(7, "probes") == pytest.approx(0.2), "halfway to the first probe"
    assert unit.at(5, "probes") == pytest.approx(1.2), "halfway between two"
    assert unit.at(2, "probes") == pytest.approx(2.0 * math.log(0.4) / math.log(0.6)), "beyond the last"
    assert [unit.at(8, currency) for currency in CURRENCIES] == [0, 0, 0]


def test_two_readers_share_what_is_lost() -> None:
    assert make_loss(readers=2).at(4, "logarithms") == pytest.approx(-2 * math.log(0.8))


def test_without_probes_and_with_falling_ones_harm_never_falls() -> None:
    assert make_loss().at(1, "probes") == 0.0
    unit = make_loss(Probe(6, 0.4), Probe(4, 0.1))
    harms = [unit.at(width, "probes") for width in range(8, 0, -1)]
    assert harms == sorted(harms)


def test_the_currency_that_surely_ranks_models_best_is_taken() -> None:
    units = {"a": make_loss(Probe(4, 0.01)), "b": make_loss(Probe(4, 5.0))}
    joints = [Joint({"a": a, "b": b}, 0.01 * (8 - a) + 5 * (8 - b)) for a, b in ((2, 8), (8, 6), (1, 7), (5, 4))]
    chosen = choose_currency(units, joints)
    assert (chosen.currency, chosen.models) == ("probes", 4)
    assert chosen.correlations["probes"] == pytest.approx(1.0)
    assert chosen.correlations["shares"] < 0.5
    even = [Joint({"a": a, "b": b}, float(16 - a - b)) for a, b in ((8, 7), (5, 8), (6, 3), (2, 2))]
    assert choose_currency(units, even).correlations["shares"] == pytest.approx(1.0)
    pairs = [(a, b) for a in (1, 3, 5, 8) for b in (2, 4, 6, 7)]
    uneven = [Joint({"a": a, "b": b}, float(30 - 3 * a - b)) for a, b in pairs]
    surely = choose_currency(units, uneven)
    assert surely.correlations["shares"] > surely.correlations["probes"] + 0.3
    assert surely.currency == max(surely.correlations, key=lambda currency: surely.correlations[currency]) != "probes"


def test_probes_that_tell_nothing_are_not_taken() -> None:
    """A cut of one unit alone changes no answer; those of all at once do."""
    units = {"a": make_loss(Probe(4, 0.0)), "b": make_loss(Probe(4, 0.0))}
    joints = [Joint({"a": a, "b": 9 - a}, harm) for a, harm in ((1, 0.2), (8, 0.1), (4, 0.3), (3, 0.25))]
    assert choose_currency(units, joints).currency != "probes"


def test_a_lead_that_chance_may_give_does_not_count() -> None:
    """Both rank about as well; one model more or less turns it."""
    units = {"a": make_loss(Probe(4, 1.0)), "b": make_loss(Probe(4, 2.0))}
    rng = np.random.default_rng(0)
    drawn = [tuple(map(int, pair)) for pair in rng.integers(1, 9, (16, 2))]
    joints = [
        Joint({"a": a, "b": b}, float(24 - a - 2 * b) * noise)
        for (a, b), noise in zip(drawn, rng.lognormal(0, 1.0, 16), strict=True)
    ]
    found = [choose_currency(units, joints[:n]) for n in range(8, 17)]
    assert any(max(one.correlations, key=lambda c: one.correlations[c]) != "probes" for one in found)
    assert all(one.currency == "probes" for one in found)


def test_rank_correlation_by_hand() -> None:
    assert rank_correlation([1, 2, 3], [10, 20, 1000]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert rank_correlation([1, 2, 3, 4], [2, 1, 4, 3]) == pytest.approx(0.6)
    assert rank_correlation([1, 1, 2], [5, 5, 9]) == pytest.approx(1), "equal values share their rank"
    assert rank_correlation([1, 1], [1, 2]) == 0


def test_harm_is_exchanged_at_the_rate_of_the_probes() -> None:
    units = {"a": make_loss(Probe(6, 0.5), Probe(4, 1.5)), "b": make_loss(Probe(4, 0.0))}
    assert exchange_rate(units, "shares") == pytest.approx((0.2 + 0.4 + 0.4) / 2.0)
    assert exchange_rate(units, "probes") == pytest.approx(1.0)
    assert exchange_rate({"b": units["b"]}, "shares") is None
    assert exchange_rate({}, "probes") is None
