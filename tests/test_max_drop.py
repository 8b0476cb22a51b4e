"""`--max-drop` in the whole job, on a tiny model: what is tried, what decides, what is told, and what goes on."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from test_pipeline import hashes
from tiny_run import options, steps_of

from taco import api
from taco.allocate import Allocation
from taco.database import channels
from taco.errors import InputError, MeasurementError
from taco.metrics.accuracy import Drop
from taco.progress import PlainProgress
from taco.report.schema import Report
from taco.rundir import RunDir
from taco.search import drop_search
from taco.search.drop_search import TAKEN, DropSearch, Place
from taco.search.ladder import Ladder, Rung, Taken, Uncut
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


def test_what_conversion_takes_is_added_to_what_the_candidate_lost() -> None:
    """The file names one picture of two wrong that its torch model names right."""
    names = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    exported = np.array([[1.0, 0.0], [1.0, 0.0]], np.float32)
    unused: Any = None

    class OneSide:
        labels = np.array([0, 1])

        def answer(self, _module: Any, _head: Any = None, logits: Any = None) -> Any:
            return names if logits is None else logits

    side: Any = OneSide()
    rung: Any = SimpleNamespace(at=0)
    search = DropSearch(
        lambda: Ladder([0, 1, 2, 3, 4], lambda _: rung), (Place(side, [side], {}, unused),), unused, 1.0, unused
    )
    cut: Any = SimpleNamespace(module=None, head=None)
    assert search.shipped(0, cut, exported).points == 50.0
    search.trials[3] = {"points": 2.0, "low": 1.0, "high": 3.0, "judging_images": 2}
    found = search.shipped(3, cut, names)
    assert (found.points, found.low, found.high) == (2.0, 1.0, 3.0)
    assert search.shipped(3, cut, exported).points == 52.0


class Division:
    """Eight shots that judge; the dense model names all right, a candidate so many wrong."""

    labels = np.arange(8) % 2
    share = 1.0

    def __init__(self, name: str, wrong: int, made: list[str]) -> None:
        self.depends_on, self.wrong, self.made = {"name": name}, wrong, made
        self.looks = SimpleNamespace(each=1)

    def make_cutter(self) -> Any:
        def cut(_allocation: Any, _share: float, readers: Any) -> Any:
            self.made.append(self.depends_on["name"])
            return self.finished(readers)

        return SimpleNamespace(cut=cut)

    def finished(self, readers: Any) -> Any:
        """Only the first division may decide how readers are refitted."""
        assert readers == (None if self.depends_on["name"] == "a" else "in order")
        refit = SimpleNamespace(kept="in order")
        return SimpleNamespace(module="cut", head=None, refit=refit, recovered=SimpleNamespace(steps=5, ended="done"))

    def answer(self, module: Any, _head: Any = None, _logits: Any = None) -> Any:
        names = np.eye(2, dtype=np.float32)[self.labels]
        if module == "cut":
            names[: self.wrong] = 1 - names[: self.wrong]
        return names


@pytest.mark.parametrize(
    ("wrong", "made", "holds"),
    [((0, 0, 0), "abc", True), ((8, 0, 0), "a", False), ((2, 8, 0), "ab", False), ((1, 0, 1), "abc", False)],
    ids=["nothing", "all at once", "surely after two", "never surely"],
)
def test_a_candidate_that_surely_loses_too_much_is_not_made_again(
    wrong: tuple[int, ...], made: str, holds: bool, tmp_path: Path
) -> None:
    told: list[str] = []
    sides: Any = [Division(name, n, told) for name, n in zip("abc", wrong, strict=True)]
    rungs = [Rung(Allocation(1.0, {"u": width}), None) for width in (8, 4)]
    unused: Any = None
    place = Place(sides[0], sides, {"u": 8}, unused)
    search = DropSearch(lambda: Ladder([0, 1], rungs.__getitem__), (place,), unused, 1.0, RunDir(tmp_path))
    assert [*search.holding()] == [1] * holds
    assert "".join(told) == made
    (trial,) = search.trials.values()
    assert trial["judging_images"] == 8 * len(made)
    assert trial["points"] == pytest.approx(100 * sum(wrong[: len(made)]) / (8 * len(made)))
    again = dataclasses.replace(search, trials={})
    assert [*again.holding()] == [1] * holds
    assert again.trials == search.trials
    assert "".join(told) == made, "what was made is not made again"


class Ladderlike(Division):
    """A candidate of fewer channels names more wrong."""

    def __init__(self, name: str, wrong: dict[int, int], made: list[str]) -> None:
        super().__init__(name, 0, made)
        self.by_width = wrong

    def make_cutter(self) -> Any:
        def cut(allocation: Any, _share: float, readers: Any) -> Any:
            width = allocation.widths["u"]
            self.wrong = self.by_width[width]
            self.made.append(f"{self.depends_on['name']}{width}")
            return self.finished(readers)

        return SimpleNamespace(cut=cut)


def test_a_candidate_that_seems_to_hold_by_a_third_of_the_shots_is_judged_by_all_before_it_is_taken(
    tmp_path: Path,
) -> None:
    """Of 8 channels: by a third of the shots 3 of them hold, by all of them 5."""
    told: list[str] = []
    first = dict.fromkeys(range(3, 9), 0) | {1: 8, 2: 8}
    others = dict.fromkeys(range(5, 9), 0) | dict.fromkeys(range(1, 5), 8)
    sides: Any = [Ladderlike(name, first if name == "a" else others, told) for name in "abc"]
    unused: Any = None

    def rung(index: int) -> Rung:
        return Rung(Allocation(1.0, {"u": 8 - index}), None)

    place = Place(sides[0], sides, {"u": 8}, unused)
    search = DropSearch(lambda: Ladder([*range(8)], rung), (place,), unused, 1.0, RunDir(tmp_path))
    found = next(search.holding())
    assert told[:2] == ["a4", "b4"], "half of the shots are surely wrong"
    assert search.trials[4]["judging_images"] == 16
    assert 1 <= found <= 3
    assert search.trials[found]["judging_images"] == 24
    assert search.trials[found]["points"] == 0.0


def test_where_a_rate_of_loss_is_known_the_search_begins_where_the_limit_is_expected(tmp_path: Path) -> None:
    told: list[str] = []
    sides: Any = [Ladderlike("a", {8: 0, 7: 0, 6: 0, 5: 0, 4: 8, 3: 8, 2: 8, 1: 8}, told)]
    unused: Any = None
    place = Place(sides[0], sides, {"u": 8}, unused)
    ladder = Ladder([*range(8)], lambda i: Rung(Allocation(1.0, {"u": 8 - i}), None), rate=0.5)
    assert next(DropSearch(lambda: ladder, (place,), unused, 1.0, RunDir(tmp_path)).holding()) in (2, 3)
    assert told[0] == "a6", "one point at half a point a step; without a rate it is the middle"
    assert ladder.begin(1.0, held=3) == 5, "what later steps lose is counted from one that holds"
    assert ladder.begin(1.0, held=7) == 8
    assert ladder.begun_at(4.0).begin(1.0) == 4, "what another run found tells more"
    assert Ladder([*range(8)], ladder.rung).begin(1.0) is None


@pytest.mark.parametrize("wrong", [0, 8], ids=["it holds", "it loses too much"])
def test_models_from_which_nothing_is_cut_are_asked_first_and_slower_steps_only_where_they_lose_too_much(
    wrong: int, tmp_path: Path
) -> None:
    told: list[str] = []
    side = Ladderlike("a", {32 - i: min(8, max(0, i - 8) // 4) for i in range(32)}, told)
    small: Any = "the dense model for small pictures"

    def answer(module: Any, *_: Any) -> Any:
        if module is small:
            side.wrong = wrong
        return Division.answer(side, "cut" if module is small else module)

    sides: Any = [side]
    side.answer = answer  # type: ignore[method-assign]
    unused: Any = None
    places = [Place(sides[0], sides, {"u": 32}, unused), Place(sides[0], sides, {"u": 32}, small, "64x64")]
    uncut = [Uncut(Rung(Allocation(1.0, {"u": 32}), None, 1), 8)]
    ladder = Ladder([*range(32)], lambda i: Rung(Allocation(1.0, {"u": 32 - i}), None, 0), uncut=uncut)
    search = DropSearch(lambda: ladder, places, unused, 30.0, RunDir(tmp_path))  # two of eight
    found = [*search.holding()]
    trials = {index: trial["kept_percent"] for index, trial in search.trials.items()}
    assert next(iter(trials.items())) == (-2, 100.0)
    assert search.trials[-2]["pictures"] == "64x64"
    assert "a32" not in told, "to ask it nothing is solved or recovered"
    if wrong:
        assert -2 not in found
        assert found[0] > 8
    else:
        assert 8 < found[0] < 20
        assert -2 in found, "what it began with, though step 8 was not asked"
        assert 8 not in found
        assert search.rung(-2) is uncut[0].rung
        assert search.told(-2, Drop(0.0, 0.0, 0.0, 8, 0.0), 1)["taken_over"] is None


@pytest.mark.parametrize("wrong", [0, 8], ids=["it holds", "it loses too much"])
def test_what_another_run_took_comes_first_and_the_ladder_is_made_after_it_was_refused(
    wrong: int, tmp_path: Path
) -> None:
    told: list[str] = []
    sides: Any = [Ladderlike("a", dict.fromkeys(range(4, 9), 0) | {1: 8, 2: 8, 3: wrong}, told)]
    unused: Any = None

    def ladder() -> Ladder:
        told.append("ladder")
        return Ladder([*range(8)], lambda i: Rung(Allocation(1.0, {"u": 8 - i}), None, 0, {"64x64": 1.5}, ["64x64"]), 5)

    taken = Taken(Rung(Allocation(1.0, {"u": 3}), None), {"target": "nuc"})
    place = Place(sides[0], sides, {"u": 8}, unused)
    search = DropSearch(ladder, (place,), unused, 1.0, RunDir(tmp_path), lambda: taken)
    steps = search.holding()
    if not wrong:
        assert next(steps) == TAKEN
        assert told == ["a3"], "no ladder was made, and so nothing else was timed"
        assert search.rung(TAKEN) is taken.rung
        lost = Drop(0.0, 0.0, 0.0, 8, 0.0)
        assert search.told(TAKEN, lost, 1)["taken_over"] == {"target": "nuc"}
        assert search.told(TAKEN, lost, 1)["sizes"] == []
    refused = next(steps)
    assert told[:2] == ["a3", "ladder"]
    assert search.rung(refused).allocation.widths["u"] >= 4, "wider, and not the very same again"
    told_of = search.told(refused, Drop(0.0, 0.0, 0.0, 8, 0.0), 2)
    assert told_of["taken_over"] is None
    assert told_of["sizes"] == [{"pictures": "64x64", "behind": 1.5, "profiled": False}]


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
