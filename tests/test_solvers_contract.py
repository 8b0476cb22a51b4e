"""Every solver of ours keeps the contract that we ship, and the contract catches solvers that do not."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch

import taco.testing
from taco.errors import SolverError
from taco.solvers import Solution, Solver, Spec, load_solver
from taco.solvers.masks import keep_largest
from taco.solvers.problem import Problem
from taco.solvers.refit import refit_support
from taco.solvers.solver import LayerSolver
from taco.testing import SolverContract
from taco.testing.layers import Layer


class TestAdmm(SolverContract):
    refits = wide = True

    @pytest.fixture
    def solver(self) -> Solver:
        return load_solver("admm")


class TestExactobs(SolverContract):
    refits = exact = True

    @pytest.fixture
    def solver(self) -> Solver:
        return load_solver("exactobs")


class TestFastobc(SolverContract):
    refits = wide = True

    @pytest.fixture
    def solver(self) -> Solver:
        return load_solver("fastobc")


class TestMagnitude(SolverContract):
    compensates = False
    wide = True

    @pytest.fixture
    def solver(self) -> Solver:
        return load_solver("magnitude")


class TestMagnitudeRefit(SolverContract):
    refits = True

    @pytest.fixture
    def solver(self) -> Solver:
        return load_solver("magnitude_refit")


class TestChannels(SolverContract):
    refits = True

    @pytest.fixture
    def solver(self) -> Solver:
        return load_solver("channels")


class TestGptq(SolverContract):
    @pytest.fixture
    def solver(self) -> Solver:
        return load_solver("gptq")


LAYERS = (
    Layer(groups=2, rows=3, stride=3, blocks=4, samples=20, dead=(1, 7), scale=1e4, seed=1),
    Layer(rows=4, stride=1, blocks=16, samples=100, dead=(3,), seed=2),
)


def fails(solver: Solver, **claims: bool) -> set[str]:
    """Names of the contract's tests that a solver fails on one of two layers."""
    suite = type("Claims", (SolverContract,), claims)()
    failed = set()
    for name in (name for name in dir(SolverContract) if name.startswith("test_")):
        method = getattr(SolverContract, name)
        if not hasattr(method, "hypothesis"):
            continue
        asked = inspect.signature(method.hypothesis.inner_test).parameters
        extra = {"bits": 4, "symmetric": False, "per_channel": True, "damping": 1e-2}
        for layer, damping in itertools.product(LAYERS, (1e-2, 0.0) if "numerical" in name else (1e-2,)):
            values = {**extra, "damping": damping}
            try:
                method.hypothesis.inner_test(
                    suite, solver=solver, layer=layer, **{k: v for k, v in values.items() if k in asked}
                )
            except (AssertionError, pytest.fail.Exception, RuntimeError):
                failed.add(name.removeprefix("test_"))
            except pytest.skip.Exception:
                pass
    return failed


def mutant(alter: Callable[[Problem, Spec, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]) -> LayerSolver:
    """Magnitude with refit, with something wrong with the mask or the weights."""

    def solve(problem: Problem, specs: Sequence[Spec]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for spec in specs:
            yield alter(problem, spec, keep_largest(problem.W.square(), spec))

    return LayerSolver("mutant", frozenset({"unstructured", "nm", "block"}), solve)


def faithful(problem: Problem, spec: Spec, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return refit_support(problem, mask), mask


def without_refit(problem: Problem, spec: Spec, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return problem.W * mask, mask


def one_too_many(problem: Problem, spec: Spec, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    mask = mask.clone()
    mask.view(-1)[(~mask).flatten().nonzero()[0]] = True
    return refit_support(problem, mask), mask


def refit_elsewhere(problem: Problem, spec: Spec, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return refit_support(problem, torch.ones_like(mask)), mask


def without_damping(problem: Problem, spec: Spec, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    ridge = problem.damping * problem.H.diagonal(dim1=1, dim2=2).mean(1)[:, None]
    H = problem.H - (0.9 * ridge * ~problem.dead).diag_embed()
    return refit_support(dataclasses.replace(problem, H=H), mask), mask


def half_the_damping_more(problem: Problem, spec: Spec, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    H = problem.H + 0.5 * problem.damping * torch.eye(problem.H.shape[-1], dtype=torch.float64)
    return refit_support(dataclasses.replace(problem, H=H), mask), mask


def stride_forgotten(problem: Problem, spec: Spec, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    mask = keep_largest(problem.W.square(), dataclasses.replace(spec, stride=1))
    return refit_support(problem, mask), mask


def mean_of_the_rows(problem: Problem, spec: Spec, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    mask = keep_largest(problem.W.square() + problem.W.square().mean(1, keepdim=True) * 10, spec)
    return refit_support(problem, mask), mask


def chance(problem: Problem, spec: Spec, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    mask = keep_largest(torch.rand(problem.W.shape, dtype=torch.float64), spec)
    return refit_support(problem, mask), mask


def inputs_spoilt(problem: Problem, spec: Spec, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    V = refit_support(problem, mask)
    problem.W.mul_(1.01)  # the loss is then of other weights
    return V, mask


def silent_fall_back(problem: Problem, spec: Spec, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    try:
        return refit_support(problem, mask), mask
    except SolverError:
        return problem.W * mask, mask


def test_a_faithful_solver_fails_nothing() -> None:
    assert not fails(mutant(faithful), refits=True)


@pytest.mark.parametrize(
    ("alter", "caught"),
    [
        (without_refit, "refitted_weights_are_the_least_squares_optimum"),
        (without_refit, "a_numerical_failure_names_a_damping"),
        (one_too_many, "the_mask_is_the_pattern_exactly"),
        (refit_elsewhere, "refitted_weights_are_the_least_squares_optimum"),
        (without_damping, "refitted_weights_are_the_least_squares_optimum"),
        (half_the_damping_more, "refitted_weights_are_the_least_squares_optimum"),
        (stride_forgotten, "the_mask_is_the_pattern_exactly"),
        (mean_of_the_rows, "nm_does_not_depend_on_how_rows_are_split"),
        (chance, "inputs_stay_as_they_are_and_the_answer_is_always_the_same"),
        (inputs_spoilt, "the_loss_is_that_of_the_weights"),
        (silent_fall_back, "a_numerical_failure_names_a_damping"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_the_contract_catches_what_is_wrong(
    alter: Callable[[Problem, Spec, torch.Tensor], tuple[torch.Tensor, torch.Tensor]], caught: str
) -> None:
    assert caught in fails(mutant(alter), refits=True)


@dataclasses.dataclass(frozen=True, slots=True)
class Finishing:
    """A good solver whose answers are spoilt at the end."""

    spoil: Callable[[torch.Tensor, torch.Tensor, Solution], Solution]
    patterns: frozenset[str] = frozenset({"unstructured", "nm", "block"})

    def __call__(self, W: torch.Tensor, H: torch.Tensor, spec: Spec, damping: float = 1e-2) -> Solution:
        return self.levels(W, H, [spec], damping)[0]

    def levels(self, W: torch.Tensor, H: torch.Tensor, specs: Sequence[Spec], damping: float = 1e-2) -> list[Solution]:
        return [self.spoil(W, H, s) for s in load_solver("magnitude_refit").levels(W, H, specs, damping)]


def undamped_loss(W: torch.Tensor, H: torch.Tensor, s: Solution) -> Solution:
    D = s.weight.double() - W.double()
    return dataclasses.replace(s, loss=0.5 * float(torch.einsum("grc,gcd,grd->", D, H.double(), D)))


def twice_the_loss(W: torch.Tensor, H: torch.Tensor, s: Solution) -> Solution:
    return dataclasses.replace(s, loss=2 * s.loss)


def other_dtype(W: torch.Tensor, H: torch.Tensor, s: Solution) -> Solution:
    return dataclasses.replace(s, weight=s.weight.half())


def rounded_a_little(W: torch.Tensor, H: torch.Tensor, s: Solution) -> Solution:
    return dataclasses.replace(s, weight=s.weight * (1 + 1e-3))


def weights_at_dead_inputs(W: torch.Tensor, H: torch.Tensor, s: Solution) -> Solution:
    dead = (H.diagonal(dim1=1, dim2=2) == 0)[:, None] & s.mask
    return dataclasses.replace(s, weight=torch.where(dead, W, s.weight))


def inputs_written(W: torch.Tensor, H: torch.Tensor, s: Solution) -> Solution:
    W[0, 0, 0] += 1e-3
    return s


@pytest.mark.parametrize(
    ("spoil", "caught"),
    [
        (undamped_loss, "the_loss_is_that_of_the_weights"),
        (twice_the_loss, "the_loss_is_that_of_the_weights"),
        (other_dtype, "the_mask_is_the_pattern_exactly"),
        (rounded_a_little, "a_level_that_removes_nothing_returns_the_weights"),
        (rounded_a_little, "quantised_weights_are_integers_on_their_grid"),
        (weights_at_dead_inputs, "dead_inputs_have_no_weights_and_no_say"),
        (inputs_written, "inputs_stay_as_they_are_and_the_answer_is_always_the_same"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_the_contract_catches_a_spoilt_answer(
    spoil: Callable[[torch.Tensor, torch.Tensor, Solution], Solution], caught: str
) -> None:
    assert caught in fails(Finishing(spoil), refits=True)


def test_the_contract_catches_a_first_step_that_goes_by_size() -> None:
    suite = type("Claims", (SolverContract,), {"exact": True})()
    for seed in range(5):
        suite.test_the_first_weight_to_go_is_the_one_that_brute_force_finds(load_solver("exactobs"), seed)
        with pytest.raises(AssertionError):
            suite.test_the_first_weight_to_go_is_the_one_that_brute_force_finds(load_solver("magnitude_refit"), seed)


@pytest.mark.parametrize("name", ["admm", "exactobs", "fastobc"])
def test_nm_of_many_layers_does_not_depend_on_how_rows_are_split(name: str) -> None:
    contract = SolverContract.test_nm_does_not_depend_on_how_rows_are_split.hypothesis.inner_test  # type: ignore[attr-defined]
    for seed in range(20):  # a stop by the slowest row of all would show in a few of them
        layer = Layer(rows=6, stride=1 + seed % 3, blocks=7, samples=20 + 10 * seed, seed=seed)
        contract(SolverContract(), solver=load_solver(name), layer=layer)


def test_importing_the_package_needs_no_test_tools() -> None:
    code = "import sys, taco.testing, taco.solvers; print({'pytest', 'hypothesis'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_the_testing_package_has_nothing_else() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Contract'"):
        taco.testing.Contract  # noqa: B018
