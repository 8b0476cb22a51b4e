"""The search of `--max-drop` itself, with divisions of made-up shots: whom it asks, what it compares, when it ends."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from taco.allocate import Allocation
from taco.metrics.accuracy import Drop
from taco.rundir import RunDir
from taco.search.drop_search import TAKEN, DropSearch, Place
from taco.search.ladder import Ladder, Rung, Taken, Uncut


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
        lambda _: Ladder([0, 1, 2, 3, 4], lambda _: rung), (Place(side, [side], {}, unused),), unused, 1.0, unused
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
    search = DropSearch(lambda _: Ladder([0, 1], rungs.__getitem__), (place,), unused, 1.0, RunDir(tmp_path))
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
    search = DropSearch(lambda _: Ladder([*range(8)], rung), (place,), unused, 1.0, RunDir(tmp_path))
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
    assert next(DropSearch(lambda _: ladder, (place,), unused, 1.0, RunDir(tmp_path)).holding()) in (2, 3)
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
    uncut = {1: Uncut(Rung(Allocation(1.0, {"u": 32}), None, 1), 8)}
    ladder = Ladder([*range(32)], lambda i: Rung(Allocation(1.0, {"u": 32 - i}), None, 0), uncut=uncut)
    refused = list[Any]()

    def asked_for(sizes: Any) -> Ladder:
        refused.extend(sizes)
        return ladder

    search = DropSearch(asked_for, places, unused, 30.0, RunDir(tmp_path), lambda: [uncut[1].rung])  # two of eight
    found = [*search.holding()]
    assert refused == ([1] if wrong else []), "nothing is cut from a model that loses too much as it is"
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
        assert search.rung(-2) is uncut[1].rung
        assert search.told(-2, Drop(0.0, 0.0, 0.0, 8, 0.0), 1)["taken_over"] is None


@pytest.mark.parametrize("wrong", [0, 8], ids=["it holds", "it loses too much"])
def test_what_another_run_took_comes_first_and_the_ladder_is_made_after_it_was_refused(
    wrong: int, tmp_path: Path
) -> None:
    told: list[str] = []
    sides: Any = [Ladderlike("a", dict.fromkeys(range(4, 9), 0) | {1: 8, 2: 8, 3: wrong}, told)]
    unused: Any = None

    def ladder(_: Any) -> Ladder:
        told.append("ladder")
        return Ladder([*range(8)], lambda i: Rung(Allocation(1.0, {"u": 8 - i}), None, 0, {"64x64": 1.5}, ["64x64"]), 5)

    taken = Taken(Rung(Allocation(1.0, {"u": 3}), None), {"target": "nuc"})
    place = Place(sides[0], sides, {"u": 8}, unused)
    search = DropSearch(ladder, (place,), unused, 1.0, RunDir(tmp_path), make_taken=lambda: taken)
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


class Shots:
    """A hundred shots; which of them a model names wrong hangs on its picture size and on the channels that stay."""

    labels = np.arange(100) % 2
    share, depends_on = 1.0, {"name": "all"}
    looks = SimpleNamespace(each=1)

    def __init__(self, wrong: dict[object, set[int]]) -> None:
        self.wrong, self.made = wrong, list[int]()

    def make_cutter(self) -> Any:
        def cut(allocation: Any, _share: float, readers: Any) -> Any:
            width = allocation.widths["u"]
            self.made.append(width)
            return SimpleNamespace(module=width, head=None, refit=None, recovered=None)

        return SimpleNamespace(cut=cut)

    def answer(self, module: Any, _head: Any = None, _logits: Any = None) -> Any:
        names = np.eye(2, dtype=np.float32)[self.labels]
        wrong = sorted(self.wrong[module])
        names[wrong] = 1 - names[wrong]
        return names


def found_from(
    dense: set[int], small: set[int], beyond: dict[int, set[int]], folder: Path, rate: float = 100.0
) -> tuple[int, DropSearch]:
    """Search with two points to lose; a rate of 100 is a point for ten steps.

    Args:
        dense: Shots that the dense model names wrong.
        small: That for small pictures.
        beyond: Channels -> shots that are wrong beside those.
        folder: For what is stored.
        rate: The guess where to begin.
    """
    whole, uncut = "the dense model", "that for small pictures"
    wrong = {whole: dense, uncut: small} | {width: small | beyond.get(width, set()) for width in range(1, 33)}
    shots: Any = Shots(wrong)
    modules: list[Any] = [whole, uncut]
    places = [
        Place(shots, [shots], {"u": 32}, module, words) for module, words in zip(modules, ("", "64x64"), strict=True)
    ]
    rungs = [Rung(Allocation(1.0, {"u": 32 - index}), None, 1) for index in range(32)]
    begun = {1: Uncut(Rung(Allocation(1.0, {"u": 32}), None, 1), 4)}
    ladder = Ladder([0.001 * index for index in range(32)], rungs.__getitem__, uncut=begun, rate=rate)
    search = DropSearch(lambda _: ladder, places, modules[0], 2.0, RunDir(folder), lambda: [begun[1].rung])
    return next(search.holding()), search


def test_what_cuts_lose_is_compared_with_the_model_for_as_small_pictures(tmp_path: Path) -> None:
    """That and the dense one differ on so many shots that what is lost from the dense one says next to nothing."""
    beyond = {width: {20, 21, 22} for width in range(1, 5)}
    step, search = found_from({*range(6)}, {*range(6, 12)}, beyond, tmp_path, 800.0)
    assert search.trials[-2]["points"] == 0.0
    assert search.trials[-2]["high"] > 6, "an interval of more than six points either way"
    assert step >= 20, "no shot told any of them from the uncut one, down to 5 channels"


def test_what_smaller_pictures_seem_to_gain_does_not_pay_for_cuts(tmp_path: Path) -> None:
    """The dense model for them names two more right, by chance; two points may be lost by cuts, not four."""
    beyond = {width: {20, 21, 22} for width in range(1, 17)} | {width: {20} for width in range(17, 25)}
    step, search = found_from({0, 1, 2}, {0}, beyond, tmp_path)
    assert search.trials[-2]["points"] == -2.0
    assert 32 - step >= 17, "one point lost beyond it, not three, though that is one point lost from the dense model"
    refused = [trial for index, trial in search.trials.items() if index > step]
    assert refused
    assert {trial["points"] for trial in refused} == {1.0}, "the report tells what is lost from the dense model"
    assert {(trial["beyond"], trial["room"]) for trial in refused} == {(3.0, 2.0)}, "and what decides"
    told = {index: trial.get("expected_nats") for index, trial in search.trials.items()}
    assert told.pop(-2) is None, "nothing is cut from it"
    assert told == {index: pytest.approx(0.001 * (index - 4)) for index in told}, "beyond that of the uncut one"
