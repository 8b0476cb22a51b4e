"""Cut units alone and together and compare the answers: what a currency of losses is made and chosen from.

A block is left out alone, and the next layer that mixes channels is refitted for what is left (`taco.surgery.inorder`):
what then remains of the harm is what cannot be recovered (PRACTISE, Wang and Wu, CVPR 2023, trains adaptors for it).

Answers are compared on the select pictures, which moments never saw: on the calibration pictures themselves wide late
layers look free, because their refit has as many columns as samples.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from taco.calibrate import Batches
from taco.compress import UnitSolution, kept_rows, stitch
from taco.exporters.mixed import divergence
from taco.exporters.protocol import FloatArray
from taco.latency.losses import Joint, Probe
from taco.moments.replay import Replay
from taco.moments.unfold import channels_last
from taco.progress import Advance
from taco.surgery.inorder import InOrder
from taco.units import steps_of

#: Shares of the dense width at which a unit is cut alone.
_SHARES = (0.75, 0.5, 0.25)
#: Models in which all units are cut at once, each to a width of its own.
JOINTS = 16


@dataclasses.dataclass(frozen=True, slots=True)
class Probed:
    """What the cuts did.

    Attributes:
        alone: Unit -> probes, the widest first; none where a unit has no narrower width.
        joint: Models with all units cut.
        dropped: Block -> harm of leaving it out.
    """

    alone: Mapping[str, tuple[Probe, ...]]
    joint: tuple[Joint, ...]
    dropped: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, eq=False)
class Prober:
    """Everything that probing needs.

    Attributes:
        model: The dense specialist, eval mode; not modified.
        solutions: Of its units, and of blocks that may be left out.
        answer: Module -> (n, classes) float32 logits on the select pictures.
        labels: (n,) class indices of those pictures.
        step: The target's channel multiple.
        depends_on: What names the model, its solutions and the pictures, as JSON values.
        batches: Some pictures to refit on behind a block that was left out; not asked where no block may be.
    """

    model: nn.Module
    solutions: Mapping[str, UnitSolution]
    answer: Callable[[nn.Module], FloatArray]
    labels: npt.NDArray[np.int64]
    step: int
    depends_on: Mapping[str, Any]
    batches: Batches = tuple

    @property
    def blocks(self) -> tuple[str, ...]:
        """Blocks that may be left out."""
        return tuple(name for name, s in self.solutions.items() if s.unit.kind == "block")

    @property
    def _units(self) -> tuple[str, ...]:
        return tuple(name for name, s in self.solutions.items() if s.unit.kind != "block")

    @property
    def total(self) -> int:
        """How many times progress is told about."""
        return len(self.solutions) + JOINTS

    @property
    def key(self) -> dict[str, Any]:
        """What the result depends on, as JSON values."""
        key = {**self.depends_on, "step": self.step, "shares": _SHARES, "joints": JOINTS}
        return {**key, "blocks": list(self.blocks)}

    def probe(self, advance: Advance, seed: int = 0) -> Probed:
        """Cut every unit alone at a few widths, all at once at random ones, and leave out every block alone."""
        alone = {}
        for name in self._units:
            alone[name] = tuple(Probe(width, self.harm({name: width})) for width in self._widths(name))
            advance(1)
        rng, joint = np.random.default_rng(seed), []
        for _ in range(JOINTS):
            shares = rng.uniform(min(_SHARES), 1.0, len(self._units))
            widths = {name: self._near(name, share) for name, share in zip(self._units, shares, strict=True)}
            joint.append(Joint(widths, self.harm(widths)))
            advance(1)
        dropped, begun = {}, Replay(self.model)
        for name in self.blocks:
            begun.reach(name, map(channels_last, self.batches()))
            dropped[name] = self.harm({name: 0}, begun)
            advance(1)
        return Probed(alone, tuple(joint), dropped)

    def harm(self, widths: Mapping[str, int], begun: Replay | None = None) -> float:
        """Return how far a choice's answers lie from the dense ones, nats; see `taco.exporters.mixed.divergence`.

        That is before any recovery but the refit behind blocks that are left out. Arguments are those of `cut`.
        """
        return divergence(self._dense, self.answer(self.cut(widths, begun)))

    def right(self, widths: Mapping[str, int]) -> tuple[int, int]:
        """Return how many pictures the dense model names right, and how many a cut one does before any recovery."""
        dense, cut = (
            int((logits.argmax(1) == self.labels).sum()) for logits in (self._dense, self.answer(self.cut(widths)))
        )
        return dense, cut

    @functools.cached_property
    def _dense(self) -> FloatArray:
        return self.answer(self.model)

    def cut(self, widths: Mapping[str, int], begun: Replay | None = None) -> nn.Module:
        """Return the dense specialist cut to some widths, before any recovery but the refit behind lost blocks.

        Args:
            widths: Unit -> what to keep; block -> 0.
            begun: Of the dense model on the pictures to refit on, as far as nothing is cut.
        """
        smaller = stitch(self.model, self.solutions, widths)
        if all(widths.get(block, 1) for block in self.blocks):
            return smaller
        how = InOrder(self.model, self.batches, rows=kept_rows(self.model, self.solutions, widths))
        return how.refit(smaller, how.after(smaller), begun)

    def _widths(self, name: str) -> Iterator[int]:
        width = self.solutions[name].unit.width
        yield from sorted({w for share in _SHARES if (w := self._near(name, share)) < width}, reverse=True)

    def _near(self, name: str, share: float) -> int:
        """Return the width nearest to a share of the dense one that the target may have."""
        unit = self.solutions[name].unit
        step = steps_of((unit,), self.step)[name]
        return min(unit.width, max(step, round(unit.width * share / step) * step))
