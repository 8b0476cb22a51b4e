"""What is made of a stitched model before recovery, and instead of it.

Readers are refitted one by one when it is stitched, and recovery starts from that. Where there is none they may be
refitted once more in the model's order (`taco.surgery.inorder`), which helps where much was cut and harms where little
was, so both are tried and the select pictures decide. Recovery gains little from there: the same steps end nearer to
the dense model without it, though they start farther away (docs/adr/0020).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import nn

from taco.calibrate import Batches
from taco.errors import SolverError, UnsupportedModuleError
from taco.sparse.sequential import SequentialOptions
from taco.steps.recovering import Recovery
from taco.surgery.inorder import InOrder, with_biases

How = Literal["one by one", "in order"]


@dataclasses.dataclass(frozen=True, slots=True)
class Refit:
    """How the layers that read cut channels were refitted.

    Attributes:
        kept: `one by one` on the dense model's inputs, or `in order` on those that the layers before them leave.
        one_by_one: Distance from the dense model on the select pictures, see `taco.recovery.distillation.objective`;
            None where it is not finite, or where the better way was known.
        in_order: The same, refitted in order; None also where that failed, or the better way was known.
        failed: Why refitting in order failed; None where it did not.
    """

    kept: How
    one_by_one: float | None
    in_order: float | None
    failed: str | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Starter:
    """Makes the model that recovery starts from, or the best one without any.

    Attributes:
        recovery: Compares on the select pictures, and stores.
        batches: The pictures that layers are refitted on, each time the same.
        in_order: Whether to try refitting in order too, where there is no recovery.
    """

    recovery: Recovery
    batches: Batches
    in_order: bool

    def plain(self, stitched: nn.Module) -> nn.Module:
        """Return a stitched model with BatchNorm re-estimated where that helps."""
        with self.recovery.progress.step("re-estimate BatchNorm of the smaller model"):
            return self.recovery.renormalise(stitched)

    def start(
        self,
        stitched: nn.Module,
        widths: Mapping[str, int],
        rows: Mapping[str, torch.Tensor],
        known: How | None = None,
    ) -> tuple[nn.Module, Refit | None]:
        """Return the better model without recovery, BatchNorm re-estimated where that helps, and how it was made.

        The result is stored.

        Args:
            stitched: From `taco.compress.stitch`; not modified.
            widths: What it was stitched at.
            rows: From `taco.compress.kept_rows`.
            known: Which one was better of the same widths on another division of the shots; None tries both.
        """
        recovery = self.recovery
        if not self.in_order:
            return self.plain(stitched), None
        how = InOrder(recovery.specialist, self.batches, SequentialOptions(), rows)
        layers = how.layers(stitched)
        ready = with_biases(stitched, layers)

        def compute() -> tuple[nn.Module, dict[str, Any]]:
            if known == "one by one":
                return recovery.renormalise(ready), dataclasses.asdict(Refit(known, None, None))
            with recovery.progress.step("refit readers in the model's order", len(layers)) as advance:
                told = dataclasses.replace(how, options=SequentialOptions(progress=advance))
                better, found = self._better(ready, told, layers, known)
            return better, dataclasses.asdict(found)

        key = {**recovery.depends_on, "widths": dict(widths)} | ({} if known is None else {"known": known})
        facts = recovery.store.module("refitted", key, ready, compute)
        return ready, Refit(**facts)

    def _better(self, ready: nn.Module, how: InOrder, layers: list[str], known: How | None) -> tuple[nn.Module, Refit]:
        """Return a stitched model refitted in order, where that is known to be better or is nearer; else as it is."""
        try:
            again = how.refit(ready, layers)
        except (SolverError, UnsupportedModuleError) as error:
            ((plain, own),) = self.recovery.compared(ready)
            return plain, Refit("one by one", _finite(own), None, str(error))
        if known == "in order":
            return self.recovery.renormalise(again), Refit(known, None, None)
        (plain, own), (refitted, other) = self.recovery.compared(ready, again)
        nearer = math.isfinite(other) and not other >= own  # own may be no number
        kept: How = "in order" if nearer else "one by one"
        return refitted if nearer else plain, Refit(kept, _finite(own), _finite(other))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
