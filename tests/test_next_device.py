"""The next device from the run of another: its small model is taken where hardly anything of its loss is faster."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_latency_search import bench, cache, exported, task  # noqa: F401 (fixtures)
from test_pipeline import FakeBench

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
from taco.search import earlier, latency_ladder
from taco.search.earlier import Earlier, Notes, fastest_of
from taco.search.latency_ladder import Settled

DENSE = {"a": 8, "b": 8}


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
    here = fastest_of(*same, there)
    assert here is not None
    assert (here.ms, here.best_ms) == (pytest.approx(10.0), pytest.approx(10.0))
    assert here.near
    elsewhere = fastest_of(*other, there)
    assert elsewhere is not None
    assert elsewhere.ms == pytest.approx(46.0)
    assert elsewhere.best_ms == pytest.approx(38.0), "of the same loss: 3 channels of a and 6 of b"
    assert not elsewhere.near


def test_the_fastest_of_several_is_weighed_and_what_this_device_cannot_have_is_not() -> None:
    loop, offered = device(1.0, 1.0)
    two = [Earlier("nuc", {"a": 4, "b": 4}), Earlier("pi", {"a": 3, "b": 4})]
    found = fastest_of(loop, offered, two)
    assert found is not None
    assert found.earlier.target == "pi"
    unheld = [Earlier("nuc", {"a": 4, "b": 4, "c": 3}), Earlier("pi", {"a": 4}), Earlier("trap", {"a": 0, "b": 4})]
    assert fastest_of(loop, offered, unheld) is None
    assert fastest_of(loop, offered, []) is None


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
def test_the_ladder_begins_there(each: tuple[float, float], monkeypatch: pytest.MonkeyPatch) -> None:
    def rung_of(_loop: Any, _offered: Any, settled: Settled, at: int = 0) -> Any:
        return settled.choice.widths

    monkeypatch.setattr(latency_ladder, "rung_of", rung_of)
    loop, _ = device(*each)
    loop.how, loop.harm = SimpleNamespace(search="dp"), None
    usual = latency_ladder.latency_ladder(loop, PlainProgress())
    given: Mapping[str, int] = {"a": 4, "b": 4}
    ladder = latency_ladder.latency_ladder(loop, PlainProgress(), [Earlier("nuc", given)])
    assert usual.start is None
    assert ladder.start is not None
    assert [*ladder.harms] == sorted(ladder.harms)
    at, near = ladder.start.at, each == (1.0, 1.0)
    assert len(ladder.harms) == len(usual.harms) + near
    widths: Any = ladder.rung(at)
    assert (ladder.start.taken is not None) is (widths == given) is near
    assert ladder.harms[at] <= 32.0 < [*ladder.harms, 1e9][at + 1]
    others = [ladder.rung(index) for index in range(len(ladder.harms)) if index != at or not near]
    assert others == [usual.rung(index) for index in range(len(usual.harms))]


def test_a_search_that_knows_where_to_begin_asks_there_and_goes_on_from_what_was_lost() -> None:
    def asked(turn: int, first: int | None) -> tuple[list[int], int]:
        told: list[int] = []

        def lose(index: int) -> Answer:
            told.append(index)
            return Answer(index / turn, 0.2)

        return told, next(holding_steps([float(k) for k in range(48)], lose, 1.0, 3, first))

    assert asked(30, 29) == ([29], 29), "it holds, and hardly anything can be gained"
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
    assert 0 < taken.best_ms <= taken.ms <= earlier.NEAR * taken.best_ms
    assert [layer.kept for layer in second.layers] == [layer.kept for layer in first.layers]
    assert len(second.max_drop.trials) == second.max_drop.full_recoveries == 1
    assert second.max_drop.trials[0] in first.max_drop.trials

    def stored(name: str, steps: str) -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in (tmp_path / name / ".taco" / "steps").glob(steps)}

    for steps in ("trial-drop-*", "recovered-*.safetensors"):
        assert stored("second", steps) == stored("first", steps), "nothing was made again"
    (section,) = max_drop_sections(second)
    assert any(isinstance(b, Note) and "a run for host-cpu took" in b.text for b in section.blocks)
    assert "than those that a run for host-cpu took, so these were taken" in loop_sections(second)[0].meaning

    monkeypatch.setattr(earlier, "NEAR", 0.5)
    own = exported(task, tmp_path / "own", **asked)
    assert own.max_drop is not None
    assert own.max_drop.taken_over is None
    assert len(own.max_drop.trials) <= len(first.max_drop.trials), "it knew where to begin"


def test_only_searches_whose_candidates_lose_the_same_count(tmp_path: Path) -> None:
    asked: list[dict[str, Any]] = [{"seed": 0, "held": [1, 2]}, {"seed": 0, "held": [3]}]
    first, second = RunDir(tmp_path / "first"), RunDir(tmp_path / "second")
    taken = [Earlier("nuc", {"a": 4, "b": 8}), Earlier("pi", {"a": 2, "b": 8})]
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
    for damaged in ("{", "[]", "null", good.replace('"a": 4', '"a": "four"'), good.replace('"widths"', '"breadths"')):
        assert damaged != good
        file.write_text(damaged)
        assert Notes.of(second, 1.0, asked, ("latency", "dp", 100)).known() == taken[1:]
