"""Units at every width in a database: solved once, whole or made again, and the same wherever they were solved."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_database
import torch
from families import SMALL, build, pictures, units_of
from tiny_recovery import Heard

from taco.compress import UnitSolution, calibrate_units, solve_units, stitch
from taco.database import LayerDatabase
from taco.database import channels as widths
from taco.errors import InputError, SolverError
from taco.executor import Executor
from taco.levels import Level
from taco.model import state_sha256
from taco.moments.sums import Moments
from taco.units import Unit

FAMILY = SMALL[0]
HERE = Executor.parse("local:1")
STEP = "choose channels, layer by layer"


@pytest.fixture(scope="module")
def units() -> tuple[Unit, ...]:
    return units_of(FAMILY).within_blocks


@pytest.fixture(scope="module")
def moments(units: tuple[Unit, ...]) -> dict[str, Moments]:
    return calibrate_units(build(FAMILY), units, [pictures(FAMILY, 6)])


def made(
    folder: Path, units: tuple[Unit, ...], moments: dict[str, Moments], model: Any = None
) -> tuple[dict[str, UnitSolution], int]:
    """Solutions, and how many units were solved for them."""
    told, counted = Heard(), []
    found = widths.build_widths(folder, model or build(FAMILY), (units, moments), HERE, Counting(told, counted))
    return found, sum(counted)


class Counting(Heard):
    """Counts what steps are told of."""

    def __init__(self, _: Heard, counted: list[int]) -> None:
        super().__init__()
        self.counted = counted

    def step(self, name: str, total: int | None = None) -> Any:
        self.counted.append(total or 0)
        return super().step(name, total)


@pytest.fixture(scope="module")
def database(units: tuple[Unit, ...], moments: dict[str, Moments], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("widths") / "db"
    _, count = made(folder, units, moments)
    assert count == len(units)
    return folder


@pytest.fixture
def copy(database: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(database, tmp_path / "db"))


def test_orders_are_those_of_the_solver_and_a_second_budget_solves_nothing(
    database: Path, units: tuple[Unit, ...], moments: dict[str, Moments]
) -> None:
    found, count = made(database, units, moments)
    assert count == 0
    plain = solve_units(build(FAMILY), units, moments)
    for name, solution in found.items():
        assert torch.equal(solution.order.removed, plain[name].order.removed)
        torch.testing.assert_close(solution.order.loss, plain[name].order.loss)
    for share in (2, 4):
        chosen = {u.name: u.width // share for u in units}
        assert state_sha256(stitch(build(FAMILY), found, chosen)) == state_sha256(stitch(build(FAMILY), plain, chosen))


def test_widths_come_at_the_targets_multiple_with_their_loss(database: Path, units: tuple[Unit, ...]) -> None:
    found = LayerDatabase.open(database)
    assert set(found.channel_units) == {u.name for u in units}
    unit = units[0]
    levels = found.widths(unit.name, 16)
    assert next(iter(levels)) == Level("channels", unit.width)
    kept = [int(level.value or 0) for level in levels]
    assert all(width % 16 == 0 for width in kept[1:])
    losses = list(levels.values())
    assert losses[0] == 0
    assert losses == sorted(losses)
    assert losses[-1] > 0
    order = found.removal(unit.name)
    assert losses[-1] == float(order.loss[unit.width - kept[-1]])
    with pytest.raises(InputError, match="no widths of 'nonsense'"):
        found.widths("nonsense")


def test_only_what_changed_is_solved_again(copy: Path, units: tuple[Unit, ...], moments: dict[str, Moments]) -> None:
    changed = stitch(build(FAMILY), {}, {})
    with torch.no_grad():
        changed.get_submodule(units[1].consumers[0].module).get_parameter("weight").mul_(1.5)
    _, count = made(copy, units, moments, changed)
    assert count == 1
    assert made(copy, units[:1], moments, changed)[1] == 0


def test_a_broken_file_is_named_and_made_again(
    copy: Path, units: tuple[Unit, ...], moments: dict[str, Moments], caplog: pytest.LogCaptureFixture
) -> None:
    entry = LayerDatabase.open(copy).channel_entry(units[2].name)
    whole = (copy / entry.file).read_bytes()
    (copy / entry.file).write_bytes(whole[:-8])
    with pytest.raises(InputError, match=f"{entry.file} is damaged"):
        LayerDatabase.open(copy).removal(units[2].name)
    with pytest.raises(InputError, match="is damaged"):
        LayerDatabase.open(copy).verify()
    with caplog.at_level(logging.WARNING, "taco"):
        assert made(copy, units, moments)[1] == 1
    assert f"{entry.file} is damaged or gone: it is built again" in caplog.text
    assert (copy / entry.file).read_bytes() == whole
    LayerDatabase.open(copy).verify()


def test_what_was_solved_before_a_stop_stays(
    database: Path,
    units: tuple[Unit, ...],
    moments: dict[str, Moments],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, calls = widths.solve_widths, []

    def third_dies(*arguments: Any) -> bytes:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(widths, "solve_widths", third_dies)
        with pytest.raises(KeyboardInterrupt):
            made(tmp_path / "db", units, moments)
    assert made(tmp_path / "db", units, moments)[1] == len(units) - 2
    assert files(tmp_path / "db") == files(database)


def files(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (folder / "units").iterdir()}


@pytest.mark.slow
def test_other_processes_give_the_same_bytes(
    database: Path,
    units: tuple[Unit, ...],
    moments: dict[str, Moments],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(widths, "_FEW", 0.0)
    widths.build_widths(tmp_path / "db", build(FAMILY), (units, moments), Executor.parse("local:2"), Heard())
    assert files(tmp_path / "db") == files(database)


def test_a_unit_that_cannot_be_solved_is_named(
    units: tuple[Unit, ...], moments: dict[str, Moments], tmp_path: Path
) -> None:
    layer = units[1].calibrated[0]
    cols = moments[layer].second.shape[-1]
    bad = Moments(torch.full((1, cols, cols), float("nan"), dtype=torch.float64), moments[layer].mean, 1)
    with pytest.raises(SolverError, match=f"^{units[1].name}: "):
        made(tmp_path / "db", units, {**moments, layer: bad})


def test_the_width_of_heads_is_solved_too(tmp_path: Path) -> None:
    family = SMALL[2]
    unit = units_of(family).of("head width")[:1]
    stats = calibrate_units(build(family), unit, [pictures(family, 2)])
    found, _ = made(tmp_path / "db", unit, stats, build(family))
    plain = solve_units(build(family), unit, stats)[unit[0].name]
    assert torch.equal(found[unit[0].name].order.removed, plain.order.removed)


def test_layers_and_widths_share_a_database(copy: Path, units: tuple[Unit, ...], moments: dict[str, Moments]) -> None:
    LayerDatabase.build(copy, tiny_database.source(), tiny_database.RECIPE, HERE)
    both = LayerDatabase.open(copy)
    assert both.units
    assert set(both.channel_units) == {u.name for u in units}
    both.verify()
    assert made(copy, units, moments)[1] == 0
    assert LayerDatabase.open(copy).units == both.units
