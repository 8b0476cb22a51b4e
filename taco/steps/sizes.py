"""The sizes of pictures that a run's models may read: what belongs to each, and what a smaller one gains by itself.

Everything is compared with the dense specialist that reads pictures of the model's own size: speed-ups, shares of its
multiply-accumulates, and points that are lost. A smaller size gains a part of that before any channel leaves; widths
are asked for the rest.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from taco.progress import Progress
from taco.search.budget import Budget
from taco.search.ladder import Ladder
from taco.search.size_ladder import SizeLoop, size_ladder
from taco.search.widths import WidthSearch
from taco.specialist.specialise import predict_logits
from taco.steps.converting import Pair
from taco.steps.groundwork import Groundwork
from taco.surgery.size import count_macs


@dataclasses.dataclass(eq=False)
class Sized:
    """Everything that belongs to one size of pictures.

    Attributes:
        ground: Pictures, the dense specialist for them, and what cuts and repairs it.
        dense: The files of that specialist, in the precision that is used now.
        budget: What is asked of widths at this size.
        gain: How many times as fast its dense model is as that of the model's own size, measured; 1 for that size, and
            None where nothing can be measured.
    """

    ground: Groundwork
    dense: Pair
    budget: Budget
    gain: float | None = 1.0

    @property
    def words(self) -> str:
        """The size, for people."""
        return "x".join(map(str, self.ground.input_size[1:]))

    def whole(self, asked: float | None) -> float | None:
        """Return the speed-up over the model's own size that one asked of widths here means."""
        return None if asked is None or self.gain is None else asked * self.gain

    def width_search(self) -> WidthSearch:
        """Return what finds widths at this size, in the precision that is used now."""
        return self.ground.width_search(self.dense, self.budget)


class Sizes:
    """The model's own size, and the others that were asked for.

    Args:
        ground: Of the model's own size.
    """

    def __init__(self, ground: Groundwork) -> None:
        self.own = Sized(ground, ground.dense, ground.plan.budget)
        self.others = [self._other(ground, number) for number in range(len(ground.plan.resized))]

    @property
    def every(self) -> list[Sized]:
        """All of them, the model's own first."""
        return [self.own, *self.others]

    @property
    def asked(self) -> Sized:
        """The size that the compressed model reads, where one is asked for."""
        return self.every[-1]

    def give_up(self, where: Sized) -> None:
        """Give INT8 up at every size because it was at one."""
        for sized in self.every:
            sized.dense = sized.dense.plain
            delivery = where.ground.delivery
            sized.ground.delivery.target, sized.ground.delivery.given_up = delivery.target, delivery.given_up

    def ladder(self, progress: Progress) -> Ladder:
        """Return the ladder on which all sizes compete."""
        ground, searches = self.own.ground, [one.width_search() for one in self.every]
        probed, dense_ms = ground.material.probed, searches[0].dense_ms()
        reference = predict_logits(ground.specialist.module, ground.material.batches(probed))
        loops = []
        for one, search in zip(self.every, searches, strict=True):
            whole_ms = dense_ms / (one.gain or 1.0)
            loop = search.latency(whole_ms)
            loops.append(SizeLoop(one.words, loop, loop.offered(progress), whole_ms, reference))
        return size_ladder(loops, progress)

    def _other(self, own: Groundwork, number: int) -> Sized:
        height, width = own.plan.resized[number].generalist.preprocessing.input_size[1:]
        own.progress.say(f"the same for pictures of {height}x{width} pixels:")
        ground = Groundwork(own.plan.resized[number], own.rundir, own.progress, own.scratch, own)
        gain = _gain(own, ground)
        return Sized(ground, ground.dense, _left(own, ground, gain), gain)


def _gain(own: Groundwork, other: Groundwork) -> float | None:
    """Measure how many times as fast the dense model is that reads other pictures; once, and stored."""
    bench, files = own.delivery.bench, {"dense": own.dense.shipped, "compressed": other.dense.shipped}
    if not bench.measurable:
        return None

    def compute() -> float:
        with own.progress.step("time the dense model at both sizes"):
            models = {name: file.path for name, file in files.items()}
            return bench.settle(models, 1.0).speedup("dense", "compressed").value

    depends: dict[str, Any] = {name: file.sha256 for name, file in files.items()}
    return float(own.rundir.json_step("input-size-gain", {**depends, "target": bench.key()}, compute, measured=True))


def _left(own: Groundwork, other: Groundwork, gain: float | None) -> Budget:
    """Return what is left to ask of widths; limits and milliseconds hold for the whole model and stay."""
    budget = own.plan.budget
    speedup, macs = budget.speedup, budget.macs
    if speedup is not None and gain is not None:
        speedup /= gain
    if macs is not None:
        macs = min(1.0, macs * _macs(own) / _macs(other))
    return dataclasses.replace(budget, speedup=speedup, macs=macs)


def _macs(ground: Groundwork) -> int:
    return count_macs(ground.specialist.module, ground.input_size)
