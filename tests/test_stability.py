"""Tests of `taco.timing.stability`, `taco.device.sustained` and of what a link that breaks costs a question."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from taco.attached.agent_calls import AgentCaller
from taco.device import sustained, wire
from taco.errors import InputError, LinkError
from taco.field.benching import BenchAsked, bench_bundle, measured
from taco.timing.measure import MeasureOptions
from taco.timing.stability import disturbances, steady
from taco.timing.timings import BenchResult, Minute, ModelTiming
from taco.transport import Completed, FakeTransport

QUIET = {"throttling before": "raspberry_pi_flags 0", "throttling after": "raspberry_pi_flags 0"}


def result(rounds: Sequence[float] = (1.0, 1.01, 0.99, 1.0), **measured_on: str) -> BenchResult:
    timing = ModelTiming(tuple((ms,) * 3 for ms in rounds), "CPU", "fake", "0", 1.0, {})
    words = {key.replace("_", " "): value for key, value in measured_on.items()}
    return BenchResult({"dense": timing}, 1, len(rounds), False, {**QUIET, **words})


def test_a_quiet_measurement_is_taken_once() -> None:
    taken = [result()]
    found = steady(taken.pop)
    assert (found.unstable, found.repeated) == ((), False)


def test_a_disturbed_measurement_is_repeated_once() -> None:
    taken = [result(), result((1.0, 2.0, 1.0, 2.0))]
    found = steady(taken.pop)
    assert (found.unstable, found.repeated, taken) == ((), True, [])


def test_a_measurement_that_stays_disturbed_is_flagged_and_kept() -> None:
    taken = [result((1.0, 3.0, 1.0, 3.0)), result((1.0, 2.0, 1.0, 2.0))]
    found = steady(taken.pop)
    assert found.unstable == ("the times of dense vary by 50% between rounds",)
    assert found.models["dense"].rounds_ms[1][0] == 3.0
    assert found.repeated


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"throttling_after": "raspberry_pi_flags 50000"}, "throttling went from raspberry_pi_flags 0 to"),
        ({"power_mode_before": "15W", "power_mode_after": "MAXN"}, "power mode went from 15W to MAXN"),
        ({"governor_before": "performance", "governor_after": "powersave"}, "governor went from performance to"),
    ],
)
def test_a_machine_that_changes_while_it_is_measured_is_disturbed(changes: dict[str, str], words: str) -> None:
    (found,) = disturbances(result(**changes))
    assert found.startswith(words)


def test_what_a_device_does_not_tell_is_no_disturbance() -> None:
    assert disturbances(result(throttling_before="unknown", throttling_after="unknown")) == ()


@pytest.mark.parametrize("prefix", ["", "0x"])
def test_a_pi_that_is_throttled_throughout_is_disturbed_although_nothing_changes(prefix: str) -> None:
    words = f"raspberry_pi_flags {prefix}50005, x86_package_count 15"
    assert disturbances(result(throttling_before=words, throttling_after=words)) == (
        "the board was short of voltage (a thin cable or a weak supply) before and after the rounds",
        "the board was throttled before and after the rounds",
    )
    since_start = f"raspberry_pi_flags {prefix}f0000"
    assert disturbances(result(throttling_before=since_start, throttling_after=since_start)) == ()


def test_a_pi_tells_every_limit_that_holds_at_one_moment() -> None:
    found = disturbances(result(throttling_before="raspberry_pi_flags 0xa", throttling_after="raspberry_pi_flags 0"))
    assert found[1:] == (
        "the board was held below its full clock before the rounds",
        "the board was at its soft temperature limit before the rounds",
    )


class Heating:
    """A device that is throttled by work without a pause, and stays so."""

    def __init__(self, *rounds: Sequence[float]) -> None:
        self.rounds, self.asked, self.flags = list(rounds), list[tuple[set[str], MeasureOptions]](), "0"

    def measure(self, models: Mapping[str, Path], options: MeasureOptions) -> BenchResult:
        self.asked.append((set(models), options))
        before = self.flags
        self.flags = "50005" if options.sustained_s else before
        shown = {"throttling_before": before, "throttling_after": self.flags}
        minutes = (Minute(1, 60.0, 9, 1.0, 1.0, {}, None),) if options.sustained_s else ()
        found = result(self.rounds.pop(0), **{name: f"raspberry_pi_flags {flags}" for name, flags in shown.items()})
        return dataclasses.replace(found, sustained=minutes, focus="compressed")


MODELS = {"compressed": Path("model.onnx"), "dense": Path("dense.onnx")}
HOT = MeasureOptions(idle_s=10.0, sweep=(1, 2), sustained_s=1800.0, focus="compressed")


@pytest.mark.parametrize("first", [(), ((1.0, 2.0, 1.0, 2.0),)], ids=["quiet", "disturbed"])
def test_work_without_a_pause_comes_once_and_after_the_rounds_and_disturbs_nothing(first: tuple[Any, ...]) -> None:
    device = Heating(*first, (1.0, 1.0, 1.0, 1.0), (5.0,))
    found = measured(cast("Any", device), MODELS, HOT)
    assert (found.unstable, found.repeated) == ((), bool(first))
    assert found.models["dense"].p50_ms == 1.0
    assert len(found.sustained) == 1
    assert found.measured_on["throttling after"] == "raspberry_pi_flags 0"
    *rounds, (models, hot) = device.asked
    assert rounds == [(set(MODELS), dataclasses.replace(HOT, sustained_s=0.0))] * (1 + len(first))
    assert (models, hot.sustained_s, hot.rounds, hot.idle_s, hot.sweep) == ({"compressed"}, 1800.0, 1, 0.0, ())


def test_nothing_is_asked_twice_where_no_work_without_a_pause_is_asked() -> None:
    device = Heating((1.0, 1.0))
    assert measured(cast("Any", device), MODELS, dataclasses.replace(HOT, sustained_s=0.0)).sustained == ()
    assert len(device.asked) == 1


def test_work_without_a_pause_is_refused_for_engines_before_any_is_built() -> None:
    bundle = cast("Any", SimpleNamespace(manifest=SimpleNamespace(runtime="trt")))
    with pytest.raises(InputError, match="engines are timed warm only"):
        bench_bundle(bundle, cast("Any", None), BenchAsked(sustained_s=60.0))


@pytest.mark.parametrize(("idle_s", "parts"), [(10.0, [2.0] * 5), (1.0, [0.5, 0.5]), (5.0, [5 / 3] * 3)])
def test_the_first_run_after_a_pause_is_timed_three_times(idle_s: float, parts: list[float]) -> None:
    slept: list[float] = []
    runs = iter(([4.0], [5.0], [6.0]))
    found = sustained.after_idle(idle_s, lambda: next(runs), slept.append, lambda: {"VDD_IN": float(len(slept))})
    assert found[0] == [4.0, 5.0, 6.0]
    assert slept == pytest.approx(parts * 3)
    read_at = [n for n in range(1, 3 * len(parts) + 1) if n % len(parts)]  # never just before a run
    assert found[1] == {"VDD_IN": pytest.approx(sum(read_at) / len(read_at), abs=1e-3)}


def test_without_a_pause_or_a_board_that_tells_no_power_at_rest_is_told() -> None:
    asked: list[int] = []
    assert sustained.after_idle(0.0, lambda: [1.0], lambda _s: None, lambda: {"VDD_IN": 5.0}) == ([], {})
    runs = sustained.after_idle(10.0, lambda: [1.0], lambda _s: None, lambda: asked.append(1) or {})
    assert (runs, len(asked)) == (([1.0] * 3, {}), 3), "it is asked once in a pause"


def test_sustained_work_is_told_by_the_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(sustained.time, "monotonic", lambda: clock[0])
    energy = iter((0, 300_000_000, 300_000_000, 100, None, None))
    monkeypatch.setattr(sustained.board, "energy_uj", lambda: next(energy))

    def run() -> list[float]:
        clock[0] += 10.0
        return [1.0 if clock[0] <= 60 else 2.0, 3.0]

    found = sustained.sustain(150.0, run, lambda: {"temperatures_c": {"cpu": clock[0]}})
    assert [minute["minute"] for minute in found] == [1, 2, 3]
    assert [minute["n"] for minute in found] == [12, 12, 6]
    assert [minute["p50_ms"] for minute in found] == [2.0, 2.5, 2.5]
    assert found[1]["state"] == {"temperatures_c": {"cpu": 120.0}}
    assert [minute["package_w"] for minute in found] == [5.0, None, None]
    assert sustained.sustain(0.0, run) == []


@pytest.mark.parametrize(("percent", "expected"), [(0, 1.0), (50, 2.5), (90, 3.7), (100, 4.0)])
def test_percentiles_are_those_of_numpy(percent: float, expected: float) -> None:
    assert sustained.percentile([4.0, 1.0, 3.0, 2.0], percent) == pytest.approx(expected)


def said(payload: dict[str, object]) -> Completed:
    stream = io.StringIO()
    wire.emit(payload, stream)
    return Completed(0, stream.getvalue(), "")


def test_a_question_whose_link_breaks_is_asked_once_more() -> None:
    fake = FakeTransport([LinkError("broke"), said({"answer": 1})])
    assert AgentCaller(fake, "python3", ("--lease", "x")).ask(["bench", "request"]) == {"answer": 1}
    assert fake.calls[0] == fake.calls[1]
    assert fake.calls[0][-4:] == ("bench", "--lease", "x", "request")
    with pytest.raises(LinkError):
        AgentCaller(FakeTransport([LinkError("a"), LinkError("b")]), "python3").ask(["doctor"])
