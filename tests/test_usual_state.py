"""A machine that is not as fast as usual is waited for; what counts is decided by the dense model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from taco.search import bench as bench_module
from taco.search.bench import Bench
from taco.targets.loading import load_target
from taco.timing.timings import BenchResult, ModelTiming

MODELS = {"dense": Path("d.onnx"), "compressed": Path("c.onnx")}


def measured(dense_ms: float, compressed_ms: float) -> BenchResult:
    times = {"dense": dense_ms, "compressed": compressed_ms}
    timings = {n: ModelTiming(((ms,) * 3,) * 8, "CPU", "fake", "0", 1.0, {}) for n, ms in times.items()}
    return BenchResult(timings, 1, 8, stopped_early=False, measured_on={})


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
    """What the next runs take, dense and compressed; used up one by one."""
    left: list[tuple[float, float]] = []

    def time(_bench: Bench, _models: Mapping[str, Path], _rounds: int | None = None) -> BenchResult:
        return measured(*left.pop(0))

    monkeypatch.setattr(Bench, "time", time)
    monkeypatch.setattr(bench_module, "_PAUSE_S", 0.0)
    return left


def bench(tmp_path: Path) -> Bench:
    return Bench(load_target("host-cpu"), 1, tmp_path)


@pytest.mark.parametrize(
    ("takes", "counts", "left"),
    [
        ([(2.05, 1.0), (9.0, 9.0)], 2.05, 1),
        ([(2.6, 1.3), (1.95, 1.0), (9.0, 9.0)], 1.95, 1),
        ([*[(2.6, 1.3)] * 5, (1.95, 1.0), (9.0, 9.0)], 1.95, 1),
        ([(1.5, 0.5), (9.0, 9.0)], 1.5, 1),
    ],
    ids=["as before", "back at once", "back after a while", "faster"],
)
def test_the_run_counts_in_which_the_dense_model_is_fastest(
    takes: list[tuple[float, float]], counts: float, left: int, tmp_path: Path, runs: list[tuple[float, float]]
) -> None:
    runs += takes
    assert bench(tmp_path).as_usual(MODELS, 2.0).models["dense"].p50_ms == counts
    assert len(runs) == left


def mixed(*rounds: tuple[float, float]) -> BenchResult:
    """Rounds in which the models take so long, dense and compressed."""
    timings = {
        name: ModelTiming(tuple((ms[at],) * 3 for ms in rounds), "CPU", "fake", "0", 1.0, {})
        for at, name in enumerate(MODELS)
    }
    return BenchResult(timings, 1, len(rounds), stopped_early=False, measured_on={})


def install(monkeypatch: pytest.MonkeyPatch, *results: BenchResult) -> list[BenchResult]:
    left = list(results)
    monkeypatch.setattr(Bench, "time", lambda *_: left.pop(0))
    monkeypatch.setattr(bench_module, "_PAUSE_S", 0.0)
    return left


def test_rounds_in_which_the_machine_was_slowed_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What slows it slows small models by another factor: the median over both states would be of neither."""
    left = install(monkeypatch, mixed(*[(3.0, 2.0)] * 4, *[(2.0, 1.0)] * 4), mixed((9.0, 9.0)))
    result = bench(tmp_path).as_usual(MODELS, 2.0)
    assert result.speedup("dense", "compressed").rounds == (2.0,) * 4
    assert (result.rounds, result.set_aside, len(left)) == (4, 4, 1)


def test_other_models_times_decide_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To take only the quick rounds of a model that varies by itself would make it faster than it is."""
    left = install(monkeypatch, mixed(*[(2.0, 1.3)] * 4, *[(2.0, 1.0)] * 3, (3.0, 1.0)), mixed((9.0, 9.0)))
    result = bench(tmp_path).as_usual(MODELS, 2.0)
    assert result.speedup("dense", "compressed").value == pytest.approx(2.0 / 1.3)
    assert (result.rounds, result.set_aside, len(left)) == (7, 1, 1)


def test_too_few_rounds_of_the_usual_state_wait_for_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow, quiet = (3.0, 2.0), (2.0, 1.0)
    left = install(
        monkeypatch, mixed(*[slow] * 6, *[quiet] * 2), mixed(*[slow] * 8), mixed(quiet, quiet, *[slow] * 6), mixed(slow)
    )
    result = bench(tmp_path).as_usual(MODELS, 2.0)
    assert result.speedup("dense", "compressed").rounds == (2.0,) * 4, "of all runs together"
    assert (result.rounds, result.set_aside, len(left)) == (4, 20, 1)


def test_where_it_never_is_as_usual_all_rounds_of_the_fastest_run_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_module, "_WAITS", 1)
    left = install(monkeypatch, mixed((3.0, 2.0), (3.1, 2.0)), mixed((2.9, 2.0), (3.0, 2.1)))
    where = bench(tmp_path)
    where.state.waits = 1
    result = where.as_usual(MODELS, 2.0)
    assert not left
    assert result.models["dense"].samples_ms[0] == 2.9
    assert (result.rounds, result.set_aside) == (2, 0)


def test_faster_than_usual_is_usual_from_then_on(tmp_path: Path, runs: list[tuple[float, float]]) -> None:
    runs += [(1.5, 0.5), (2.0, 0.8), (1.55, 0.5), (9.0, 9.0)]
    where = bench(tmp_path)
    assert where.as_usual(MODELS, 2.0).models["dense"].p50_ms == 1.5
    assert where.as_usual(MODELS, 2.0).models["dense"].p50_ms == 1.55, "2 ms were the disturbed ones"
    other = {"dense": Path("other.onnx"), "compressed": Path("c.onnx")}
    runs.insert(0, (2.0, 1.0))
    assert where.as_usual(other, 2.0).models["dense"].p50_ms == 2.0, "of another dense model it says nothing"


def test_without_a_usual_time_the_first_run_counts(tmp_path: Path, runs: list[tuple[float, float]]) -> None:
    runs += [(5.0, 1.0), (2.0, 1.0)]
    assert bench(tmp_path).settle(MODELS, None).models["dense"].p50_ms == 5.0
    assert len(runs) == 1


def test_a_verdict_is_asked_in_the_usual_state(tmp_path: Path, runs: list[tuple[float, float]]) -> None:
    runs += [(2.6, 0.6), (2.0, 1.0), (9.0, 9.0)]
    result = bench(tmp_path).settle(MODELS, 3.0, usual_ms=2.0)
    assert result.speedup("dense", "compressed").value == pytest.approx(2.0)
    assert len(runs) == 1


def test_all_waiting_of_a_job_is_limited(tmp_path: Path, runs: list[tuple[float, float]]) -> None:
    most, where = bench_module._WAITS, bench(tmp_path)
    runs += [(2.6, 1.3)] * most + [(2.5, 1.4)]
    assert where.as_usual(MODELS, 2.0).models["dense"].p50_ms == 2.5, "the fastest of all"
    assert not runs
    runs += [(3.0, 1.3), (9.0, 9.0)]
    assert where.as_usual(MODELS, 2.0).models["dense"].p50_ms == 3.0, "nothing is waited for any more"
    assert len(runs) == 1
    assert bench(tmp_path).state.waits == most, "another job waits again"


@pytest.mark.parametrize(
    ("takes", "counted"),
    [
        ([2.03, 2.0, 2.04, 9.0], 3),
        ([2.1, 2.0, 2.0, 2.05, 2.05, 2.05, 2.05, 9.0], 7),
        ([2.1, 1.9] * 4 + [9.0], 8),
        ([2.02, 2.4, 9.0], 2),
    ],
    ids=["they agree", "they agree in the end", "never", "not near after all"],
)
def test_near_the_threshold_runs_go_on_until_they_agree(
    takes: list[float], counted: int, tmp_path: Path, runs: list[tuple[float, float]]
) -> None:
    runs += [(ms, 1.0) for ms in takes]
    result = bench(tmp_path).settle(MODELS, 2.0)
    assert len(result.speedup("dense", "compressed").rounds) == 8 * counted, "all rounds of all runs count"
    assert len(runs) == len(takes) - counted


def test_far_from_the_threshold_one_run_is_enough(tmp_path: Path, runs: list[tuple[float, float]]) -> None:
    runs += [(2.2, 1.0), (9.0, 9.0)]
    assert bench(tmp_path).settle(MODELS, 2.0).speedup("dense", "compressed").value == pytest.approx(2.2)
    assert len(runs) == 1


def test_where_the_value_counts_far_from_the_threshold_several_runs_are_taken(
    tmp_path: Path, runs: list[tuple[float, float]]
) -> None:
    runs += [(3.4, 1.0), (3.0, 1.0), (3.0, 1.0), (9.0, 9.0)]
    result = bench(tmp_path).settle(MODELS, 2.0, least_runs=3)
    assert result.speedup("dense", "compressed").value == pytest.approx(3.0)
    assert len(runs) == 1
