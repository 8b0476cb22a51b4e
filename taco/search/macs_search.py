"""Find the width of every unit by its own loss for a budget of multiply-accumulates: the latency loop without a clock.

What a unit saves is taken as proportional to what it loses in width; where two units cut one layer that is only nearly
so, and the loop corrects it by counting whole models. The result is compared with one ratio for all units, and with a
search without leaving blocks out, on the select pictures: the least harmful is kept.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from taco.allocate import Allocation
from taco.compress import stitch
from taco.errors import BudgetInfeasibleError
from taco.latency.levels import MOST_LEVELS, Choice, Drop, Drops, Level
from taco.latency.levels import dense as all_dense
from taco.latency.limits import Space
from taco.latency.losses import Currency, UnitLoss, exchange_rate
from taco.latency.rounds import Known, Line, Round, latency_rounds, least_loss
from taco.progress import Advance
from taco.search.budget import Budget
from taco.search.limiting import Limiter, Searched, within_limits
from taco.search.probes import Probed, Prober
from taco.search.uniform import Searcher
from taco.search.unit_losses import allocation_of, currency_of, losses_of
from taco.surgery.size import count_macs
from taco.units import lies_in, steps_of

#: Multiply-accumulates count in millions, which stand where the latency loop has milliseconds.
_MILLION = 1e6


@dataclasses.dataclass(frozen=True, eq=False)
class MacsSearcher:
    """Everything that the search needs.

    Attributes:
        searcher: Has the units and the dense model.
        prober: Cuts units and looks at the answers.
        limiter: What holds beside the budget.
    """

    searcher: Searcher
    prober: Prober
    limiter: Limiter

    def find(self, share: float, probed: Probed, advance: Advance) -> dict[str, Any]:
        """Find the allocation; returns JSON values so that the run can store them.

        Args:
            share: Of the dense multiply-accumulates that may be kept; 1 where only limits count.
            probed: From `taco.search.unit_losses.probed_once`.
            advance: Called with 1 after every model that is counted.

        Returns:
            `candidates` as from `Searcher.find`, one; `trials`, ratio and MACs of the models that were counted;
            `currency`, `blocks`, `spread` and `limits` for the report.

        Raises:
            BudgetInfeasibleError: No choice of widths and blocks keeps so little, or holds a limit.
        """
        searcher = self.searcher
        dense = count_macs(searcher.dense, searcher.input_size)
        losses = losses_of(searcher, probed)
        chosen = currency_of(losses, probed)
        options = self._options(losses, chosen.currency)
        drops = self._drops(options, losses, probed, chosen.currency)
        trials: list[tuple[float, int]] = []

        def count(choice: Choice, _: float) -> float:
            allocation = allocation_of(searcher, choice)
            trials.append((allocation.ratio, self._count(allocation)))
            advance(1)
            return trials[-1][1] / _MILLION

        def attempt(space: Space) -> Searched:
            if share < 1:
                known = Known(((all_dense(space.options).table_ms, dense / _MILLION),), 1.0)
                rounds = list(latency_rounds(known, share * dense / _MILLION, least_loss(space), count))
            else:
                choice = space.choose(all_dense(options).table_ms)
                rounds = [Round(choice, choice.table_ms, count(choice, choice.table_ms), Line(0.0, 1.0))]
            good = [r for r in rounds if r.measured_ms <= share * dense / _MILLION]
            if not good:
                raise BudgetInfeasibleError(
                    f"--macs {share:g} cannot be reached by widths and blocks",
                    "Ask for more, or choose a smaller --model",
                )
            return Searched((max(good, key=lambda r: r.measured_ms).choice,), tuple(rounds))

        def search(blocks: Drops) -> Searched:
            return within_limits(self.limiter, Space(options, blocks), attempt)

        found = self._best(search, drops, probed, self._one_ratio(share, advance))
        return {**found, "trials": trials, "currency": dataclasses.asdict(chosen)}

    def _best(
        self, search: Callable[[Drops], Searched], drops: Drops, probed: Probed, one_ratio: Allocation | None
    ) -> dict[str, Any]:
        """Return the least harmful of a search with blocks, one without, and one ratio for all units."""
        found: dict[str, Allocation] = {}
        failed: BudgetInfeasibleError | None = None
        for name, blocks in {"with blocks": drops, "widths alone": {}}.items():
            if name == "widths alone" or blocks:
                try:
                    found[name] = allocation_of(self.searcher, search(blocks).choices[0])
                except BudgetInfeasibleError as error:
                    failed = failed or error
        if one_ratio is not None:
            found["one ratio"] = one_ratio
        if not found:
            raise failed or BudgetInfeasibleError("nothing can be chosen", "Choose another --model")
        harms = {name: self.prober.harm(allocation.widths) for name, allocation in found.items()}
        best = found[min(harms, key=lambda name: harms[name])]
        taken = [name for name in drops if best.widths[name] == 0]
        blocks_told = {"offered": {n: probed.dropped[n] for n in drops}, "taken": taken} if drops else None
        return {
            "candidates": [dataclasses.asdict(best)],
            "blocks": blocks_told,
            "spread": harms,
            "limits": [dataclasses.asdict(h) for h in self.limiter.held(best)],
        }

    def _one_ratio(self, share: float, advance: Advance) -> Allocation | None:
        """Return the widest allocation of one ratio for all units that holds the budget and every limit."""
        searcher = self.searcher
        try:
            values = searcher.find(Budget(None, share), advance)
        except BudgetInfeasibleError:
            return None
        dense = {name: s.unit.width for name, s in searcher.solutions.items()}
        for candidate in values["candidates"]:
            allocation = Allocation(candidate["ratio"], {**dense, **candidate["widths"]})
            if not any(held.broken for held in self.limiter.held(allocation)):
                return allocation
        return None

    def _count(self, allocation: Allocation) -> int:
        searcher = self.searcher
        smaller = stitch(searcher.dense, searcher.solutions, allocation.widths, compensate=False)
        return count_macs(smaller, searcher.input_size)

    def _options(self, losses: Mapping[str, UnitLoss], currency: Currency) -> dict[str, list[Level]]:
        """Return the levels of every unit: its widths at the target's multiple, at most `MOST_LEVELS` of them."""
        solutions = self.searcher.solutions
        steps = steps_of((s.unit for s in solutions.values()), self.searcher.bench.target.channel_multiple)
        found = {}
        for name, loss in losses.items():
            unit, step = solutions[name].unit, steps[name]
            narrower = range((unit.width - 1) // step * step, 0, -step)
            kept = [unit.width, *_evenly(list(narrower), MOST_LEVELS - 1)]
            per_channel = unit.macs / _MILLION
            found[name] = [Level(width, loss.at(width, currency), per_channel * width, "measured") for width in kept]
        return found

    def _drops(
        self, options: Mapping[str, list[Level]], losses: Mapping[str, UnitLoss], probed: Probed, currency: Currency
    ) -> dict[str, Drop]:
        """Return the blocks that may be left out; what they save is all that runs in them."""
        rate, solutions = exchange_rate(losses, currency), self.searcher.solutions
        found: dict[str, Drop] = {}
        if rate is None:
            return found
        for block, harm in probed.dropped.items():
            units = tuple(name for name in options if lies_in(solutions[name].unit, block))
            if units:
                whole = solutions[block].unit.macs / _MILLION
                left = sum(options[name][0].ms for name in units) - whole
                found[block] = Drop(units, rate * max(0.0, harm), whole, "measured", left)
        return found


def _evenly(widths: list[int], most: int) -> list[int]:
    """Return at most so many, first and last among them."""
    if len(widths) <= most:
        return widths
    return [widths[round(i * (len(widths) - 1) / (most - 1))] for i in range(most)]
