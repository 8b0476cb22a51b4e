"""One cut: stitch, and recover; or, without recovery, refit in order where that helps.

Long parts are stored, so that a killed run goes on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import nn

from taco.allocate import Allocation
from taco.compress import UnitSolution, kept_rows, stitch
from taco.recover import Recovered
from taco.specialist.head import Linear
from taco.steps.recovering import Recovery
from taco.steps.refit import How, Refit, Starter
from taco.steps.rehead import Heads
from taco.steps.sparsity import Sparsity


@dataclasses.dataclass(frozen=True, slots=True)
class Cut:
    """A compressed model and how it came about.

    Attributes:
        module: The compressed specialist.
        ratio: The uniform ratio, or the share of all widths that was kept; 1.0 is the dense model.
        widths: Unit -> channels kept; of blocks only those that were left out, with 0.
        stitched: The model before anything was repaired.
        recovered: What recovery did; None when there was none.
        sparsity: How weights became zero; None when none did.
        refit: How readers of cut channels were refitted; None where there was no choice, or a recovery.
        head: What the module ends in, with what was compared; None where it is the specialist's without a choice.
    """

    module: nn.Module
    ratio: float
    widths: Mapping[str, int]
    stitched: nn.Module
    recovered: Recovered | None
    sparsity: Sparsity | None = None
    refit: Refit | None = None
    head: Linear | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Cutter:
    """Makes cuts of one specialist.

    Attributes:
        solutions: What is known of every unit, blocks too.
        starter: Makes the models that recovery starts from; has the recovery that repairs what a cut broke.
        heads: Chooses what the cut models end in.
    """

    solutions: Mapping[str, UnitSolution]
    starter: Starter
    heads: Heads

    @property
    def recovery(self) -> Recovery:
        """Repairs what a cut broke."""
        return self.starter.recovery

    def cut(self, allocation: Allocation, share: float = 1.0, readers: How | None = None) -> Cut:
        """Cut every unit to its width and repair what that broke.

        Args:
            allocation: What to keep.
            share: Of the time for recovery; candidates are tried with a part of it.
            readers: How readers are refitted, where that is known; see `Starter.start`.
        """
        recovery, solutions = self.recovery, self.solutions
        specialist = recovery.specialist
        dense = {name: s.unit.width for name, s in solutions.items()}
        widths = {name: allocation.widths.get(name, width) for name, width in dense.items()}
        told = {n: width for n, width in widths.items() if width == 0 or solutions[n].unit.kind != "block"}
        if widths == dense:
            return Cut(specialist, 1.0, told, specialist, None)
        # what stays dense makes no difference: the same cut is known again whichever units might have been cut
        less = {name: width for name, width in told.items() if width < dense[name]}
        with recovery.progress.step("stitch the smaller model"):
            stitched = stitch(specialist, solutions, widths)
        minutes, steps, refit = share * recovery.minutes, 0, None
        key: dict[str, Any] = {"minutes": minutes, "widths": less}
        start = stitched
        if minutes > 0:
            start = self.starter.plain(stitched)
            steps = recovery.steps(start, key, share)
        if not steps:
            rows = kept_rows(specialist, solutions, widths)
            start, refit = self.starter.start(stitched, less, rows, readers)
        if refit is not None:
            key["readers"] = refit.kept
        module, recovered = start, None
        if minutes > 0:
            recovered = recovery.recover(start, key, steps, f"recover by distillation ({minutes:g} min)")
            with recovery.progress.step("re-estimate BatchNorm"):
                module = recovery.renormalise(recovered.module)
        module, head = self.heads.best(module)
        return Cut(module, allocation.ratio, told, stitched, recovered, refit=refit, head=head)
