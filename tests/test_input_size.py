"""`--input-size`: the compressed model reads smaller pictures, and is compared with the dense model at its own size."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from test_pipeline import hashes
from tiny_run import options, steps_of

from taco import api
from taco.allocate import Allocation
from taco.allocation.crossing import Answer
from taco.commands.request import make_request
from taco.errors import BudgetInfeasibleError, BundleError, InputError
from taco.model import load_generalist
from taco.progress import SilentProgress
from taco.report.search_schema import NEVER
from taco.search import drop_search, size_loop
from taco.search import size_ladder as module
from taco.search.budget import Budget
from taco.search.drop_search import DropSearch, Place
from taco.search.ladder import Ladder, Rung
from taco.search.size_ladder import Competing, size_ladder
from taco.search.size_loop import SizeLoop
from taco.steps.plan import input_sizes
from taco.steps.sizes import Sized, Sizes

OWN, SMALLER = "160x160", "96x96"


@pytest.mark.parametrize("name", ["test_efficientnet", "test_vit", "test_resnet"])
def test_a_model_at_another_size_answers_there_and_leaves_the_first_as_it_was(name: str) -> None:
    own = load_generalist(name, random_weights=True)
    before = own.module(torch.zeros(1, *own.preprocessing.input_size))
    other = own.at(96)
    assert other.preprocessing == own.preprocessing._replace(input_size=(3, 96, 96))
    assert other.module(torch.zeros(1, 3, 96, 96)).shape == before.shape
    assert torch.equal(own.module(torch.zeros(1, *own.preprocessing.input_size)), before)


def test_a_model_that_reads_its_own_size_only_is_refused() -> None:
    with pytest.raises(InputError, match="mixer_s32_224 cannot read pictures of 160x160 pixels: "):
        load_generalist("mixer_s32_224", random_weights=True).at(160)


@pytest.mark.parametrize(
    ("own", "tried"), [(224, (192, 160)), (260, (224, 192)), (384, (320, 288)), (160, (128,)), (48, (32,)), (32, ())]
)
def test_sizes_that_compete_are_smaller_and_each_is_there_once(own: int, tried: tuple[int, ...]) -> None:
    generalist: Any = SimpleNamespace(preprocessing=SimpleNamespace(input_size=(3, own, own + 64)))
    asked: Any = SimpleNamespace(input_size="auto")
    assert input_sizes(asked, generalist) == tried


@pytest.fixture(scope="module")
def small(pi_site: Path, pi_run: api.ExportResult, tmp_path_factory: pytest.TempPathFactory) -> api.ExportResult:
    out = tmp_path_factory.mktemp("input-size") / "out"
    return api.export(options(pi_site, steps_of(pi_run, out), macs=0.2, input_size=96))


def test_the_bundle_reads_smaller_pictures_and_the_report_compares_with_the_own_size(
    small: api.ExportResult, pi_run: api.ExportResult
) -> None:
    size, report = small.report.size, small.report
    assert (size.dense.pictures, size.compressed.pictures) == (OWN, SMALLER)
    assert size.dense.macs == pi_run.report.size.dense.macs
    assert report.accuracy.dense == pi_run.report.accuracy.dense, "of the dense model at its own size"
    assert report.task == pi_run.report.task, "the same pictures, divided alike"
    assert json.loads((small.folder / "preprocessing.json").read_text())["input_size"] == [3, 96, 96]
    shape = onnx.load(small.folder / "model.onnx").graph.input[0].type.tensor_type.shape
    assert [d.dim_value for d in shape.dim] == [1, 3, 96, 96]
    page = (small.folder / "report.html").read_text()
    assert f"reads {SMALLER} pixels instead of {OWN}" in page
    assert "pictures it reads, pixels" in page
    assert all(gate.passed is not False for gate in api.verify(small.folder))


def test_widths_are_asked_only_for_what_the_size_leaves(small: api.ExportResult, pi_site: Path, tmp_path: Path) -> None:
    size = small.report.size
    assert small.report.width_ratio < 1
    assert 0.1 < size.compressed.macs / size.dense.macs <= 0.2, "of what the dense model does at its own size"
    enough = api.export(options(pi_site, steps_of(small, tmp_path / "out"), macs=0.6, input_size=96)).report
    assert enough.width_ratio == 1.0, "0.36 of the arithmetic is left without any cut"
    assert enough.size.compressed.macs < 0.4 * enough.size.dense.macs


def test_the_own_size_asked_for_is_the_usual_run(pi_site: Path, pi_run: api.ExportResult, tmp_path: Path) -> None:
    again = api.export(options(pi_site, steps_of(pi_run, tmp_path / "out"), input_size=160))
    assert hashes(again.folder)["model.onnx"] == hashes(pi_run.folder)["model.onnx"]


def test_a_run_that_was_killed_goes_on_and_ends_the_same(
    small: api.ExportResult, pi_site: Path, pi_run: api.ExportResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = steps_of(pi_run, tmp_path / "out")
    asked = options(pi_site, out, macs=0.2, input_size=96)
    with monkeypatch.context() as patch:
        patch.setattr("taco.pipeline.Stages", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            api.export(asked)
    assert hashes(api.export(asked).folder) == hashes(small.folder)


def test_another_device_gets_the_same_small_model(pi_site: Path, small: api.ExportResult, tmp_path: Path) -> None:
    """`--from RUN --widths RUN`: widths, size of pictures and recovered weights of the first device's model."""
    out = steps_of(small, tmp_path / "first")
    first = api.export(options(pi_site, out, macs=0.2, input_size=96, recover_minutes=0.02))
    run, before = first.folder, first.report
    request = make_request({"from_run": run, "widths": run, "target": "raspberry-pi-5", "out": tmp_path / "second"})
    assert request.notes == (f"widths of {run}, for pictures of {SMALLER} pixels as there: nothing is searched",)
    again = api.export(api.make_options(request.values))
    assert (again.report.target, again.report.runtime.precision) == ("raspberry-pi-5", "int8")

    def weights(folder: Path) -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in (folder / ".taco" / "steps").glob("recovered-*.safetensors")}

    assert len(weights(run)) == 1
    assert weights(again.folder) == weights(run), "nothing was recovered again"
    assert again.report.accuracy.compressed == before.accuracy.compressed
    assert again.report.chosen_by == "a person (--widths)"


def test_a_size_asked_for_wins_over_that_of_the_run_whose_widths_are_kept(small: api.ExportResult) -> None:
    request = make_request({"task": "photos", "widths": small.folder, "input_size": 128})
    assert request.values["input_size"] == 128
    assert request.notes == (f"widths of {small.folder}: nothing is searched",)
    for_a_front = make_request({"task": "photos", "widths": small.folder}, takes_widths=False)
    assert "input_size" not in for_a_front.values
    assert for_a_front.notes == ()


def test_widths_of_a_folder_without_a_bundle_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not a bundle"):
        make_request({"task": "photos", "widths": tmp_path})


def test_points_are_lost_from_the_dense_model_at_its_own_size(
    pi_site: Path, small: api.ExportResult, tmp_path: Path
) -> None:
    report = api.export(options(pi_site, steps_of(small, tmp_path / "out"), max_drop=60.0, input_size=96)).report
    assert report.max_drop is not None
    assert {trial.pictures for trial in report.max_drop.trials} == {SMALLER}
    assert report.size.compressed.pictures == SMALLER


def test_a_size_that_alone_loses_too_much_is_said(pi_site: Path, small: api.ExportResult, tmp_path: Path) -> None:
    from test_max_drop import estimated

    with pytest.MonkeyPatch.context() as patch:
        for name in ("drop_between", "estimate_drop"):
            patch.setattr(drop_search, name, lambda *_, **__: estimated(9.0))
        report = api.export(options(pi_site, steps_of(small, tmp_path / "out"), max_drop=1.0, input_size=96)).report
    assert report.width_ratio == 1.0
    assert any("pictures of 96x96 pixels alone cost more than 1 point" in warning for warning in report.warnings)


def test_engines_do_not_take_another_size(pi_site: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--input-size is not for jetson-orin yet"):
        api.make_plan(options(pi_site, tmp_path / "out", target="jetson-orin", input_size=96))


@dataclasses.dataclass
class One:
    """A stand-in for one size in a ladder: what is fast enough at a time, and what that harms."""

    words: str
    whole_ms: float
    quickest_ms: float
    harm_at: Any

    timed: bool = True
    loop = SimpleNamespace(searcher=None)

    @property
    def offered(self) -> None:
        self.timed = True

    def settle(self, whole_ms: float, _progress: Any) -> Any:
        return Settled(min(whole_ms, self.whole_ms)) if whole_ms >= self.quickest_ms else None

    def sketch(self, whole_ms: float) -> Any:
        settled = self.settle(whole_ms, None)
        return None if settled is None else settled.choice

    def harm(self, choice: float) -> float:
        return float(self.harm_at(choice))

    @property
    def size_harm(self) -> float:
        return self.harm(self.whole_ms)


@dataclasses.dataclass
class Settled:
    choice: float


def rung_of(_loop: Any, _offered: Any, settled: Settled, at: int = 0) -> Rung:
    return Rung(Allocation(settled.choice, {}), None, at)


def test_at_every_time_the_size_that_harms_least_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cutting the large one soon harms more than the smaller picture does, and only that one is fast enough."""
    monkeypatch.setattr(module, "top", lambda _offered: Settled(10.0))
    monkeypatch.setattr(module, "rung_of", rung_of)
    monkeypatch.setattr(module, "allocation_of", lambda _searcher, _dense: Allocation(1.0, {}))
    large: Any = One("large", 10.0, 4.0, lambda ms: 10.0 - ms)
    little: Any = One("little", 5.0, 2.0, lambda ms: 3.0 + 2 * (5.0 - ms))
    ladder = size_ladder([large, little], SilentProgress())
    made = [ladder.rung(index) for index in range(len(ladder.harms))]
    rungs = [(rung.at, rung.allocation.ratio) for rung in made]
    assert rungs[0] == (0, 10.0)
    assert rungs[-1] == (1, 2.0), "only the smaller picture is as fast"
    assert ladder.harms[0] == 0
    assert [*ladder.harms] == sorted(ladder.harms)
    assert ladder.harms[1] == pytest.approx(large.harm(rungs[1][1]))
    assert ladder.harms[-1] == pytest.approx(little.harm(2.0))
    ms = [choice for _, choice in rungs]
    assert ms == sorted(ms, reverse=True)
    assert {at for at, _ in rungs} == {0, 1}
    for at, choice in rungs[1:]:
        others = [one.harm(min(choice, one.whole_ms)) for one in (large, little) if choice >= one.quickest_ms]
        assert (large, little)[at].harm(choice) == min(others)


def test_a_rung_tells_how_much_longer_other_sizes_take_for_as_little_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "top", lambda _offered: Settled(10.0))
    monkeypatch.setattr(module, "rung_of", rung_of)
    monkeypatch.setattr(module, "allocation_of", lambda _searcher, _dense: Allocation(1.0, {}))
    power: Any = One("large", 10.0, 1.0, lambda ms: (8.0 / ms) ** 2)  # a straight line in logarithms, as between marks
    little: Any = One("little", 5.0, 0.5, lambda ms: (4.0 / ms) ** 2)
    poor: Any = One("poor", 5.0, 1.0, lambda ms: 50.0 + 1 / ms)
    ladder = size_ladder([power, little, poor], SilentProgress())
    for index in (12, 16, 20):
        rung = ladder.rung(index)
        assert rung.at == 1
        assert rung.behind == {"large": pytest.approx(2.0, rel=0.02), "poor": NEVER}
    assert ladder.rung(28).behind["large"] == pytest.approx(1.0 / ladder.rung(28).allocation.ratio), "its least time"
    assert ladder.rung(0).behind == {}


def test_a_time_that_no_size_reaches_gives_the_fastest_of_all() -> None:
    large: Any = One("large", 10.0, 4.0, lambda _: 0.0)
    little: Any = One("little", 5.0, 2.0, lambda _: 9.0)
    assert Competing([large, little], SilentProgress()).least_harm(0.1) == (1, Settled(2.0))


def test_a_size_is_profiled_when_a_step_is_asked_for_that_it_might_win(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the large one a mild cut harms least; it is never as good where much has to go, and the poor one nowhere."""
    monkeypatch.setattr(module, "top", lambda _offered: Settled(10.0))
    monkeypatch.setattr(module, "rung_of", rung_of)
    monkeypatch.setattr(module, "allocation_of", lambda _searcher, _dense: Allocation(1.0, {}))
    large: Any = One("large", 10.0, 1.0, lambda ms: 0.01 * (10.0 / ms) ** 4, timed=False)
    little: Any = One("little", 5.0, 0.5, lambda ms: 0.1 * (5.0 / ms) ** 2)
    poor: Any = One("poor", 7.0, 1.0, lambda ms: 50.0 + 1 / ms, timed=False)
    ladder = size_ladder([large, little, poor], SilentProgress())
    assert ladder.rung(len(ladder.harms) - 6).at == 1
    assert not large.timed
    assert ladder.rung(3).at == 0
    assert large.timed
    assert not poor.timed
    assert ladder.rung(10).behind["poor"] == NEVER
    assert {at: one.rung.at for at, one in ladder.uncut.items()} == {1: 1, 2: 2}
    assert {tuple(one.rung.unprofiled) for one in ladder.uncut.values()} == {("large", "poor")}
    for one, whole_ms in zip(ladder.uncut.values(), (5.0, 7.0), strict=True):
        ms = np.geomspace(10.0, 0.5, len(ladder.harms))
        assert ms[one.step] >= whole_ms > ms[one.step + 1]
    assert ladder.rung(0).allocation.ratio == 10.0


def test_nothing_is_cut_from_a_size_that_was_refused_nor_is_it_profiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would harm least at nearly every time."""
    monkeypatch.setattr(module, "top", lambda _offered: Settled(10.0))
    monkeypatch.setattr(module, "rung_of", rung_of)
    monkeypatch.setattr(module, "allocation_of", lambda _searcher, _dense: Allocation(1.0, {}))
    large: Any = One("large", 10.0, 1.0, lambda ms: 10.0 / ms)
    middle: Any = One("middle", 7.0, 2.0, lambda ms: 9.0 / ms)
    little: Any = One("little", 5.0, 0.5, lambda ms: 1.0 / ms, timed=False)
    ladder = size_ladder([large, middle, little], SilentProgress(), [2])
    rungs = [ladder.rung(index) for index in range(len(ladder.harms))]
    assert {rung.at for rung in rungs} == {0, 1}
    assert rungs[-1].allocation.ratio == 1.0, "the fastest of those that are left, which the little one was not"
    assert not little.timed
    assert {rung.behind["little"] for rung in rungs[1:]} == {NEVER}
    assert [*ladder.uncut] == [1]
    assert all("little" in rung.unprofiled for rung in rungs[1:])


def test_levels_of_another_size_stand_for_those_of_one_that_was_not_profiled() -> None:
    choices = {0.5: "half", 0.25: "quarter"}
    like: Any = SimpleNamespace(whole_ms=1.0, quickest_ms=0.1, sketch=lambda ms: choices[round(ms, 6)])
    one: Any = SizeLoop("192x192", None, lambda: None, 2.0, 0.1, like)  # type: ignore[arg-type, return-value]
    assert one.sketch(1.0) == "half"
    assert one.sketch(0.5) == "quarter"
    assert one.sketch(2.5).widths == {}, "the dense model"
    assert one.quickest_ms == pytest.approx(0.2)
    assert not one.timed
    assert one.offered is None
    assert one.timed


def sized(budget: Budget, gain: float = 2.0, macs: int = 60) -> Sized:
    """A size whose dense model takes half of the time and two thirds of the arithmetic of the own size's."""

    class Known(Sized):
        gain = property(lambda self: 1.0 if self.own is None else gain)  # type: ignore[assignment]
        macs = property(lambda self: 90 if self.own is None else macs)  # type: ignore[assignment]

    ground: Any = SimpleNamespace(plan=SimpleNamespace(budget=budget), input_size=(3, 96, 96))
    dense: Any = None
    return Known(ground, dense, Known(ground, dense))


def test_widths_are_asked_for_what_is_left_of_a_budget() -> None:
    timed = sized(Budget(3.0, None))
    assert timed.budget.speedup == 1.5
    assert timed.whole(timed.budget.speedup) == 3.0
    assert timed.whole(None) is None
    assert sized(Budget(None, 0.5)).budget.macs == 0.75
    assert sized(Budget(None, 0.9)).budget.macs == 1.0
    assert sized(Budget(None, 1.0), macs=180).budget.macs == 1.0, "nothing is to be cut, however large the picture"
    assert sized(Budget(None, None, latency_ms=4.0)).budget.latency_ms == 4.0


def test_a_budget_that_widths_cannot_reach_is_told_from_the_own_size(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(_: Any) -> None:
        raise BudgetInfeasibleError("3 times cannot be reached", "Ask for --speedup 2")

    monkeypatch.setattr(Sized, "width_search", lambda _: SimpleNamespace(find=lambda: find(0)))
    with pytest.raises(BudgetInfeasibleError) as caught:
        sized(Budget(6.0, None)).find_widths()
    assert "pixels are 2 times as fast, and of widths there: 3 times cannot be reached" in str(caught.value)
    assert "Counted from the dense model for 96x96 pixels: ask for --speedup 2" in str(caught.value)
    own = sized(Budget(6.0, None)).own
    assert own is not None
    with pytest.raises(BudgetInfeasibleError, match=r"^3 times cannot be reached"):
        own.find_widths()


def test_what_one_size_gives_up_all_do() -> None:
    """Else models of two precisions would be compared, and a precision's gain told as that of widths."""

    def ground(name: str, given_up: str | None, resized: tuple[Any, ...] = ()) -> Any:
        floats = SimpleNamespace(shipped=SimpleNamespace(precision="fp16"), name=f"{name} in floats", plain="fp32")
        pair = floats if given_up else SimpleNamespace(shipped=SimpleNamespace(precision="int8"), plain=floats)
        delivery = SimpleNamespace(target="fp32" if given_up else "int8", given_up=given_up)
        plan = SimpleNamespace(resized=resized, target=SimpleNamespace(precision="int8"))
        return SimpleNamespace(dense=pair, delivery=delivery, plan=plan)

    small = ground("small", "slower there")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sizes, "_other", lambda self, *_: Sized(small, small.dense, self.own))
        found = Sizes(ground("own", None, (0,)))
    dense: list[Any] = [one.dense for one in found.every]
    assert [pair.name for pair in dense] == ["own in floats", "small in floats"], (
        "what was given up is not given up twice"
    )
    assert {one.ground.delivery.target for one in found.every} == {"fp32"}
    assert {one.ground.delivery.given_up for one in found.every} == {"slower there"}


def test_a_second_look_is_at_another_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same widths at another size are another model; at the same size they are not."""
    rungs = [Rung(Allocation(1.0, {"a": 8 if index < 2 else 7}), None, index // 4) for index in range(5)]
    unused: Any = None
    lost = {"points": 0.0, "low": 0.0, "high": 0.0, "judging_images": 9, "kept_percent": 0.0, "pictures": None}
    monkeypatch.setattr(DropSearch, "_tried", lambda *_: SimpleNamespace(told=lost, more=Answer(0.0, 5.0)))
    monkeypatch.setattr(DropSearch, "_dense", SimpleNamespace(room=1.0))
    place = Place(unused, [unused], {"a": 8}, unused)
    search = DropSearch(lambda _: Ladder([*range(5)], rungs.__getitem__), (place, place), unused, 1.0, unused)
    assert [*search.holding()] == [4, 2]
    assert list(search.trials) == [2, 4, 1], "all of them held"


@pytest.mark.slow
def test_a_speed_up_is_measured_over_the_own_size(pi_site: Path, tmp_path: Path) -> None:
    report = api.export(options(pi_site, tmp_path / "out", target="host-cpu", speedup=1.3, input_size=96)).report
    assert report.speedup_asked == 1.3
    assert report.speedup is not None
    assert report.speedup >= 1.3
    assert (report.size.dense.pictures, report.size.compressed.pictures) == (OWN, SMALLER)


@pytest.mark.slow
def test_sizes_compete_with_widths_by_measured_time_and_loss(pi_site: Path, tmp_path: Path) -> None:
    asked = options(
        pi_site, tmp_path / "out", target="host-cpu", max_drop=60.0, allocation="latency", input_size="auto"
    )
    run = api.export(asked)
    found = run.report.max_drop
    assert found is not None
    assert {trial.pictures for trial in found.trials} <= {OWN, "128x128", SMALLER}
    assert run.report.size.dense.pictures == OWN
    assert run.report.speedup is not None
    assert run.report.speedup > 1
    assert api.export(asked).already_done


def test_what_widths_change_comes_to_what_a_size_does() -> None:
    """They are compared with the dense model for that size: it alone may be as far away as it is."""
    loop: Any = SimpleNamespace(harm=lambda choice: {"cut": 0.5, "dense": 0.0}[choice.name])
    make: Any = pytest.fail  # nothing is profiled for it
    one = SizeLoop("160x160", loop, make, 1.0, 0.25)
    assert one.harm(size_loop.DENSE) == 0.25
    for name, harm in (("cut", 0.75), ("dense", 0.25)):
        choice: Any = SimpleNamespace(levels={"unit": None}, name=name)
        assert one.harm(choice) == harm


def test_how_far_answers_lie_does_not_hang_on_how_sure_they_are() -> None:
    reference = np.array([[4.0, 0.0], [0.0, 4.0]], np.float32)
    assert size_loop.least_divergence(reference, 2 * reference) == pytest.approx(0.0, abs=1e-9), "only surer"
    assert size_loop.least_divergence(reference, reference[:, ::-1].copy()) > 0.5
