"""Layers are divided into lots that memory allows; the longest work begins first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from taco.database.lots import lots_of

ENTRY = st.tuples(st.integers(1, 100), st.integers(0, 50))


@given(st.lists(ENTRY, max_size=30), st.integers(1, 150))
def test_every_layer_is_in_one_lot_that_fits(entries: list[tuple[int, int]], budget: int) -> None:
    layers = [f"layer{i}" for i in range(len(entries))]
    size = {name: entry[0] for name, entry in zip(layers, entries, strict=True)}
    cost = {name: float(entry[1]) for name, entry in zip(layers, entries, strict=True)}
    lots = lots_of(layers, size, cost, budget)
    assert sorted(name for lot in lots for name in lot) == sorted(layers)
    assert all(lot for lot in lots)
    assert all(len(lot) == 1 or sum(size[name] for name in lot) <= budget for lot in lots)
    assert all([cost[n] for n in lot] == sorted((cost[n] for n in lot), reverse=True) for lot in lots)
    if layers:
        assert cost[lots[0][0]] == max(cost.values())


def test_the_lot_of_the_longest_is_filled_up_with_shorter_ones() -> None:
    size = {"wide": 60, "wide2": 40, "middle": 30, "small": 5}
    cost = {"wide": 100.0, "wide2": 90.0, "middle": 30.0, "small": 1.0}
    assert lots_of(["small", "middle", "wide", "wide2"], size, cost, 105) == [["wide", "wide2", "small"], ["middle"]]
