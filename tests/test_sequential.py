"""Layers solved one group after the other: better than all at once, at the asked levels, in the model's order."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from taco.calibrate import CalibrationOptions, calibrate
from taco.errors import TaskError, UnsupportedModuleError
from taco.executor import Executor
from taco.levels import Level
from taco.moments.unfold import known, weight_matrix
from taco.solvers import load_solver
from taco.sparse.sequential import Assignment, SequentialOptions, plan_groups, solve_sequentially

ALL = CalibrationOptions(positions=None)


def net(depth: int = 6, *, bias: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for number in range(depth):
        layers.append(nn.Conv2d(3 if number == 0 else 24, 24, 3, padding=1, bias=bias))
        layers.append(nn.ReLU())
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 5)).eval()


def batches(seed: int = 0) -> Iterator[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    low = torch.randn(24, 3, 4, 4, generator=generator)
    yield from nn.functional.interpolate(low, 12, mode="bilinear").split(10)


def convolutions(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)][1:]


def error(model: nn.Module, dense: nn.Module) -> float:
    with torch.no_grad():
        told = torch.cat([model(x) - dense(x) for x in batches(seed=5)])
        asked = torch.cat([dense(x) for x in batches(seed=5)])
    return float(told.norm() / (asked - asked.mean(0)).norm())


def at_once(dense: nn.Module, assignments: dict[str, Assignment]) -> nn.Module:
    model = copy.deepcopy(dense)
    moments = calibrate(dense, list(assignments), batches())
    for name, how in assignments.items():
        layer = known(model.get_submodule(name))
        solved = load_solver(how.solver)(weight_matrix(layer), moments[name].H, how.level.spec(layer), how.damping)
        with torch.no_grad():
            layer.weight.copy_(solved.weight.reshape(layer.weight.shape))
    return model


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("solver", ["admm", "magnitude_refit"])
def test_errors_pile_up_less_than_when_all_layers_are_solved_at_once(solver: str, bias: bool) -> None:
    dense = net(bias=bias)
    how = {name: Assignment(Level("unstructured", 0.85), solver, 1e-2) for name in convolutions(dense)}
    options = SequentialOptions(groups=len(how), calibration=ALL)
    model = solve_sequentially(dense, dense, how, batches, options, Executor.parse("local:1"))
    assert error(model, dense) < 0.95 * error(at_once(dense, how), dense)


def test_levels_hold_others_stay_and_nothing_given_is_changed() -> None:
    dense = net()
    before = copy.deepcopy(dense.state_dict())
    names = convolutions(dense)
    how = {
        names[0]: Assignment(Level("unstructured", 0.5), "admm", 1e-2),
        names[2]: Assignment(Level("nm", "2:4"), "admm", 1e-2),
        names[3]: Assignment(Level("dense"), "admm", 1e-2),
    }
    told: list[int] = []
    options = SequentialOptions(groups=2, calibration=ALL, progress=told.append)
    model = solve_sequentially(dense, dense, how, batches, options, Executor.parse("local:1"))
    assert all(torch.equal(value, before[key]) for key, value in dense.state_dict().items())
    weights = {name: model.get_submodule(name).weight for name in names}
    assert int((weights[names[0]] == 0).sum()) == weights[names[0]].numel() // 2
    fours = weights[names[2]].permute(0, 2, 3, 1).reshape(-1, 4)  # along the input channels
    assert int((fours != 0).sum(1).max()) == 2
    assert int((weights[names[3]] == 0).sum()) == 0
    assert not torch.equal(weights[names[3]], dense.get_submodule(names[3]).weight)  # it corrects what came before
    for name in (names[1], names[4]):
        assert torch.equal(weights[name], dense.get_submodule(name).weight)
    assert sorted(told) == [1, 2]


def test_groups_cover_every_layer_once_in_the_order_in_which_they_run() -> None:
    dense = net(9)
    names = convolutions(dense)
    for count in (1, 3, 5, 8, 100):
        groups = plan_groups(dense, names[::-1], batches, SequentialOptions(count, ALL))
        assert [name for group in groups for name in group] == names
        assert len(groups) <= count
    tight = CalibrationOptions(positions=None, budget_bytes=2 * 8 * 216 * 240)
    assert max(map(len, plan_groups(dense, names, batches, SequentialOptions(1, tight)))) == 1


@pytest.mark.parametrize("executor", ["local:1", pytest.param("local:2", marks=pytest.mark.slow)])
def test_the_same_again_here_and_in_other_processes(executor: str) -> None:
    dense = net(4)
    how = {name: Assignment(Level("unstructured", 0.7), "admm", 1e-2) for name in convolutions(dense)}
    options = SequentialOptions(groups=2)
    one, two = (
        solve_sequentially(dense, dense, how, batches, options, Executor.parse(kind)) for kind in ("local:1", executor)
    )
    for key, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[key]), key


def test_refusals() -> None:
    dense = net(3)
    how = {name: Assignment(Level("unstructured", 0.5), "admm", 1e-2) for name in convolutions(dense)}
    with pytest.raises(TaskError, match="no picture"):
        solve_sequentially(dense, dense, how, lambda: iter(()), SequentialOptions())
    small = SequentialOptions(calibration=CalibrationOptions(budget_bytes=1000))
    with pytest.raises(UnsupportedModuleError, match="columns"):
        solve_sequentially(dense, dense, how, batches, small)
