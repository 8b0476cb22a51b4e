"""Widths and blocks for a budget of multiply-accumulates: within it, near it, and no more harmful than one ratio."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from families import SMALL, build, pictures, solved, units_of
from torch import nn

from taco.allocate import Allocation
from taco.compress import droppable, stitch
from taco.errors import BudgetInfeasibleError
from taco.latency.levels import Choice, Level
from taco.latency.limits import LimitError
from taco.search.budget import Limits
from taco.search.limiting import Limiter
from taco.search.macs_search import MacsSearcher
from taco.search.micromodels import find_holders
from taco.search.probes import Probed, Prober
from taco.search.uniform import Searcher
from taco.search.unit_losses import allocation_of
from taco.specialist.specialise import predict_logits
from taco.surgery.size import count_macs
from taco.units import lies_in

FAMILY = SMALL[1]


@dataclasses.dataclass(frozen=True)
class Case:
    """A tiny model with a residual block, its search and its probes."""

    search: MacsSearcher
    probed: Probed
    dense: int

    @property
    def block(self) -> str:
        return self.search.prober.blocks[0]

    def find(self, share: float, probed: Probed | None = None) -> dict[str, Any]:
        return self.search.find(share, probed or self.probed, lambda _: None)

    def kept(self, widths: dict[str, int]) -> float:
        smaller = stitch(build(FAMILY), self.search.searcher.solutions, widths, compensate=False)
        return count_macs(smaller, FAMILY.input_size) / self.dense


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.fixture(scope="module")
def case() -> Case:
    model, x = build(FAMILY), pictures(FAMILY, 6)
    solutions = solved(model, units_of(FAMILY).within_blocks, [x])
    solutions |= {u.name: droppable(u) for u in units_of(FAMILY).of("block")}
    bench: Any = SimpleNamespace(target=SimpleNamespace(channel_multiple=4))
    nothing: Any = None
    dense: Any = SimpleNamespace(size_bytes=4 * parameters(model) + 5000)
    searcher = Searcher(model, solutions, nothing, bench, dense, FAMILY.input_size, Path(), nothing)
    fresh = pictures(FAMILY, 4, seed=9)

    def answer(module: Any) -> Any:
        return predict_logits(module, [fresh])

    prober = Prober(model, solutions, answer, answer(model).argmax(1), 4, {}, lambda: [x])
    probed = prober.probe(lambda _: None)
    limiter = Limiter(searcher, Limits(), {})
    return Case(MacsSearcher(searcher, prober, limiter), probed, count_macs(model, FAMILY.input_size))


def test_what_is_found_is_within_the_budget_near_it_and_least_harmful(case: Case) -> None:
    found = case.find(0.6)
    (candidate,) = found["candidates"]
    assert 0.5 <= case.kept(candidate["widths"]) <= 0.6
    harms = found["spread"]
    assert {"with blocks", "widths alone", "one ratio"} >= set(harms)
    assert case.search.prober.harm(candidate["widths"]) == pytest.approx(min(harms.values()))
    assert all(macs > 0 for _, macs in found["trials"])


def test_a_block_that_does_no_harm_is_left_out_with_all_that_is_in_it(case: Case) -> None:
    free = dataclasses.replace(case.probed, dropped={case.block: 0.0})
    blind = dataclasses.replace(case.search.prober, answer=lambda _: np.zeros((4, 5), np.float32))
    found = dataclasses.replace(case.search, prober=blind).find(0.8, free, lambda _: None)
    assert set(found["spread"].values()) == {0.0}, "nothing but the losses decides"
    assert found["blocks"] == {"offered": {case.block: 0.0}, "taken": [case.block]}
    widths = found["candidates"][0]["widths"]
    dear = dataclasses.replace(case.probed, dropped={case.block: 1e9})
    kept = case.find(0.8, dear)["candidates"][0]["widths"]
    assert kept[case.block] == 1
    solutions = case.search.searcher.solutions
    inside = {name for name, s in solutions.items() if lies_in(s.unit, case.block)}
    assert inside
    assert all(widths[name] == 0 for name in inside)
    assert case.kept(widths) <= 0.8


def test_units_of_a_block_that_is_left_out_keep_nothing_and_the_ratio_counts_channels(case: Case) -> None:
    level = Level(0, 0.0, 0.0, "measured")
    found = allocation_of(case.search.searcher, Choice({case.block: level}))
    solutions = case.search.searcher.solutions
    inside = [s.unit for s in solutions.values() if lies_in(s.unit, case.block)]
    total = sum(s.unit.width for s in solutions.values() if s.unit.kind != "block")
    assert found.ratio == pytest.approx(1 - sum(u.width for u in inside) / total)
    assert {name for name, width in found.widths.items() if width == 0} == {case.block, *(u.name for u in inside)}
    assert case.kept(dict(found.widths)) == pytest.approx(1 - solutions[case.block].unit.macs / case.dense)
    assert isinstance(found, Allocation)


def limited(case: Case, **limits: float) -> MacsSearcher:
    holders = find_holders(build(FAMILY), units_of(FAMILY), FAMILY.input_size) if "memory_bytes" in limits else {}
    limiter = Limiter(case.search.searcher, Limits(**limits), holders)
    return dataclasses.replace(case.search, limiter=limiter)


def smaller(case: Case, found: dict[str, Any]) -> nn.Module:
    widths = found["candidates"][0]["widths"]
    return stitch(build(FAMILY), case.search.searcher.solutions, widths, compensate=False)


def test_limits_on_bytes_and_macs_hold_as_counted_on_the_whole_model(case: Case) -> None:
    size = case.search.searcher.dense_artifact.size_bytes
    asked = {"size_bytes": 0.6 * size, "macs": 0.7 * case.dense}
    found = limited(case, **asked).find(1.0, case.probed, lambda _: None)
    model = smaller(case, found)
    assert count_macs(model, FAMILY.input_size) <= asked["macs"]
    assert 4 * parameters(model) + 5000 <= asked["size_bytes"]
    held = {h["flag"]: h for h in found["limits"]}
    assert held["--max-macs"]["used"] == count_macs(model, FAMILY.input_size)
    assert held["--max-bytes"]["used"] == 4 * parameters(model) + 5000
    assert max(h["used"] / h["asked"] for h in held.values()) > 0.85, "no more is taken away than needed"


@pytest.mark.slow
def test_a_limit_that_nothing_reaches_says_what_was_reached(case: Case) -> None:
    with pytest.raises(LimitError, match=r"--max-memory 1000 \(reached: .*Ask for --max-memory"):
        limited(case, memory_bytes=1000.0).find(1.0, case.probed, lambda _: None)


def test_a_limit_that_the_dense_model_holds_cuts_nothing(case: Case) -> None:
    found = limited(case, macs=2.0 * case.dense).find(1.0, case.probed, lambda _: None)
    widths = found["candidates"][0]["widths"]
    assert widths == {name: s.unit.width for name, s in case.search.searcher.solutions.items()}


def test_too_little_is_refused(case: Case) -> None:
    with pytest.raises(BudgetInfeasibleError, match=r"--macs 0\.01 cannot be reached"):
        case.find(0.01)
