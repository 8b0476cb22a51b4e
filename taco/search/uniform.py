"""One ratio for the widths of all units: the widest that is fast enough by measurement, or small enough by MACs."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from taco.allocate import MARGIN, Allocation, by_macs, by_speedup, candidates, uniform
from taco.compress import UnitSolution, stitch
from taco.exporters.protocol import Artifact
from taco.progress import Advance
from taco.rundir import RunDir
from taco.search.bench import Bench
from taco.search.budget import Budget
from taco.surgery.size import count_macs
from taco.timing.timings import Ratio
from taco.units import WITHIN_BLOCKS, steps_of

log = logging.getLogger(__name__)

_TRIAL_ROUNDS = 15


@dataclasses.dataclass(frozen=True, slots=True)
class Searcher:
    """Everything that judging one allocation needs; `trial` exports a module whose time alone matters."""

    dense: nn.Module
    solutions: Mapping[str, UnitSolution]
    trial: Callable[[nn.Module, Path], object]
    bench: Bench
    dense_artifact: Artifact
    input_size: tuple[int, int, int]
    scratch: Path
    rundir: RunDir

    @property
    def uniform(self) -> list[Allocation]:
        """Every allocation with one ratio for all units, the dense one first."""
        dense = {name: s.unit.width for name, s in self.solutions.items() if s.unit.kind in WITHIN_BLOCKS}
        steps = steps_of((s.unit for s in self.solutions.values()), self.bench.target.channel_multiple)
        return candidates(dense, steps) or [uniform(dense, 1.0, steps)]

    def find(self, budget: Budget, advance: Advance) -> dict[str, Any]:
        """Find the allocation; returns JSON values so that the run can store them.

        Returns:
            `candidates`: the chosen ratio and widths, then the next narrower ones, should a final measurement fall
            short; and `trials`.
        """
        options = self.uniform
        trials: dict[float, float] = {}
        if budget.speedup is not None:
            threshold = budget.speedup * MARGIN
            chosen = by_speedup(options, budget.speedup, lambda a: self._measured(a, threshold, trials, advance))
        else:
            chosen = by_macs(options, budget.macs or 1.0, lambda a: self._macs(a, trials, advance))
        found = [chosen, *(a for a in options if a.ratio < chosen.ratio)]
        return {"candidates": [dataclasses.asdict(a) for a in found], "trials": list(trials.items())}

    def _measured(
        self, allocation: Allocation, threshold: float, trials: dict[float, float], advance: Advance
    ) -> float:
        """Return the speed-up of one allocation; measured once, and stored for a run that goes on after a kill."""
        if allocation.ratio not in trials:
            depends = self.timed_key(allocation, threshold)
            found = self.rundir.json_step("trial", depends, lambda: self._sure(allocation, threshold), measured=True)
            trials[allocation.ratio] = float(found)
            advance(1)
        return trials[allocation.ratio]

    def _sure(self, allocation: Allocation, threshold: float) -> float:
        ratio = self.time(allocation, threshold)
        # a speed-up counts when its interval clears what was asked, not by a lucky median on a busy machine
        return min(ratio.value, ratio.low * MARGIN)

    def timed_key(self, allocation: Allocation, threshold: float) -> dict[str, Any]:
        """Return what the time of an allocation depends on, as JSON values."""
        return {
            "dense": self.dense_artifact.sha256,
            "widths": dict(allocation.widths),
            "threshold": threshold,
            "target": self.bench.key(),
        }

    def time(
        self, allocation: Allocation, threshold: float, usual_ms: float | None = None, least_runs: int = 1
    ) -> Ratio:
        """Cut, export and time one allocation beside the dense model, until it is clear of `threshold` or not.

        Args:
            allocation: The widths.
            threshold: Speed-up whose verdict should be sure.
            usual_ms: What the dense model usually takes here; see `Bench.as_usual`.
            least_runs: See `Bench.settle`.
        """
        file = self.scratch / "trial.onnx"
        module = stitch(self.dense, self.solutions, allocation.widths)
        self.trial(module, file)
        models = {"dense": self.dense_artifact.path, "compressed": file}
        ratio = self.bench.settle(models, threshold, _TRIAL_ROUNDS, usual_ms, least_runs).speedup("dense", "compressed")
        log.info(
            "widths at %.0f %%: %.2f times as fast (%.2f to %.2f over %d rounds)",
            *(100 * allocation.ratio, ratio.value, ratio.low, ratio.high, len(ratio.rounds)),
        )
        return ratio

    def _macs(self, allocation: Allocation, trials: dict[float, float], advance: Advance) -> int:
        if allocation.ratio not in trials:
            module = self.dense
            if allocation.ratio < 1:
                module = stitch(self.dense, self.solutions, allocation.widths)
            trials[allocation.ratio] = count_macs(module, self.input_size)
            advance(1)
        return int(trials[allocation.ratio])
