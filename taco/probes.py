"""Cut units alone and together and compare the answers: what a currency of losses is made and chosen from.

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

from taco.compress import UnitSolution, stitch
from taco.exporters.mixed import divergence
from taco.exporters.protocol import FloatArray
from taco.latency.losses import Joint, Probe
from taco.progress import Advance
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
    """

    alone: Mapping[str, tuple[Probe, ...]]
    joint: tuple[Joint, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Prober:
    """Everything that probing needs.

    Attributes:
        model: The dense specialist, eval mode; not modified.
        solutions: Of its units.
        answer: Module -> (n, classes) float32 logits on the select pictures.
        labels: (n,) class indices of those pictures.
        step: The target's channel multiple.
        depends_on: What names the model, its solutions and the pictures, as JSON values.
    """

    model: nn.Module
    solutions: Mapping[str, UnitSolution]
    answer: Callable[[nn.Module], FloatArray]
    labels: npt.NDArray[np.int64]
    step: int
    depends_on: Mapping[str, Any]

    @property
    def total(self) -> int:
        """How many times progress is told about."""
        return len(self.solutions) + JOINTS

    @property
    def key(self) -> dict[str, Any]:
        """What the result depends on, as JSON values."""
        return {**self.depends_on, "step": self.step, "shares": _SHARES, "joints": JOINTS}

    def probe(self, advance: Advance, seed: int = 0) -> Probed:
        """Cut every unit alone at a few widths, and all at once at random ones."""
        alone = {}
        for name in self.solutions:
            alone[name] = tuple(Probe(width, self.harm({name: width})) for width in self._widths(name))
            advance(1)
        rng, joint = np.random.default_rng(seed), []
        for _ in range(JOINTS):
            shares = rng.uniform(min(_SHARES), 1.0, len(self.solutions))
            widths = {name: self._near(name, share) for name, share in zip(self.solutions, shares, strict=True)}
            joint.append(Joint(widths, self.harm(widths)))
            advance(1)
        return Probed(alone, tuple(joint))

    def right(self, widths: Mapping[str, int]) -> tuple[int, int]:
        """Return how many pictures the dense model names right, and how many a cut one does before any recovery."""
        models = (self.model, stitch(self.model, self.solutions, widths))
        dense, cut = (int((self.answer(model).argmax(1) == self.labels).sum()) for model in models)
        return dense, cut

    def harm(self, widths: Mapping[str, int]) -> float:
        """Return the divergence of a cut model's answers from the dense one's before any recovery, nats."""
        return divergence(self._dense, self.answer(stitch(self.model, self.solutions, widths)))

    @functools.cached_property
    def _dense(self) -> FloatArray:
        return self.answer(self.model)

    def _widths(self, name: str) -> Iterator[int]:
        width = self.solutions[name].unit.width
        yield from sorted({w for share in _SHARES if (w := self._near(name, share)) < width}, reverse=True)

    def _near(self, name: str, share: float) -> int:
        """Return the width nearest to a share of the dense one that the target may have."""
        unit = self.solutions[name].unit
        step = steps_of((unit,), self.step)[name]
        return min(unit.width, max(step, round(unit.width * share / step) * step))
