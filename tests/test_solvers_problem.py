"""The layer-wise problem: what damping means, what a dead input is, and what is refused."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from taco.errors import SolverError
from taco.solvers.problem import Problem, cholesky


def layer(groups: int, rows: int, cols: int, seed: int = 0, n: int = 50) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(groups, cols, n, generator=generator, dtype=torch.float64)
    return torch.randn(groups, rows, cols, generator=generator, dtype=torch.float64), 2 * X @ X.transpose(1, 2) / n


sizes = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 12), st.integers(0, 2**31))


@given(sizes, st.sampled_from([0.0, 1e-3, 1.0]))
def test_damping_is_a_multiple_of_the_mean_diagonal_of_each_group(
    size: tuple[int, int, int, int], damping: float
) -> None:
    W, H = layer(*size)
    problem = Problem.of(W, H, damping)
    for g in range(len(H)):
        ridge = damping * H[g].diagonal().mean() * torch.eye(H.shape[1], dtype=torch.float64)
        assert torch.allclose(problem.H[g], H[g] + ridge, rtol=1e-12)
    assert torch.equal(problem.W, W)
    assert not problem.dead.any()


@given(sizes, st.data())
def test_a_dead_input_is_decoupled_and_its_weights_are_zero(
    size: tuple[int, int, int, int], data: st.DataObject
) -> None:
    W, H = layer(*size)
    dead = torch.tensor([[data.draw(st.booleans()) for _ in range(H.shape[1])] for _ in range(H.shape[0])])
    H[dead[:, :, None] | dead[:, None, :]] = 0
    problem = Problem.of(W, H, 1e-2)
    assert torch.equal(problem.dead, dead)
    assert (problem.W[dead[:, None, :].expand_as(W)] == 0).all()
    assert (problem.H.diagonal(dim1=1, dim2=2)[dead] == 1).all()
    across = dead[:, :, None] ^ dead[:, None, :]
    assert (problem.H[across] == 0).all()
    assert torch.linalg.eigvalsh(problem.H).min() > 0


@given(sizes)
def test_the_loss_is_half_the_trace(size: tuple[int, int, int, int]) -> None:
    W, H = layer(*size)
    problem = Problem.of(W, H, 1e-2)
    D = torch.randn(W.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = sum(0.5 * torch.trace(D[g] @ problem.H[g] @ D[g].T) for g in range(len(W)))
    assert problem.loss(W + D) == pytest.approx(float(expected), rel=1e-9, abs=1e-12)
    assert problem.loss(W) == 0


@given(sizes)
def test_the_shared_factorisations_are_those_of_the_damped_moments(size: tuple[int, int, int, int]) -> None:
    W, H = layer(*size)
    problem = Problem.of(W, H, 1e-1)
    identity = torch.eye(H.shape[1], dtype=torch.float64).expand_as(H)
    assert torch.allclose(problem.inverse @ problem.H, identity, atol=1e-8)
    assert torch.allclose(problem.WH, problem.W @ problem.H)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inputs_are_taken_in_either_precision_and_not_modified(dtype: torch.dtype) -> None:
    W, H = (x.to(dtype) for x in layer(2, 3, 4))
    H[:, 0] = H[:, :, 0] = 0
    before = W.clone(), H.clone()
    problem = Problem.of(W, H, 1e-2)
    assert torch.equal(W, before[0])
    assert torch.equal(H, before[1])
    assert problem.W.dtype is problem.H.dtype is torch.float64


def test_a_group_whose_inputs_are_all_dead_is_a_problem_still() -> None:
    W, H = layer(2, 3, 4)
    problem = Problem.of(W, H * torch.tensor([0.0, 1.0])[:, None, None], 1e-2)
    assert problem.dead.tolist() == [[True] * 4, [False] * 4]
    assert torch.equal(problem.H[0], torch.eye(4, dtype=torch.float64))


@dataclasses.dataclass(frozen=True, slots=True)
class Refusal:
    """Arguments that make no problem."""

    name: str
    W: torch.Tensor
    H: torch.Tensor
    damping: float
    says: str


W, H = layer(1, 2, 3)
REFUSALS = (
    Refusal("two-dimensional W", W[0], H, 0.01, "do not fit together"),
    Refusal("other columns", W[:, :, :2], H, 0.01, r"W \(1, 2, 2\) and H \(1, 3, 3\)"),
    Refusal("other groups", W.expand(2, 2, 3), H, 0.01, "do not fit together"),
    Refusal("no rows", W[:, :0], H, 0.01, "do not fit together"),
    Refusal("integers", W.int(), H, 0.01, "torch.int32"),
    Refusal("W not finite", W / 0, H, 0.01, "weights are not finite"),
    Refusal("H not finite", W, H * torch.nan, 0.01, "second moments are not finite"),
    Refusal("negative moments", W, -H, 0.01, "negative"),
    Refusal("asymmetric moments", W, H + torch.triu(torch.ones(3, 3)), 0.01, "symmetric"),
    Refusal("negative damping", W, H, -0.01, "damping of -0.01"),
    Refusal("damping without end", W, H, float("inf"), "damping of inf"),
    Refusal("damping that is no number", W, H, float("nan"), "damping of nan"),
)


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.name)
def test_what_is_no_problem_is_refused(refusal: Refusal) -> None:
    with pytest.raises(SolverError, match=refusal.says):
        Problem.of(refusal.W, refusal.H, refusal.damping)


@pytest.mark.parametrize(("damping", "next_damping"), [(0.0, "0.0001"), (0.01, "0.1")])
def test_a_failed_factorisation_names_the_damping_and_one_to_try(damping: float, next_damping: str) -> None:
    with pytest.raises(SolverError, match=rf"3 columns are not positive definite at damping {damping:g}") as caught:
        cholesky(torch.stack([torch.eye(3), torch.diag(torch.tensor([1.0, 1.0, -1.0]))]), damping)
    assert f"Raise the damping to {next_damping}" in str(caught.value)
