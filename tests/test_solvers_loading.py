"""Solvers by name: our own, those of other packages, and what is said when there is none."""

from __future__ import annotations

import types
from importlib.metadata import EntryPoint

import pytest
import torch

from taco import plugins
from taco.errors import InputError, SolverError
from taco.solvers import Spec, load_solver, solve_levels
from taco.solvers.loading import GROUP, OWN
from taco.testing.layers import Layer


@pytest.mark.parametrize("name", OWN)
def test_each_of_ours_is_found_and_knows_its_name(name: str) -> None:
    solver = load_solver(name)
    assert solver.name == name  # type: ignore[attr-defined]
    assert callable(solver.levels)


def test_a_wrong_name_gets_the_nearest() -> None:
    with pytest.raises(InputError, match="there is no solver 'exactops'") as caught:
        load_solver("exactops")
    assert "exactobs" in caught.value.todo
    with pytest.raises(InputError):
        solve_levels(torch.ones(1, 1, 4), torch.eye(4)[None], [Spec()], "exactops")


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module of another package that an entry point names."""
    module = types.ModuleType("foreign_solver")
    module.SOLVER = load_solver("magnitude")  # type: ignore[attr-defined]
    module.A_CLASS = type(module.SOLVER)  # type: ignore[attr-defined]
    module.NUMBER = 3  # type: ignore[attr-defined]
    monkeypatch.setitem(__import__("sys").modules, "foreign_solver", module)
    points = {
        "theirs": "foreign_solver:SOLVER",
        "kind": "foreign_solver:A_CLASS",
        "number": "foreign_solver:NUMBER",
        "absent": "foreign_solver:NOTHING",
        "nowhere": "no_such_package_at_all:SOLVER",
        "admm": "foreign_solver:NUMBER",
    }
    found = [EntryPoint(name, value, GROUP) for name, value in points.items()]
    monkeypatch.setattr(plugins, "entry_points", lambda group: found if group == GROUP else [])
    return module


def test_another_package_brings_its_own(foreign: types.ModuleType) -> None:
    assert load_solver("theirs") is foreign.SOLVER


def test_ours_cannot_be_replaced(foreign: types.ModuleType) -> None:
    assert load_solver("admm").name == "admm"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("kind", "is no solver"),
        ("number", "is no solver"),
        ("absent", "cannot be loaded"),
        ("nowhere", "cannot be loaded"),
    ],
)
@pytest.mark.usefixtures("foreign")
def test_what_is_no_solver_is_refused(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_solver(name)


def test_many_levels_at_once_are_those_of_one_by_one() -> None:
    W, H = Layer(groups=2, rows=3, blocks=3, seed=1).make()
    specs = [Spec(), Spec.unstructured(0.5), Spec.quantize(4), Spec.nm(2, 4)]
    for spec, solution in zip(specs, solve_levels(W, H, specs), strict=True):
        assert torch.equal(solution.weight, load_solver("admm")(W, H, spec).weight)


def test_a_pattern_that_a_solver_does_not_make_is_named_with_those_it_does() -> None:
    with pytest.raises(SolverError, match="solver admm makes no channels pattern") as caught:
        solve_levels(torch.ones(1, 1, 4), torch.eye(4)[None], [Spec.channels(2)])
    assert "block, nm, unstructured" in caught.value.todo
