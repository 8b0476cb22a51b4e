"""The next device from the run of another: its small model is taken where hardly anything of its loss is faster."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_latency_search import bench, cache, exported, task  # noqa: F401 (fixtures)
from test_pipeline import FakeBench

from taco.allocate import Allocation
from taco.allocation.crossing import Answer
from taco.allocation.within import holding_steps
from taco.errors import InputError
from taco.latency.levels import Drop, Level
from taco.latency.limits import Space
from taco.progress import PlainProgress
from taco.report.loop import loop_sections
from taco.report.max_drop import max_drop_sections
from taco.report.page import Note
from taco.rundir import RunDir
from taco.search import earlier, elsewhere, latency_ladder
from taco.search.earlier import Earlier, Notes, Weighed, fastest_of
from taco.search.elsewhere import carries_over, look_elsewhere
from taco.search.ladder import Rung
from taco.search.latency_ladder import Settled
from taco.steps.sizes import Sizes

DENSE = {"a": 8, "b": 8}
WITHIN = 5.0


def loss(width: int) -> float:
    return float((8 - width) ** 2)


def device(a: float, b: float, drop: Drop | None = None) -> tuple[Any, Any]:
    """A device on which a channel of `a` and one of `b` take so many milliseconds, and everything else two."""

    def cell(each: float, width: int) -> Any:
        if width < 1:
            raise InputError("nothing was timed there")
        return SimpleNamespace(p50_ms=each * width, source="measured")

    each = {"a": a, "b": b}
    options = {
        name: [Level(width, loss(width), each[name] * width, "measured") for width in range(8, 0, -1)] for name in DENSE
    }
    units = {name: SimpleNamespace(at=lambda width, ms=ms: cell(ms, width)) for name, ms in each.items()}
    whole_ms = 8 * (a + b) + 2
    table = SimpleNamespace(units=units, dense_ms=whole_ms, wholes=(), stopped_early=True)
    space = Space(options, {} if drop is None else {"block": drop})
    probed = SimpleNamespace(dropped={"block": 0.5})
    offered = SimpleNamespace(table=table, space=space, lost=lambda _name, width: loss(width), probed=probed)
    solutions = {
        name: SimpleNamespace(unit=SimpleNamespace(name=name, kind="channel", width=width, layers=()))
        for name, width in DENSE.items()
    }
    loop = SimpleNamespace(searcher=SimpleNamespace(solutions=solutions), dense_ms=whole_ms)

    def begun(_progress: Any, enough: Any) -> Any:
        enough(table)
        return table

    return SimpleNamespace(**vars(loop), offered=lambda *_: offered, table=begun), offered


def test_widths_that_are_best_here_too_are_near_and_others_are_not() -> None:
    same, other = device(1.0, 1.0), device(10.0, 1.0)
    there = [Earlier("nuc", {"a": 4, "b": 4})]
    here = fastest_of(*same, there, WITHIN)
    assert here is not None
    assert (here.ms, here.best_ms) == (pytest.approx(10.0), pytest.approx(10.0))
    assert here.near
    elsewhere = fastest_of(*other, there, WITHIN)
    assert elsewhere is not None
    assert elsewhere.ms == pytest.approx(46.0)
    assert elsewhere.best_ms == pytest.approx(38.0), "of the same loss: 3 channels of a and 6 of b"
    assert not elsewhere.near
    with_less = fastest_of(*other, there, 22.0)
    assert with_less is not None
    assert with_less.near, "46 are 21 % more than 38"


def test_the_fastest_of_several_is_weighed_and_what_this_device_cannot_have_is_not() -> None:
    loop, offered = device(1.0, 1.0)
    two = [Earlier("nuc", {"a": 4, "b": 4}), Earlier("pi", {"a": 3, "b": 4})]
    found = fastest_of(loop, offered, two, WITHIN)
    assert found is not None
    assert found.earlier.target == "pi"
    unheld = [Earlier("nuc", {"a": 4, "b": 4, "c": 3}), Earlier("pi", {"a": 4}), Earlier("trap", {"a": 0, "b": 4})]
    assert fastest_of(loop, offered, unheld, WITHIN) is None
    assert fastest_of(loop, offered, [], WITHIN) is None


def test_a_block_that_was_left_out_there_is_left_out_here() -> None:
    drop = Drop(("a",), 9.0, 8.0, "measured", 0.5)
    loop, offered = device(1.0, 1.0, drop)
    block = SimpleNamespace(name="block", kind="block", width=1, layers=())
    loop.searcher.solutions["block"] = SimpleNamespace(unit=block)
    found = earlier.choice_of({"a": 0, "b": 5, "block": 0}, offered.table, offered.space, lambda _, width: loss(width))
    assert found is not None
    assert found.widths == {"a": 0, "b": 5, "block": 0}
    assert found.table_ms == pytest.approx(5.5)
    assert found.loss == pytest.approx(18.0)
    assert latency_ladder.as_given(offered, found) == Settled(
        found, None, {"offered": {"block": 0.5}, "taken": ["block"]}
    )


@pytest.mark.parametrize("each", [(1.0, 1.0), (10.0, 1.0)], ids=["near", "not near"])
def test_what_is_near_is_a_step_of_its_own_and_the_ladder_begins_where_as_much_is_lost(
    each: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    def rung_of(_loop: Any, _offered: Any, settled: Settled, at: int = 0) -> Rung:
        return Rung(Allocation(1.0, settled.choice.widths), None, at)

    monkeypatch.setattr(latency_ladder, "rung_of", rung_of)
    monkeypatch.setattr(elsewhere, "rung_of", rung_of)
    loop, _ = device(*each)
    loop.how, loop.harm = SimpleNamespace(search="dp"), None
    usual = latency_ladder.latency_ladder(loop, PlainProgress())
    assert usual.first is None
    given: Mapping[str, int] = {"a": 4, "b": 4}
    found = look_elsewhere(loop, PlainProgress(), [Earlier("nuc", given)], WITHIN)
    assert found is not None
    near, taken = each == (1.0, 1.0), found.taken
    assert (taken is not None) is near
    if taken is not None:
        assert taken.rung == Rung(Allocation(1.0, given), None, 0)
        assert taken.told == {
            "target": "nuc", "ms": pytest.approx(10.0), "best_ms": pytest.approx(10.0), "one_pass": True, "sizes": []
        }  # fmt: skip
    ladder = usual.begun_at(found.weighed.choice.loss)
    assert ladder.harms == usual.harms
    assert ladder.first is not None
    assert ladder.harms[ladder.first] <= 32.0 < [*ladder.harms, 1e9][ladder.first + 1]
    assert usual.begun_at(0.0).first == 1, "the dense model is no step to ask about"
    assert usual.begun_at(1e9).first == len(usual.harms) - 1
    assert look_elsewhere(loop, PlainProgress(), [], WITHIN) is None
    assert look_elsewhere(loop, PlainProgress(), [Earlier("nuc", {"c": 1})], WITHIN) is None


HERE = {"224x224": 1.0, "192x192": 1.3, "160x160": 1.9}


def there(changes: Mapping[str, float], at: str = "160x160", behind: float = 1.0) -> Earlier:
    """What another device's search took, which gained the same but for `changes`; the other sizes took longer."""
    return Earlier("nuc", {"a": 7}, HERE | changes, {words: behind for words in HERE if words != at})


@pytest.mark.parametrize(
    ("at", "changes", "behind", "carried"),
    [
        ("160x160", {}, 1.0, True),
        ("160x160", {"160x160": 1.99}, 1.0, True),  # it gained 4.7 % more there
        ("160x160", {"160x160": 2.01}, 1.0, False),
        ("160x160", {"160x160": 2.01}, 1.01, True),  # and others took that much longer
        ("160x160", {"160x160": 2.5}, 1.2, False),
        ("160x160", {"160x160": 2.5}, 1.3, True),
        ("160x160", {"160x160": 1.2}, 1.0, True),  # it gains more here: all the better
        ("160x160", {"192x192": 1.1}, 1.0, False),  # here the one between gains more
        ("192x192", {}, 1.0, True),
        ("224x224", {"160x160": 1.5}, 1.0, False),  # there a smaller picture paid less
        ("224x224", {"160x160": 1.5}, 1.25, True),  # but it took longer for the same loss
    ],
)
def test_a_size_carries_over_where_no_other_gains_so_much_more(
    at: str, changes: dict[str, float], behind: float, carried: bool
) -> None:
    assert carries_over(at, HERE, there(changes, at, behind), WITHIN) is carried
    assert carries_over(at, HERE, there(changes, at, behind), 1000.0), "whatever may be left"


def test_what_a_size_is_behind_moves_with_what_it_gains() -> None:
    found = elsewhere.behind("160x160", HERE, there({"160x160": 2.375}, behind=1.5))
    assert found == pytest.approx({"224x224": 1.2, "192x192": 1.2})


def test_a_size_that_was_weighed_against_other_ones_does_not_carry_over() -> None:
    full = there({})
    for gains, behind in (
        ({"224x224": 1.0, "160x160": 1.9}, full.behind),
        (full.gains, {"224x224": 2.0}),
        (full.gains, {}),
        ({}, {}),
    ):
        assert not carries_over("160x160", HERE, Earlier("nuc", {"a": 7}, gains, behind), WITHIN)
    one = Earlier("nuc", {"a": 7}, {"224x224": 1.0}, {})
    assert not carries_over("160x160", {"224x224": 1.0}, one, WITHIN), "nothing can be timed there"


def competing(monkeypatch: pytest.MonkeyPatch, asked: str | int = "auto") -> Any:
    """Three sizes of pictures, the smallest last, without pictures: what their notes lead to."""
    options = SimpleNamespace(
        plan=SimpleNamespace(options=SimpleNamespace(input_size=asked, take_over=WITHIN)), progress=PlainProgress()
    )
    every = [SimpleNamespace(words=words, gain=gain, ground=options) for words, gain in HERE.items()]
    sizes = Sizes.__new__(Sizes)
    sizes.own, sizes.others = every[0], every[1:]  # type: ignore[assignment, list-item]
    monkeypatch.setattr(Sizes, "loop", lambda _self, one: one.words)
    return sizes


def weighed_as(near: Mapping[str, bool], looked: list[Any]) -> Any:
    @dataclasses.dataclass
    class Found:
        weighed: Any
        at: int = 0
        gains: Any = None
        behind: Any = None

    def look(loop: Any, _progress: Any, notes: Any, within: float) -> Any:
        assert within == WITHIN
        looked.append((loop, [note.target for note in notes]))
        return Found(SimpleNamespace(near=near[loop], earlier=notes[0]))

    return look


def test_only_notes_whose_size_carries_over_are_looked_at_the_smallest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, looked = competing(monkeypatch), list[Any]()
    near = {"160x160": False, "192x192": True, "224x224": True}
    monkeypatch.setattr("taco.steps.sizes.look_elsewhere", weighed_as(near, looked))
    better, other = there({"160x160": 1.85}, "192x192", 1.5), there({"160x160": 2.5})
    notes = [
        [there({}, "224x224")],
        [there({}, "192x192"), Earlier("trap", {"a": 8}), dataclasses.replace(better, target="pi")],
        [there({}), dataclasses.replace(other, target="pi")],
    ]
    found = sizes.elsewhere(notes)
    assert looked == [("160x160", ["nuc"]), ("192x192", ["nuc", "pi"])], "of the own size nothing is asked any more"
    assert found is not None
    assert (found.at, found.gains, found.weighed.near) == (1, HERE, True)
    assert found.behind == {"224x224": 1.0, "160x160": 1.0}, "of what was taken"
    assert sizes.elsewhere([[], [], [other]]) is None
    assert sizes.elsewhere([[], [], notes[2]]).at == 2, "not near, but where to begin"


def test_where_one_size_is_asked_for_its_notes_count_whatever_other_sizes_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, told = competing(monkeypatch, 160), list[Any]()

    def look(notes: Any) -> None:
        told.append(notes)

    sizes.others[-1].width_search = lambda: SimpleNamespace(elsewhere=look)
    assert sizes.elsewhere([["own"], ["between"], ["asked"]]) is None
    assert told == [["asked"]]
    assert sizes.gains == {}


def test_a_search_that_knows_where_to_begin_asks_there_and_goes_on_from_what_was_lost() -> None:
    def asked(turn: int, first: int | None, error: float = 0.2) -> tuple[list[int], int]:
        told: list[int] = []

        def lose(index: int) -> Answer:
            told.append(index)
            return Answer(index / turn, error)

        return told, next(holding_steps([float(k) for k in range(48)], lose, 1.0, 3, first))

    told, found = asked(30, 29, 0.05)
    assert told[0] == 29
    assert found == 29, "it holds, and hardly anything can be gained"
    assert len(told) <= 2
    told, found = asked(30, 40)
    assert told[0] == 40
    assert 25 <= found <= 30
    told, found = asked(30, 10)
    assert told[0] == 10
    assert 25 <= found <= 30
    assert asked(30, 99)[0][0] == 47


@pytest.mark.slow
def test_the_next_device_takes_the_small_model_of_the_first_or_searches_from_there(
    task: Path,  # noqa: F811
    tmp_path: Path,
    bench: FakeBench,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: dict[str, Any] = {"max_drop": 60.0, "allocation": "latency", "recover_minutes": 0.05}
    first = exported(task, tmp_path / "first", **asked)
    assert first.max_drop is not None
    assert first.max_drop.taken_over is None
    assert first.width_ratio < 1
    asked |= {"from_run": tmp_path / "first", "target": "host-cpu-openvino"}
    second = exported(task, tmp_path / "second", **asked)
    assert second.max_drop is not None
    taken = second.max_drop.taken_over
    assert taken is not None
    assert taken.target == "host-cpu"
    assert 0 < taken.best_ms <= taken.ms <= 1.05 * taken.best_ms
    assert [layer.kept for layer in second.layers] == [layer.kept for layer in first.layers]
    assert len(second.max_drop.trials) == second.max_drop.full_recoveries == 1
    (trial,) = second.max_drop.trials
    assert trial.expected_nats is None, "it was not chosen by what it was expected to lose"
    assert trial in [each.model_copy(update={"expected_nats": None}) for each in first.max_drop.trials]

    def stored(name: str, steps: str) -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in (tmp_path / name / ".taco" / "steps").glob(steps)}

    for steps in ("trial-drop-*", "recovered-*.safetensors"):
        assert stored("second", steps) == stored("first", steps), "nothing was made again"
    (section,) = max_drop_sections(second)
    assert any(isinstance(b, Note) and "a run for host-cpu took" in b.text for b in section.blocks)
    assert "than those that a run for host-cpu took, so these were taken" in loop_sections(second)[0].meaning

    monkeypatch.setattr(Weighed, "near", property(lambda _: False))
    own = exported(task, tmp_path / "own", **asked)
    assert own.max_drop is not None
    assert own.max_drop.taken_over is None
    assert len(own.max_drop.trials) <= len(first.max_drop.trials), "it knew where to begin"


@pytest.mark.slow
def test_where_sizes_of_pictures_compete_the_next_device_takes_the_size_too(
    task: Path,  # noqa: F811
    tmp_path: Path,
    bench: FakeBench,  # noqa: F811
) -> None:
    """All sizes take the same time on this made-up device."""
    asked: dict[str, Any] = {
        "max_drop": 60.0, "allocation": "latency", "recover_minutes": 0.05, "input_size": "auto"
    }  # fmt: skip
    first = exported(task, tmp_path / "first", **asked)
    asked |= {"from_run": tmp_path / "first", "target": "host-cpu-openvino"}
    second = exported(task, tmp_path / "second", **asked)
    assert first.max_drop is not None
    assert second.max_drop is not None
    taken = second.max_drop.taken_over
    assert taken is not None
    assert {gain.pictures for gain in taken.sizes} == {"160x160", "128x128"}
    assert all(gain.here == gain.there == 1.0 for gain in taken.sizes)
    assert sorted(gain.behind is None for gain in taken.sizes) == [False, True]
    assert all(gain.behind is None or gain.behind >= 1 for gain in taken.sizes)
    assert [layer.kept for layer in second.layers] == [layer.kept for layer in first.layers]
    assert second.size.compressed.pictures == first.size.compressed.pictures
    assert len(second.max_drop.trials) == second.max_drop.full_recoveries == 1
    tables = [*(tmp_path / "second" / ".taco" / "measured").glob("*latency-table-*")]
    own = [*(tmp_path / "first" / ".taco" / "measured").glob("*latency-table-*")]
    assert len(own) == 1, "the other size is never better on this device, and was not profiled"
    assert len(tables) == len(own) + 1, "only the size that is taken was profiled"
    (tmp_path / "second" / ".taco" / "finished.json").unlink()
    (tmp_path / "second" / "manifest.json").unlink()
    assert exported(task, tmp_path / "second", **asked).max_drop == second.max_drop, "its own note changes nothing"


def test_only_searches_whose_candidates_lose_the_same_count(tmp_path: Path) -> None:
    asked: list[dict[str, Any]] = [{"seed": 0, "held": [1, 2]}, {"seed": 0, "held": [3]}]
    first, second = RunDir(tmp_path / "first"), RunDir(tmp_path / "second")
    sizes = {"64x64": 1.0, "48x48": 1.5}
    taken = [Earlier("nuc", {"a": 4, "b": 8}, sizes, {"64x64": 1.25}), Earlier("pi", {"a": 2, "b": 8})]
    for one in taken:
        Notes.of(first, 1.0, asked, ("latency", "dp", 100)).add(one)
    first.remember_asked({"options": {}})
    second.adopt(first.path)
    assert sorted(Notes.of(second, 1.0, asked, ("latency", "dp", 100)).known(), key=lambda one: one.target) == taken
    for others in (
        Notes.of(second, 2.0, asked, ("latency", "dp", 100)),
        Notes.of(second, 1.0, [{"seed": 1, "held": [1, 2]}, {"seed": 1, "held": [3]}], ("latency", "dp", 100)),
        Notes.of(second, 1.0, asked, ("latency", "spdy", 100)),
    ):
        assert others.known() == []
    (file,) = [file for file in (tmp_path / "second" / ".taco" / "measured").iterdir() if b"nuc" in file.read_bytes()]
    good = file.read_text()
    assert Notes.of(second, 1.0, asked, ("latency", "dp", 100)).known(but="nuc") == taken[1:], "its own says nothing"
    changed = [('"a": 4', '"a": "four"'), ('"widths"', '"breadths"'), ("1.5", "0.0"), ("1.5", "NaN"), ("1.5", '"1.5"')]
    changed.append(("1.25", "-1.25"))
    for damaged in ("{", "[]", "null", *(good.replace(*change) for change in changed)):
        assert damaged != good
        file.write_text(damaged)
        assert Notes.of(second, 1.0, asked, ("latency", "dp", 100)).known() == taken[1:]
