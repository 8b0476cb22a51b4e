"""The loop in the whole job, on a tiny model and a made-up device whose time is its number of weights."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import draw_task
from test_pipeline import FakeBench, hashes, options

from taco import api
from taco.errors import BudgetInfeasibleError, InputError, MeasurementError
from taco.latency.levels import Choice, Drop, Drops, Level
from taco.latency.rounds import BAND
from taco.progress import SilentProgress
from taco.report.schema import Report
from taco.search.bench import VALUE_RUNS, Bench
from taco.search.budget import Budget, decide_allocation
from taco.search.latency_ladder import latency_ladder
from taco.search.latency_search import LatencySearcher
from taco.search.limiting import Searched
from taco.search.probes import Probed
from taco.search.with_or_without import with_or_without
from taco.steps import delivery
from taco.timing.timings import BenchResult

#: What is the default: unit by unit.
ASKED = {"target": "host-cpu", "allocation": "auto"}


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_task(tmp_path_factory.mktemp("loop") / "site")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One latency table for all of these tests: their device is the same."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, cache: Path) -> FakeBench:
    return installed(monkeypatch, cache)


def installed(patch: pytest.MonkeyPatch, cache: Path) -> FakeBench:
    fake = FakeBench()

    def time(self: Bench, models: Mapping[str, Path], rounds: int | None = None) -> BenchResult:
        return fake(self, models, rounds)

    patch.setattr(Bench, "time", time)
    patch.setenv("TACO_CACHE", str(cache))
    return fake


@pytest.fixture(scope="module")
def whole(task: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> api.ExportResult:
    """A run from which others take the steps that they share with it."""
    with pytest.MonkeyPatch.context() as patch:
        installed(patch, cache)
        return api.export(options(task, tmp_path_factory.mktemp("whole") / "out", **ASKED, speedup=1.4))


def exported(task: Path, out: Path, **changes: Any) -> Report:
    return api.export(options(task, out, **{**ASKED, **changes})).report


def test_the_loop_lands_in_the_band_and_the_report_keeps_every_round(whole: api.ExportResult) -> None:
    report = whole.report
    assert report.speedup is not None
    assert report.speedup >= 1.4
    assert report.latency_ms is not None
    assert report.budget_ms == pytest.approx(report.latency_ms.dense.p50 / 1.4)
    assert 1 <= len(report.rounds) <= 5
    assert any(BAND * report.budget_ms <= r.measured_ms <= report.budget_ms for r in report.rounds)
    assert report.rounds[-1].predicted_ms == pytest.approx(report.rounds[-1].measured_ms, rel=0.05)
    kept = {layer.unit: layer.kept for layer in report.layers}
    assert {u.unit: u.level for u in report.allocation} == {unit: f"width:{kept[unit]}" for unit in kept}
    shares = {layer.kept / layer.dense for layer in report.layers}
    assert len(shares) > 1, "units differ in what a width costs and saves"
    assert report.currency is not None
    assert report.currency.models == 16
    correlations = report.currency.correlations
    assert report.currency.currency in ("probes", max(correlations, key=lambda currency: correlations[currency]))
    assert all(0 < unit.latency_ms <= unit.dense_ms for unit in report.allocation)
    assert report.profile is not None
    assert report.profile.cells > len(report.layers)
    assert 0 < report.profile.unattributed_percent < 100
    assert report.width_ratio == pytest.approx(sum(kept.values()) / sum(layer.dense for layer in report.layers))


def test_one_ratio_is_taken_where_it_does_less_harm(
    task: Path, tmp_path: Path, bench: FakeBench, whole: api.ExportResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense = {layer.unit: layer.dense for layer in whole.report.layers}

    def spread(choice: Choice) -> float:
        shares = [width / dense[name] for name, width in choice.widths.items() if name in dense]
        return max(shares) - min(shares)

    found = []
    for sign in (1.0, -1.0):
        monkeypatch.setattr(LatencySearcher, "harm", lambda _loop, choice, sign=sign: sign * spread(choice))
        out = tmp_path / ("even" if sign > 0 else "uneven")
        found.append(exported(task, out, speedup=1.3, from_run=whole.folder))
    even, uneven = found
    assert even.spread["one ratio"] < even.spread["unit by unit"]
    assert uneven.spread["one ratio"] > uneven.spread["unit by unit"]
    assert even.layers != uneven.layers
    ratios = [{layer.kept / layer.dense for layer in report.layers} for report in found]
    assert max(ratios[0]) - min(ratios[0]) < max(ratios[1]) - min(ratios[1])
    kept = {layer.unit: layer.kept for layer in even.layers}
    assert {u.unit: u.level for u in even.allocation} == {unit: f"width:{kept[unit]}" for unit in kept}
    assert even.budget_ms is not None
    assert even.rounds[-1].measured_ms <= even.budget_ms


@pytest.mark.parametrize(
    ("asked", "how"),
    [
        (Budget(1.5, None), "latency"),
        (Budget(None, 0.5), "latency"),
        (Budget(None, None, latency_ms=3.0), "latency"),
        (Budget(None, None, max_drop=1.0), "uniform"),
    ],
    ids=str,
)
def test_units_are_decided_one_by_one_unless_candidates_are_recovered(
    asked: Budget, how: str, task: Path, tmp_path: Path
) -> None:
    assert decide_allocation(options(task, tmp_path / "out", allocation="auto"), asked) == how
    for said in ("latency", "uniform"):
        assert decide_allocation(options(task, tmp_path / "out", allocation=said), asked) == said


@pytest.mark.slow
def test_milliseconds_can_be_asked(task: Path, tmp_path: Path, bench: FakeBench, whole: api.ExportResult) -> None:
    dense, earlier = whole.report.latency_ms, whole.folder
    assert dense is not None
    report = exported(task, tmp_path / "b", latency_ms=dense.dense.p50 / 1.3, from_run=earlier)
    assert report.speedup_asked == pytest.approx(1.3)
    assert report.budget_ms == pytest.approx(dense.dense.p50 / 1.3)
    assert report.latency_ms is not None
    assert report.latency_ms.compressed.p50 <= report.budget_ms
    roomy = exported(task, tmp_path / "c", latency_ms=10 * dense.dense.p50, from_run=earlier)
    assert roomy.width_ratio == 1.0
    assert any("already is inside the budget" in w for w in roomy.warnings)
    uniform = exported(task, tmp_path / "d", latency_ms=dense.dense.p50 / 1.3, allocation="uniform", from_run=earlier)
    assert uniform.speedup is not None
    assert uniform.speedup >= 1.3
    assert (uniform.rounds, uniform.budget_ms) == ([], None)


@pytest.mark.slow
def test_a_killed_run_goes_on_with_its_measurements(
    task: Path, tmp_path: Path, bench: FakeBench, whole: api.ExportResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(delivery, "judge", killed)
        with pytest.raises(KeyboardInterrupt):
            exported(task, tmp_path / "cut", speedup=1.4)
    timed = len(bench.calls)
    exported(task, tmp_path / "cut", speedup=1.4)
    assert len(bench.calls) == timed
    assert hashes(tmp_path / "cut") == hashes(whole.folder)


@pytest.mark.slow
def test_a_final_measurement_that_falls_short_takes_the_next_choice(
    task: Path, tmp_path: Path, bench: FakeBench
) -> None:
    bench.overrides = [1.2] * VALUE_RUNS
    report = exported(task, tmp_path / "out", speedup=1.4)
    finals = [call["compressed"] for call in bench.calls if "baseline_fp32" in call]
    short, narrower = set(finals[:VALUE_RUNS]), finals[VALUE_RUNS:]
    assert len(narrower) == VALUE_RUNS, "the value itself counts"
    assert len(short) == len(set(narrower)) == 1
    assert narrower[0] < short.pop()
    kept = {layer.unit: layer.kept for layer in report.layers}
    assert {u.unit: u.level for u in report.allocation} == {unit: f"width:{kept[unit]}" for unit in kept}


@pytest.mark.slow
def test_out_of_reach_is_told_the_fastest(
    task: Path, tmp_path: Path, bench: FakeBench, whole: api.ExportResult
) -> None:
    with pytest.raises(BudgetInfeasibleError, match=r"takes .* ms and is \d\.\d\d times as fast") as caught:
        exported(task, tmp_path / "out", speedup=50.0, from_run=whole.folder)
    assert caught.value.exit_code == 3
    assert re.search(r"before recovery it names \d+ of \d+ select pictures right, the dense one \d+", caught.value.what)
    assert not (tmp_path / "out" / "manifest.json").exists()


def choice(**widths: int) -> Choice:
    return Choice({name: Level(width, 0.0, 0.0, "measured") for name, width in widths.items()})


def searched(*, fails: bool = False, **widths: int) -> Callable[[Drops], Searched]:
    """A search that leaves `block` out where it may, and else takes `widths`."""

    def search(drops: Drops) -> Searched:
        if not drops and fails:
            raise BudgetInfeasibleError("too slow", "")
        found = choice(block=0, a=0) if drops else choice(**widths)
        return Searched((found,), ())

    return search


DROP = {"block": Drop(("a",), 1.0, 1.0, "measured")}


@pytest.mark.parametrize(
    ("with_block", "without", "taken"), [(0.1, 0.2, ["block"]), (0.2, 0.2, ["block"]), (0.3, 0.2, [])]
)
def test_the_select_pictures_decide_between_blocks_and_widths(
    with_block: float, without: float, taken: list[str]
) -> None:
    def harm(choice: Choice) -> float:
        return with_block if choice.widths.get("block") == 0 else without

    probed = Probed({}, (), {"block": 0.05})
    found, told = with_or_without(searched(a=4), DROP, harm, probed)
    assert told == {
        "offered": {"block": 0.05}, "taken": taken, "harm_with": with_block, "harm_without": without
    }  # fmt: skip
    assert (found.choices[0].widths.get("block") == 0) is bool(taken)


def test_blocks_are_left_out_where_widths_alone_are_too_slow_and_nothing_is_compared_where_none_is() -> None:
    probed = Probed({}, (), {"block": 0.05})
    found, told = with_or_without(searched(fails=True), DROP, lambda _: 0.3, probed)
    assert found.choices[0].widths["block"] == 0
    assert told == {"offered": {"block": 0.05}, "taken": ["block"], "harm_with": 0.3}
    assert with_or_without(searched(a=4), {}, lambda _: 0.3, probed)[1] is None


@pytest.mark.slow
def test_where_probes_do_no_harm_there_is_no_rate_and_no_block_is_left_out(
    task: Path, tmp_path: Path, bench: FakeBench
) -> None:
    """Random weights of this model give every picture the same answer, whatever is cut."""
    report = exported(task, tmp_path / "out", speedup=1.5, model="test_resnet")
    assert report.speedup is not None
    assert report.speedup >= 1.5
    assert report.blocks is None
    assert all(layer.kept > 0 for layer in report.layers)


def test_milliseconds_without_a_device_are_refused(task: Path, tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="--latency-ms needs a measurement on the raspberry-pi-4"):
        exported(task, tmp_path / "out", latency_ms=5.0, target="raspberry-pi-4")


@pytest.mark.parametrize("other", ["speedup", "macs", "sparsity"])
def test_two_budgets_exclude_each_other(task: Path, tmp_path: Path, other: str) -> None:
    with pytest.raises(InputError, match=f"--latency-ms and --{other} exclude"):
        options(task, tmp_path, latency_ms=5.0, **{other: 0.5})


@pytest.mark.slow
def test_whole_models_are_searched_beyond_the_sum_and_never_worse(
    task: Path, tmp_path: Path, bench: FakeBench, whole: api.ExportResult
) -> None:
    report = exported(
        task, tmp_path / "out", speedup=1.4, search="evopress", search_evaluations=8, from_run=whole.folder
    )
    found = report.level_search
    if found is None:  # what was found did not fit the clock: the sum's choice was kept
        assert len(report.rounds) >= 2
    else:
        assert 1 <= found.evaluations <= 8
        assert found.divergence_dp is not None
        assert found.divergence <= found.divergence_dp
    assert report.speedup is not None
    assert report.speedup >= 1.4


@pytest.mark.slow
def test_the_accuracy_decides_how_far_down_one_table_goes(
    task: Path, tmp_path: Path, bench: FakeBench, whole: api.ExportResult
) -> None:
    report = exported(task, tmp_path / "all", max_drop=100.0, allocation="latency", from_run=whole.folder)
    assert report.max_drop is not None
    assert (report.budget_ms, report.rounds) == (None, [])
    assert all(trial.points <= 100 for trial in report.max_drop.trials)
    assert report.speedup is not None
    assert report.speedup > 1
    kept = {layer.unit: layer.kept for layer in report.layers}
    assert {u.unit: u.level for u in report.allocation} == {unit: f"width:{kept[unit]}" for unit in kept}
    timed = [call for call in bench.calls if "baseline_fp32" in call]
    assert len(timed) == 1, "only the model that is shipped is timed"


def test_a_ladder_ends_where_the_table_says_that_nothing_takes_no_time() -> None:
    """Blocks that each hold all that was timed may leave nothing of the table's milliseconds."""

    @dataclasses.dataclass
    class Timed:
        table_ms: float

        @property
        def widths(self) -> dict[str, int]:
            return {"unit": round(100 * self.table_ms)}

        @property
        def loss(self) -> float:
            return 10.0 - self.table_ms

    asked: list[float] = []

    def choose(table_ms: float) -> Timed:
        asked.append(table_ms)
        return Timed(table_ms if table_ms > 0.25 else 0.0)

    space = SimpleNamespace(dense=lambda: Timed(10.0), fastest=lambda: Timed(0.0), choose=choose)
    loop: Any = SimpleNamespace(offered=lambda *_: SimpleNamespace(space=space))
    harms = latency_ladder(loop, SilentProgress()).harms
    assert harms[0] == 0.0
    assert harms[-1] == 10.0, "the fastest is on it"
    assert [*harms] == sorted(harms)
    assert min(asked) > 0
