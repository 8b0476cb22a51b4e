"""What is known of a model whose weights became zero."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from taco.options import Pattern


@dataclasses.dataclass(frozen=True, slots=True)
class SparseLayer:
    """What became of one layer.

    Attributes:
        name: Of the module.
        weights: How many it has.
        nonzero: How many are left.
        level: What the last stage chose for it.
        relative_loss: Output error that the last stage added, as a share of the output.
    """

    name: str
    weights: int
    nonzero: int
    level: str
    relative_loss: float


@dataclasses.dataclass(frozen=True, slots=True)
class Stage:
    """One prune and its recovery.

    Attributes:
        sparsity: Share of the weights that are zero after it.
        steps: Of recovery.
        kept_step: Whose state was kept.
        loss_before: Distillation loss on the select pictures, before recovery.
        loss_after: The same after.
    """

    sparsity: float
    steps: int
    kept_step: int
    loss_before: float | None
    loss_after: float | None


@dataclasses.dataclass(frozen=True, slots=True)
class Sparsity:
    """How a model became sparse.

    Attributes:
        asked: Share of the weights of `layers` that was to be zero.
        pattern: unstructured, 2:4 or 4-block.
        layers: What became of each.
        dense: Layer -> why it stayed dense although it was chosen.
        stages: In order.
    """

    asked: float
    pattern: Pattern
    layers: tuple[SparseLayer, ...]
    dense: Mapping[str, str]
    stages: tuple[Stage, ...]
