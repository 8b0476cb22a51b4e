"""Limits of a run: levels that keep a block's memory down, and what whole models use."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from families import SMALL, build, random_orders, units_of

from taco.allocate import Allocation
from taco.compress import stitch
from taco.errors import BudgetInfeasibleError
from taco.latency.levels import Choice, Level
from taco.search.budget import Limits, check_size
from taco.search.limiting import Held, Limiter, broken_error
from taco.search.micromodels import find_holders
from taco.search.uniform import Searcher
from taco.surgery.size import peak_activation_bytes

FAMILY = SMALL[0]


def make_limiter(**limits: float) -> Limiter:
    model, found = build(FAMILY), units_of(FAMILY)
    nothing: Any = None
    artifact: Any = SimpleNamespace(size_bytes=4 * sum(p.numel() for p in model.parameters()) + 1000)
    solutions = random_orders(found.within_blocks, 0)
    searcher = Searcher(model, solutions, nothing, nothing, artifact, FAMILY.input_size, Path(), nothing)
    return Limiter(searcher, Limits(**limits), find_holders(model, found, FAMILY.input_size))


def whole(limiter: Limiter, widths: dict[str, int]) -> int:
    smaller = stitch(build(FAMILY), limiter.searcher.solutions, widths, compensate=False)
    return peak_activation_bytes(smaller, FAMILY.input_size)


def test_levels_are_kept_down_to_those_whose_block_fits_and_the_whole_model_then_does() -> None:
    units = units_of(FAMILY).within_blocks
    options = {
        u.name: [Level(w, 0.0, float(w), "measured") for w in range(u.width, 0, -max(1, u.width // 8))] for u in units
    }
    limiter = make_limiter()
    widths = [{name: own[place].width for name, own in options.items()} for place in (0, -1)]
    dense, least = (whole(limiter, some) for some in widths)
    assert least < dense
    asked = (dense + least) / 2
    limiter = make_limiter(memory_bytes=asked)
    fitting = limiter.fitting(options)
    assert fitting != options
    assert all(fitting[name] == own[len(own) - len(fitting[name]) :] for name, own in options.items())
    widest = {name: own[0].width for name, own in fitting.items()}
    (held,) = limiter.held(Allocation(1.0, widest))
    assert held == Held("--max-memory", asked, float(whole(limiter, widest)))
    assert not held.broken
    assert held.used > least
    assert make_limiter().fitting(options) == options


def test_what_adds_up_is_predicted_exactly_where_units_share_no_layer() -> None:
    limiter = make_limiter(size_bytes=1e6, macs=1e6)
    units = [s.unit for s in limiter.searcher.solutions.values()]
    widths = {u.name: u.width // 2 for u in units}
    options = {u.name: [Level(u.width, 0.0, 1.0, "measured")] for u in units}
    choice = Choice({name: Level(width, 0.0, 1.0, "measured") for name, width in widths.items()})
    held = {h.flag: h.used for h in limiter.held(Allocation(0.5, widths))}
    for limit in limiter.limits({}):
        assert limit.used(choice, options, {}) == pytest.approx(held[limit.flag])
    caps = {limit.flag: limit.cap for limit in limiter.limits({"--max-macs": 0.5})}
    assert caps == {"--max-macs": 5e5, "--max-bytes": pytest.approx(0.99e6)}
    assert make_limiter().held(Allocation(0.5, widths)) == ()


def test_the_refusal_names_what_was_reached_and_a_file_that_came_out_larger_is_refused() -> None:
    error = broken_error([Held("--max-bytes", 100.0, 150.0), Held("--max-macs", 10.0, 9.0)])
    assert error.exit_code == 3
    assert "--max-bytes 100 (reached: 150) cannot be held" in error.what
    assert "--max-macs" not in error.what
    check_size(Limits(size_bytes=100.0), 100)
    check_size(Limits(), 10**9)
    with pytest.raises(BudgetInfeasibleError, match="--max-bytes 100: the exported file takes 101"):
        check_size(Limits(size_bytes=100.0), 101)
