"""What stands in for recovery: the better of two refits, as the select pictures say, stored, and told."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import draw_task
from tiny_recovery import begun, make_material, make_specialist, recovery
from torch import nn

from taco.allocate import Allocation
from taco.compress import UnitSolution, calibrate_units, kept_rows, solve_units, stitch
from taco.errors import SolverError
from taco.material import Material
from taco.model import state_sha256
from taco.steps import refit
from taco.steps.cutting import Cutter
from taco.steps.recovering import Recovery
from taco.steps.refit import Starter
from taco.surgery.inorder import InOrder
from taco.units import find_units


@dataclasses.dataclass(frozen=True)
class Case:
    """A cut specialist."""

    solutions: dict[str, UnitSolution]
    stitched: nn.Module
    widths: dict[str, int]
    rows: dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    return make_material(draw_task(tmp_path_factory.mktemp("refit") / "site", count=6))


@pytest.fixture(scope="module")
def specialist() -> nn.Module:
    return make_specialist()


@pytest.fixture(scope="module")
def case(specialist: nn.Module, material: Material) -> Case:
    units = find_units(specialist, (3, 32, 32)).within_blocks
    batches = material.batches(material.task.fit)
    solutions: dict[str, UnitSolution] = solve_units(specialist, units, calibrate_units(specialist, units, batches))
    widths = {u.name: u.width // 4 for u in units}
    return Case(solutions, stitch(specialist, solutions, widths), widths, kept_rows(specialist, solutions, widths))


def starter(folder: Path, specialist: nn.Module, material: Material, *, in_order: bool = True) -> Starter:
    fit = material.task.fit
    return Starter(recovery(folder, specialist, material), lambda: material.batches(fit), in_order)


def start(one: Starter, case: Case) -> tuple[nn.Module, refit.Refit | None]:
    return one.start(case.stitched, case.widths, case.rows)


def distance(one: Starter, model: nn.Module) -> float:
    return one.recovery.compared(model)[0][1]


def test_the_nearer_of_both_is_kept_told_and_never_worse_than_without(
    tmp_path: Path, specialist: nn.Module, material: Material, case: Case
) -> None:
    one = starter(tmp_path / "a", specialist, material)
    model, found = start(one, case)
    assert found is not None
    assert found.in_order is not None
    assert found.one_by_one is not None
    assert found.failed is None
    plain, none = start(starter(tmp_path / "b", specialist, material, in_order=False), case)
    assert none is None
    assert found.one_by_one == pytest.approx(distance(one, plain))
    assert found.kept == ("in order" if found.in_order < found.one_by_one else "one by one")
    assert distance(one, model) == pytest.approx(min(found.in_order, found.one_by_one))
    again = starter(tmp_path / "a", specialist, material)
    same, told = start(again, case)
    assert (state_sha256(same), told) == (state_sha256(model), found)
    assert begun(again.recovery) == []


def test_what_comes_out_worse_is_not_kept(
    tmp_path: Path, specialist: nn.Module, material: Material, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(_how: InOrder, smaller: nn.Module, layers: Any) -> nn.Module:
        return zeroed(smaller, layers[-1])

    monkeypatch.setattr(refit.InOrder, "refit", spoil)
    one = starter(tmp_path / "a", specialist, material)
    model, found = start(one, case)
    assert found is not None
    assert found.kept == "one by one"
    assert found.in_order is not None
    assert found.one_by_one is not None
    assert found.in_order > found.one_by_one == pytest.approx(distance(one, model))


def zeroed(model: nn.Module, layer: str) -> nn.Module:
    changed = refit.with_biases(model, [layer])
    with torch.no_grad():
        changed.get_submodule(layer).get_parameter("weight").zero_()
    return changed


def test_a_failure_is_told_and_the_stitched_model_stays(
    tmp_path: Path, specialist: nn.Module, material: Material, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> nn.Module:
        raise SolverError("conv: inputs cannot be told apart at damping 0.01", "Raise the damping to 0.1")

    monkeypatch.setattr(refit.InOrder, "refit", fail)
    one = starter(tmp_path / "a", specialist, material)
    model, found = start(one, case)
    assert found is not None
    assert (found.kept, found.in_order) == ("one by one", None)
    assert found.failed == "conv: inputs cannot be told apart at damping 0.01. Raise the damping to 0.1"
    assert distance(one, model) == pytest.approx(found.one_by_one)


@pytest.mark.parametrize(("minutes", "steps", "tried"), [(0.0, 0, True), (0.1, 0, True), (0.1, 3, False)])
def test_only_what_is_not_recovered_is_refitted_in_order(
    minutes: float,
    steps: int,
    tried: bool,
    tmp_path: Path,
    specialist: nn.Module,
    material: Material,
    case: Case,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Recovery, "steps", lambda *_: steps)
    one = starter(tmp_path / "a", specialist, material)
    one = dataclasses.replace(one, recovery=dataclasses.replace(one.recovery, minutes=minutes))
    unchanged: Any = SimpleNamespace(best=lambda module: (module, None))
    made = Cutter(case.solutions, one, unchanged).cut(Allocation(0.25, case.widths))
    assert (made.refit is not None) is tried
    assert (made.recovered is not None) is (minutes > 0)
    assert made.recovered is None or made.recovered.steps == steps
    ready = Starter(one.recovery, one.batches, False).plain(case.stitched)
    if steps:
        assert made.recovered is not None
        assert made.recovered.loss_before == pytest.approx(distance(one, ready))
