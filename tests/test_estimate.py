"""Widths by a latency table from elsewhere: an estimate, said so everywhere, corrected by a folder that came back."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_run
from test_pipeline import FakeBench, installed

from taco import api
from taco.commands import printing
from taco.device.probe import probe
from taco.errors import BudgetInfeasibleError, InputError
from taco.latency.levels import Level, dense
from taco.latency.limits import Space
from taco.latency.table import read_table
from taco.options import make_options
from taco.progress import PlainProgress
from taco.report.markdown import render_markdown
from taco.report.schema import Latency, LatencySection
from taco.report.write import write_report
from taco.search import budget, estimate
from taco.search.profile_job import Place, profile_model
from taco.targets.loading import load_target

PI = load_target("raspberry-pi-4")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of another machine, whose milliseconds are numbers of weights."""
    machine = {**probe(), "board": "Raspberry Pi 4 Model B"}
    pi: Any = SimpleNamespace(emulated=None, check_runtime=lambda _runtime: None, machine=lambda _runtime: machine)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TACO_CACHE", str(tmp_path_factory.mktemp("cache")))
        installed(FakeBench(), patch)
        return profile_model("test_efficientnet", Place(PI, 1, pi), None, PlainProgress()).path


def exported(site: Path, run: api.ExportResult, out: Path, **changes: Any) -> api.ExportResult:
    return api.export(tiny_run.options(site, tiny_run.steps_of(run, out), **changes))


@pytest.fixture(scope="module")
def estimated(
    pi_site: Path, pi_run: api.ExportResult, table: Path, tmp_path_factory: pytest.TempPathFactory
) -> api.ExportResult:
    out = tmp_path_factory.mktemp("estimated") / "out"
    return exported(pi_site, pi_run, out, speedup=1.15, latency_table=table)


def test_nothing_is_measured_and_everything_says_estimate(estimated: api.ExportResult, table: Path) -> None:
    report = estimated.report
    assert (report.latency_ms, report.speedup, report.latency_source, report.measured_on) == (None, None, "none", None)
    assert report.estimate is not None
    assert report.estimate.dense_ms == read_table(table).dense_ms
    assert report.budget_ms == pytest.approx(report.estimate.dense_ms / 1.15)
    assert report.estimate.compressed_ms <= report.budget_ms
    assert report.rounds == []
    assert {unit.source for unit in report.allocation} == {"estimated"}
    kept = {layer.unit: layer.kept for layer in report.layers}
    assert {u.unit: u.level for u in report.allocation} == {unit: f"width:{kept[unit]}" for unit in kept}
    assert "an estimate" in report.chosen_by
    assert any("chosen by an estimate and nothing was measured" in warning for warning in report.warnings)
    page = render_markdown(report).replace("\N{NO-BREAK SPACE}", " ")
    assert "Not measured: nothing was timed on the raspberry-pi-4" in page
    assert "An estimate, by the latency table of Raspberry Pi 4 Model B: " in page
    assert "How an estimate decided the widths" in page
    assert "estimated" in dict(printing._lines(report))["speed"]


def came_back(folder: Path, run: api.ExportResult, dense_ms: float, speedup: float) -> Path:
    """Write the report of a run as its device would have filled it in."""

    def latency(ms: float) -> Latency:
        return Latency(n=1, min=ms, p50=ms, p90=ms, p99=ms, samples=[ms])

    folder.mkdir()
    times = LatencySection(dense=latency(dense_ms), compressed=latency(dense_ms / speedup))
    filled = {"latency_ms": times, "latency_source": "measured", "speedup": speedup, "speedup_rounds": [speedup]}
    write_report(run.report.model_copy(update=filled), folder)
    return folder


@pytest.mark.slow
def test_a_folder_that_came_back_corrects_the_estimate(
    pi_site: Path, pi_run: api.ExportResult, estimated: api.ExportResult, table: Path, tmp_path: Path
) -> None:
    before = estimated.report.estimate
    assert before is not None
    # the device is twice as slow, and its gain is half of what the table promised
    gain = before.dense_ms / before.compressed_ms
    back = came_back(tmp_path / "back", estimated, 2 * before.dense_ms, 1 + (gain - 1) / 2)
    result = exported(pi_site, pi_run, tmp_path / "out", speedup=1.08, latency_table=table, feedback=back)
    after = result.report.estimate
    assert after is not None
    assert after.corrected
    assert after.dense_ms == pytest.approx(2 * before.dense_ms)
    assert after.compressed_ms <= after.dense_ms / 1.08
    assert result.report.width_ratio < 1
    plain = exported(pi_site, pi_run, tmp_path / "plain", speedup=1.08, latency_table=table).report
    assert result.report.width_ratio < plain.width_ratio, "more has to go where a cut gains less"


def test_a_folder_that_has_not_run_there_corrects_nothing(
    pi_site: Path, pi_run: api.ExportResult, table: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="nothing was timed there yet"):
        exported(
            pi_site, pi_run, tmp_path / "out", speedup=1.2, latency_table=table, feedback=pi_run.folder
        )  # fmt: skip


def test_a_budget_out_of_reach_is_told_as_an_estimate(
    pi_site: Path, pi_run: api.ExportResult, table: Path, tmp_path: Path
) -> None:
    with pytest.raises(BudgetInfeasibleError, match=r"by the table .* the fastest model is estimated at"):
        exported(pi_site, pi_run, tmp_path / "out", latency_ms=0.001, latency_table=table)


@pytest.mark.parametrize(("field", "other"), [("model", "resnet18"), ("precision", "int8"), ("architecture", "x")])
def test_a_table_of_something_else_is_refused(
    field: str, other: str, pi_site: Path, pi_run: api.ExportResult, table: Path, tmp_path: Path
) -> None:
    values = json.loads(table.read_text())
    values["key"][field] = other
    file = tmp_path / "other.json"
    file.write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"is of another .* than this run") as caught:
        exported(pi_site, pi_run, tmp_path / "out", speedup=1.2, latency_table=file)
    assert "taco profile" in caught.value.todo


def test_a_block_that_was_left_out_saves_its_time_once(table: Path) -> None:
    found = read_table(table)
    block = next(unit.holder for unit in found.units.values())
    inside = [name for name, unit in found.units.items() if unit.holder == block]
    options = {
        name: [Level(c.width, 0.0, c.p50_ms, c.source) for c in unit.cells] for name, unit in found.units.items()
    }
    kept = {name: 0 if name in inside else levels[0].width for name, levels in options.items()}
    saved = fmean(options[name][0].ms for name in inside)
    assert estimate._at(Space(options), found, kept) == pytest.approx(dense(options).table_ms - saved)


def test_a_table_is_refused_where_times_can_be_taken(table: Path, tmp_path: Path) -> None:
    asked = tiny_run.options(tmp_path, tmp_path / "out", target="host-cpu", speedup=1.2, latency_table=table)
    with pytest.raises(InputError, match="host-cpu can be timed"):
        budget.decide_budget(asked, load_target("host-cpu"), measurable=True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"latency_table": "t.json", "macs": 0.5}, "--latency-table needs --latency-ms or --speedup"),
        ({"latency_table": "t.json", "speedup": 2.0, "device": "local"}, "--device names one"),
        ({"feedback": "out", "speedup": 2.0}, "--feedback corrects a --latency-table"),
        ({"latency_table": "t.json", "max_drop": 1.0}, "--max-drop and --latency-table exclude each other"),
        (
            {"latency_table": "t.json", "speedup": 2.0, "allocation": "uniform"},
            "--allocation uniform exclude each other",
        ),
    ],
)
def test_flags_that_make_no_sense_together_are_refused(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        make_options({"task": tmp_path, "target": "raspberry-pi-4", "out": tmp_path / "out", **changes})


@pytest.mark.slow
def test_the_estimate_is_stored_under_the_table_it_rests_on(
    pi_site: Path, estimated: api.ExportResult, table: Path, tmp_path: Path
) -> None:
    values = json.loads(table.read_text())
    values["dense_ms"] *= 1.05
    file = tmp_path / "other.json"
    file.write_text(json.dumps(values))
    same = tiny_run.options(pi_site, estimated.folder, speedup=1.15, latency_table=table)
    assert api.export(same).already_done
    out = tiny_run.steps_of(estimated, tmp_path / "out")
    report = api.export(tiny_run.options(pi_site, out, speedup=1.15, latency_table=file)).report
    assert report.estimate is not None
    assert report.estimate.dense_ms == values["dense_ms"]


@pytest.mark.slow
def test_limits_and_a_search_take_part_in_an_estimate(
    pi_site: Path, pi_run: api.ExportResult, estimated: api.ExportResult, table: Path, tmp_path: Path
) -> None:
    most = 0.9 * estimated.report.size.compressed.macs
    asked = {"speedup": 1.15, "max_macs": most, "allocation": "latency", "search": "evopress", "search_evaluations": 8}
    report = exported(pi_site, pi_run, tmp_path / "out", latency_table=table, **asked).report
    assert report.estimate is not None
    assert report.budget_ms is not None
    assert report.estimate.compressed_ms <= report.budget_ms
    assert report.size.compressed.macs <= most
    assert [(held.flag, held.used <= most) for held in report.limits] == [("--max-macs", True)]
    assert report.level_search is not None
    assert {unit.source for unit in report.allocation} == {"estimated"}
    assert (report.latency_ms, report.speedup) == (None, None)
    page = render_markdown(report)
    assert "How an estimate decided the widths" in page
    assert "Limits that held beside the budget" in page


@pytest.mark.parametrize(
    ("asked", "told"),
    [({"speedup": 9.0}, "--speedup 1.666 or less"), ({"latency_ms": 1.0}, "--latency-ms 6.001 or more")],
    ids=str,
)
def test_what_can_be_asked_instead_is_told_in_the_flag_that_was_used(
    asked: dict[str, float], told: str, pi_site: Path, tmp_path: Path
) -> None:
    assert estimate.reachable(tiny_run.options(pi_site, tmp_path / "out", **asked), 6.0001, 10.0) == told
