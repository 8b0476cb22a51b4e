"""One cut: stitch at a ratio, re-estimate BatchNorm, recover; the long part is stored, so that a killed run goes on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from torch import nn

from taco.allocate import Allocation
from taco.compress import UnitSolution, stitch
from taco.recover import Recovered
from taco.recovering import Recovery
from taco.sparsity import Sparsity


@dataclasses.dataclass(frozen=True, slots=True)
class Cut:
    """A compressed model and how it came about.

    Attributes:
        module: The compressed specialist.
        ratio: The uniform ratio, or the share of all widths that was kept; 1.0 is the dense model.
        widths: Unit -> channels kept.
        stitched: The model before anything was repaired.
        recovered: What recovery did; None when there was none.
        sparsity: How weights became zero; None when none did.
    """

    module: nn.Module
    ratio: float
    widths: Mapping[str, int]
    stitched: nn.Module
    recovered: Recovered | None
    sparsity: Sparsity | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Cutter:
    """Makes cuts of one specialist.

    Attributes:
        solutions: What is known of every unit.
        recovery: Repairs what a cut broke.
    """

    solutions: Mapping[str, UnitSolution]
    recovery: Recovery

    def cut(self, allocation: Allocation, share: float = 1.0) -> Cut:
        """Cut every unit to its width and repair what that broke.

        Args:
            allocation: What to keep.
            share: Of the time for recovery; candidates are tried with a part of it.
        """
        recovery, specialist = self.recovery, self.recovery.specialist
        dense = {name: s.unit.width for name, s in self.solutions.items()}
        widths, ratio = {name: allocation.widths[name] for name in dense}, allocation.ratio
        if widths == dense:
            return Cut(specialist, 1.0, dense, specialist, None)
        with recovery.progress.step("stitch the smaller model"):
            stitched = stitch(specialist, self.solutions, widths)
            start = recovery.renormalise(stitched)
        minutes = share * recovery.minutes
        if minutes == 0:
            return Cut(start, ratio, widths, stitched, None)
        key = {"minutes": minutes, "widths": dict(widths)}
        steps = recovery.steps(start, key, share)
        recovered = recovery.recover(start, key, steps, f"recover by distillation ({minutes:g} min)")
        with recovery.progress.step("re-estimate BatchNorm"):
            module = recovery.renormalise(recovered.module)
        return Cut(module, ratio, widths, stitched, recovered)
