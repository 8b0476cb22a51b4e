"""`--max-drop` in the whole job, on a tiny model: what is tried, what decides, what is told, and what goes on."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from test_pipeline import hashes
from tiny_run import options, steps_of

from taco import api
from taco.database import channels
from taco.errors import InputError, MeasurementError
from taco.metrics.accuracy import Drop
from taco.progress import PlainProgress
from taco.report.schema import Report
from taco.rundir import RunDir
from taco.search import drop_search
from taco.search.drop_search import DropSearch
from taco.steps import delivery
from taco.steps.crossfit import places_of
from taco.steps.cutting import Cutter
from taco.steps.groundwork import Groundwork


def estimated(points: float) -> Drop:
    return Drop(points, points - 5, points + 5, 6, points - 4)


@pytest.fixture(scope="module")
def run(pi_site: Path, pi_run: api.ExportResult, tmp_path_factory: pytest.TempPathFactory) -> api.ExportResult:
    """A search that may lose so much that it ends somewhere between the dense model and the smallest."""
    out = tmp_path_factory.mktemp("max-drop") / "out"
    return api.export(options(pi_site, steps_of(pi_run, out), max_drop=4.0))


def looked(report: Report) -> list[float]:
    assert report.max_drop is not None
    return [trial.points for trial in report.max_drop.trials]


def test_the_last_candidate_that_holds_is_shipped_and_every_trial_is_told(run: api.ExportResult) -> None:
    found = run.report.max_drop
    assert found is not None
    assert 1 <= len(found.trials) <= 8
    assert found.asked_points == 4.0
    assert found.judging_images == run.report.task.fit_images + run.report.task.select_images
    assert found.sides == 3
    assert run.report.chosen_by.startswith("the accuracy lost on held-out shots, at most 4 points")
    kept = 100 * sum(layer.kept for layer in run.report.layers) / sum(layer.dense for layer in run.report.layers)
    holding = [trial for trial in found.trials if trial.points <= 4.0]
    assert kept == pytest.approx(min((trial.kept_percent for trial in holding), default=100.0))
    assert found.shipped.points <= 4.0
    assert "max-drop" in (run.folder / "report.html").read_text()


def test_a_search_that_was_killed_goes_on_and_evaluation_pictures_had_no_say(
    pi_site: Path, pi_run: api.ExportResult, run: api.ExportResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, cuts = steps_of(pi_run, tmp_path / "out"), []
    original = Cutter.cut

    def counted(self: Cutter, *arguments: Any) -> Any:
        cuts.append(arguments[1:])
        if len(cuts) == 2:
            raise KeyboardInterrupt
        return original(self, *arguments)

    def judged(*_: Any) -> None:
        raise KeyboardInterrupt  # the first time that evaluation pictures are looked at

    monkeypatch.setattr(Cutter, "cut", counted)
    with monkeypatch.context() as patch:
        patch.setattr(delivery, "judge", judged)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                api.export(options(pi_site, out, max_drop=4.0))
    assert run.report.max_drop is not None
    found = run.report.max_drop
    made = sum(round(3 * (trial.judging_images or 0) / found.judging_images) for trial in found.trials)
    assert sum(share == 1.0 for share, *_ in filter(None, cuts)) == made + 1, (
        "what was interrupted is begun again, nothing else"
    )
    again = api.export(options(pi_site, out, max_drop=4.0))
    assert looked(again.report) == looked(run.report)
    assert hashes(out) == hashes(run.folder)


def test_every_division_solves_its_channels_once_whatever_an_older_run_left(
    pi_site: Path, pi_run: api.ExportResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = options(pi_site, steps_of(pi_run, tmp_path / "out"), max_drop=4.0)
    solved, real = Counter[str](), channels.solve_widths

    def counted(order: channels.WidthOrder, *arguments: Any) -> bytes:
        solved[order.unit] += 1
        return real(order, *arguments)

    monkeypatch.setattr(channels, "solve_widths", counted)
    rundir = RunDir(asked.out)
    (rundir.widths / "units").mkdir(parents=True)
    (rundir.widths / "index.json").write_text("{}")  # where one database was for everything
    with api.planned(asked) as plan, rundir.locked():
        ground = Groundwork(plan, rundir, PlainProgress(), rundir.scratch())
        (place,) = places_of([ground], [""])
        assert len(place.sides) == 3
        orders = [[side.make_cutter().solutions for side in place.sides] for _candidate in range(2)]
    assert {u.name for u in plan.units.within_blocks} == set(solved)
    assert set(solved.values()) == {3}
    for first, second in zip(*orders, strict=True):
        assert all((first[unit].order.removed == second[unit].order.removed).all() for unit in solved)


def test_where_nothing_holds_the_dense_model_is_kept_and_said_so(
    pi_site: Path, pi_run: api.ExportResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drop_search, "drop_between", lambda *_, **__: estimated(9.0))
    report = api.export(options(pi_site, steps_of(pi_run, tmp_path / "out"), max_drop=1.0)).report
    assert report.width_ratio == 1.0
    assert "no smaller model loses at most 1 point on held-out shots: the dense one was kept" in report.warnings


def test_a_file_that_loses_more_once_exported_gives_way_to_wider_widths(
    pi_site: Path, pi_run: api.ExportResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trials lose nothing; the first exported file does."""
    looked: list[int] = []

    def shipped(_: DropSearch, index: int, *__: Any) -> Drop:
        looked.append(index)
        return estimated(3.0 if len(looked) == 1 else 0.0)

    monkeypatch.setattr(drop_search, "drop_between", lambda *_, **__: estimated(0.0))
    monkeypatch.setattr(DropSearch, "shipped", shipped)
    report = api.export(options(pi_site, steps_of(pi_run, tmp_path / "out"), max_drop=1.0)).report
    assert report.max_drop is not None
    assert report.max_drop.full_recoveries == len(looked) == 2
    kept = sorted(trial.kept_percent for trial in report.max_drop.trials)
    total = 100 * sum(x.kept for x in report.layers) / sum(x.dense for x in report.layers)
    assert total == pytest.approx(kept[1])


def test_more_lost_on_unseen_pictures_is_a_warning(run: api.ExportResult) -> None:
    from taco.report.max_drop import exceeds

    report = run.report
    assert report.max_drop is not None
    lost = report.accuracy.model_copy(
        update={"drop_points": 6.0, "drop_ci95": (4.5, 8.0), "evaluated_on": "evaluation"}
    )
    assert "6.0 points, surely more than --max-drop 4" in exceeds(report.max_drop, lost)
    unsure = lost.model_copy(update={"drop_ci95": (1.0, 9.0)})
    assert "more, though within what chance may do" in exceeds(report.max_drop, unsure)
    assert exceeds(report.max_drop, lost.model_copy(update={"drop_points": 4.0})) == ""
    assert exceeds(report.max_drop, lost.model_copy(update={"evaluated_on": "select"})) == ""


def test_levels_by_time_need_a_clock(pi_site: Path, tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="--allocation latency needs a measurement"):
        api.export(options(pi_site, tmp_path / "out", max_drop=1.0, allocation="latency"))


def test_given_widths_are_kept_exactly(pi_site: Path, pi_run: api.ExportResult, tmp_path: Path) -> None:
    report = api.export(
        options(pi_site, steps_of(pi_run, tmp_path / "out"), widths=pi_run.folder / "manifest.json")
    ).report
    assert report.layers == pi_run.report.layers
    assert report.chosen_by == "a person (--widths)"


@dataclasses.dataclass(frozen=True)
class Wrong:
    name: str
    content: str
    said: str


WRONG = (
    Wrong("no JSON", "{", "cannot be read"),
    Wrong("no widths", '{"a": "b"}', "holds no widths"),
    Wrong("unknown", '{"blocks.9.0.conv_pwl": 16}', "has no unit 'blocks.9.0.conv_pwl'"),
    Wrong("too wide", '{"FIRST": 100000}', "cannot keep 100000"),
    Wrong("nothing left", '{"FIRST": 0}', "cannot keep 0"),
)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.name)
def test_wrong_widths_are_refused_at_once(
    pi_site: Path, pi_run: api.ExportResult, tmp_path: Path, wrong: Wrong
) -> None:
    file = tmp_path / "widths.json"
    file.write_text(wrong.content.replace("FIRST", pi_run.report.layers[0].unit))
    with pytest.raises(InputError, match=wrong.said):
        api.make_plan(options(pi_site, tmp_path / "out", widths=file))


def test_moments_of_one_ratio_are_not_taken_where_every_unit_is_cut_for_itself(pi_site: Path, tmp_path: Path) -> None:
    """One ratio for all leaves the width of attention's heads alone, whose layers it does not calibrate."""
    solved = {}
    for allocation in ("uniform", "auto"):
        asked = options(pi_site, tmp_path / "out", model="test_vit", macs=0.6, allocation=allocation)
        rundir = RunDir(asked.out)
        with api.planned(asked) as plan, rundir.locked():
            solved[allocation] = set(Groundwork(plan, rundir, PlainProgress(), rundir.scratch()).solutions)
    assert solved["uniform"] < solved["auto"]
