"""What is timed again, when, and which rounds count: with made-up times on a made-up clock."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from taco.search.settling import Settler
from taco.timing.calm import calm, doubt, usual_ms
from taco.timing.timings import BenchResult, ModelTiming

#: The dense model, and one micro-model.
Round = tuple[float, float]
QUIET: Round = (10.0, 1.0)
#: The dense model takes a tenth longer, the micro-model twice as long.
SHARED: Round = (11.0, 2.0)


def result(rounds: list[Round]) -> BenchResult:
    def timing(place: int) -> ModelTiming:
        samples = tuple((times[place],) * 3 for times in rounds)
        return ModelTiming(samples, "CPUExecutionProvider", "onnxruntime", "1", 1.0, {})

    return BenchResult({"dense": timing(0), "16": timing(1)}, 2, len(rounds), stopped_early=False, measured_on={})


@dataclasses.dataclass
class Machine:
    """Every run takes ten seconds; `state` gives a round of the group at a time."""

    state: Callable[[str, float], list[Round]]
    now: float = 0.0
    asked: list[str] = dataclasses.field(default_factory=list)

    def time(self, models: Mapping[str, Path], _repeat_s: float) -> BenchResult:
        name = models["16"].parent.name
        self.asked.append(name)
        found = result(self.state(name, self.now))
        self.now += 10.0
        return found

    def clock(self) -> float:
        return self.now

    @property
    def settler(self) -> Settler:
        return Settler(self.time, 33, self.clock)


def group(name: str) -> dict[str, Path]:
    return {"dense": Path("dense.onnx"), "16": Path(name) / "16.onnx"}


GROUPS = {name: group(name) for name in "abc"}


def test_calm_rounds_are_those_in_which_the_dense_model_takes_what_it_usually_does() -> None:
    mixed = result([SHARED] * 11 + [QUIET] * 11)
    usual = usual_ms([mixed, result([SHARED] * 11)], 11)
    kept = calm(mixed, usual, 11)
    assert usual == 10
    assert kept is not None
    assert (kept.rounds, kept.speedup("16", "dense").value) == (11, 0.1)
    assert doubt(mixed, usual, 11) == 0
    assert calm(result([SHARED] * 11), usual, 11) is None
    assert doubt(result([SHARED] * 11), usual, 11) == float("inf")


def test_bursts_within_a_run_take_no_round_away() -> None:
    """They hit both models alike, so that the median over all rounds does not follow them; over some it would."""
    burst: list[Round] = [(30.0, 1.0), (10.0, 3.0), (10.0, 1.0), (10.0, 1.0), (30.0, 3.0)] * 5
    kept = calm(result(burst), 10.0, 11)
    assert kept is not None
    assert (kept.rounds, kept.speedup("16", "dense").value) == (25, 0.1)


def test_a_steady_disturbance_is_found_although_its_interval_is_narrow() -> None:
    machine = Machine(lambda name, now: [SHARED if name == "b" and now < 35 else QUIET] * 11)
    first = {name: machine.settler.settle(models, 0.0) for name, models in GROUPS.items()}
    assert not machine.settler.settled(first)
    assert machine.settler.matters(first)
    found = machine.settler.again(first, GROUPS, 1000.0)
    assert machine.asked == ["a", "b", "c", "b", "b"], "until it was timed while the machine was calm"
    assert machine.settler.settled(found)
    values = {name: kept.speedup("16", "dense").value for name, kept in machine.settler.calm(found).items()}
    assert values == {"a": 0.1, "b": 0.1, "c": 0.1}


def test_each_comes_once_before_any_comes_twice_the_widest_first() -> None:
    wide: list[Round] = [(10.0, 1.0), (10.0, 1.4)] * 6
    wider: list[Round] = [(10.0, 1.0), (10.0, 1.8)] * 6
    machine = Machine(lambda name, _: {"a": wide, "b": [QUIET] * 12, "c": wider}[name])
    first = {name: machine.settler.settle(models, 0.0) for name, models in GROUPS.items()}
    machine.asked.clear()
    found = machine.settler.again(first, GROUPS, 1000.0)
    assert machine.asked == ["c", "a"] * 3
    assert not machine.settler.settled(found)


def test_what_is_nothing_of_the_whole_model_is_not_timed_again_however_wide_its_interval() -> None:
    tiny: list[Round] = [(10.0, 0.02), (10.0, 0.08)] * 6  # 0.6 % of the dense model's time
    machine = Machine(lambda name, _: tiny if name == "a" else [QUIET] * 12)
    first = {name: machine.settler.settle(models, 0.0) for name, models in GROUPS.items()}
    machine.asked.clear()
    assert machine.settler.again(first, GROUPS, 1000.0) == first
    assert not machine.asked
    assert not machine.settler.matters(first), "so no step of a profile is begun for it"
    assert not machine.settler.settled(first), "the table says that it is not sure"


def test_nothing_is_timed_again_beyond_the_time() -> None:
    machine = Machine(lambda name, _: [SHARED if name == "a" else QUIET] * 11)
    first = {name: machine.settler.settle(models, 0.0) for name, models in GROUPS.items()}
    machine.asked.clear()
    machine.settler.again(first, GROUPS, machine.now + 15.0)
    assert machine.asked == ["a", "a"]
    found = machine.settler.again(first, GROUPS, machine.now)
    assert len(machine.asked) == 2
    assert machine.settler.calm(found)["a"] == first["a"], "where no calm round was seen all count"


def test_no_group_is_nothing_to_settle() -> None:
    machine = Machine(lambda *_: [QUIET])
    assert machine.settler.again({}, {}, 10.0) == machine.settler.calm({}) == {}
    assert machine.settler.settled({})


@pytest.mark.parametrize(("repeat_s", "asked"), [(0.0, 1), (15.0, 2), (100.0, 3)])
def test_a_timer_that_does_not_repeat_is_asked_again(repeat_s: float, asked: int) -> None:
    machine = Machine(lambda *_: [QUIET, (10.0, 2.0)] * 4)
    machine.settler.settle(group("a"), repeat_s)
    assert len(machine.asked) == asked
