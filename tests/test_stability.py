"""Tests of `taco.timing.stability`, `taco.device.sustained` and of what a link that breaks costs a question."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pytest

from taco.attached.agent_calls import AgentCaller
from taco.device import sustained, wire
from taco.errors import LinkError
from taco.timing.stability import disturbances, steady
from taco.timing.timings import BenchResult, ModelTiming
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
        ({"throttling_after": "raspberry_pi_flags 50005"}, "throttling went from raspberry_pi_flags 0 to"),
        ({"power_mode_before": "15W", "power_mode_after": "MAXN"}, "power mode went from 15W to MAXN"),
        ({"governor_before": "performance", "governor_after": "powersave"}, "governor went from performance to"),
    ],
)
def test_a_machine_that_changes_while_it_is_measured_is_disturbed(changes: dict[str, str], words: str) -> None:
    (found,) = disturbances(result(**changes))
    assert found.startswith(words)


def test_what_a_device_does_not_tell_is_no_disturbance() -> None:
    assert disturbances(result(throttling_before="unknown", throttling_after="unknown")) == ()


def test_the_first_run_after_a_pause_is_timed_three_times() -> None:
    slept: list[float] = []
    runs = iter(([4.0], [5.0], [6.0]))
    assert sustained.after_idle(10.0, lambda: next(runs), slept.append) == [4.0, 5.0, 6.0]
    assert slept == [10.0] * 3
    assert sustained.after_idle(0.0, lambda: next(runs), slept.append) == []


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
