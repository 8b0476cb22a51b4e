"""What units of a run lose, from the moments and the probes, and which widths a choice of levels means."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from taco.allocate import Allocation
from taco.latency.levels import Choice
from taco.latency.losses import Chosen, UnitLoss, choose_currency
from taco.progress import Progress
from taco.search.probes import Probed, Prober
from taco.search.uniform import Searcher
from taco.units import lies_in

log = logging.getLogger(__name__)
_PROBED = TypeAdapter(Probed)


def probed_once(searcher: Searcher, prober: Prober, progress: Progress) -> Probed:
    """Return the probes: of this run, or made now."""

    def compute() -> Any:
        with progress.step("cut units alone and together, and compare answers", prober.total) as advance:
            return _PROBED.dump_python(prober.probe(advance), mode="json")

    return _PROBED.validate_python(searcher.rundir.json_step("probes", prober.key, compute))


def losses_of(searcher: Searcher, probed: Probed) -> dict[str, UnitLoss]:
    """Return what every unit loses; blocks, which have no widths, are missing."""
    return {
        name: UnitLoss(s.order.loss.numpy(), s.unit.parts, probed.alone[name])
        for name, s in searcher.solutions.items()
        if s.unit.kind != "block"
    }


def currency_of(losses: Mapping[str, UnitLoss], probed: Probed) -> Chosen:
    """Return the currency that ranks the probed models best, and log how well each does."""
    chosen = choose_currency(losses, probed.joint)
    told = ", ".join(f"{name} {value:.2f}" for name, value in chosen.correlations.items())
    log.info("losses count in %s: rank correlation over %d models: %s", chosen.currency, chosen.models, told)
    return chosen


def allocation_of(searcher: Searcher, choice: Choice) -> Allocation:
    """Return the widths of all units: dense where a choice says nothing, 0 within a block that is left out."""
    units = {name: s.unit for name, s in searcher.solutions.items()}
    widths = {name: choice.widths.get(name, unit.width) for name, unit in units.items()}
    gone = [name for name, unit in units.items() if unit.kind == "block" and widths[name] == 0]
    widths |= {name: 0 for name, unit in units.items() if any(lies_in(unit, block) for block in gone)}
    channels = [name for name, unit in units.items() if unit.kind != "block"]
    kept, dense = sum(widths[name] for name in channels), sum(units[name].width for name in channels)
    return Allocation(kept / dense, widths)
