"""The channel solver against brute force and explicit least squares, on many random problems in float64."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from taco.errors import SolverError
from taco.solvers import Spec, load_solver
from taco.solvers.channels import ChannelOrder, damped, obs_order, refit


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """A random layer: `group` columns a channel, inputs of a given rank, some columns never active."""

    channels: int
    group: int
    rows: int
    rank: int
    dead: tuple[int, ...]
    seed: int
    scale: float

    def make(self) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        cols = self.channels * self.group
        mix = torch.randn(cols, self.rank, generator=generator, dtype=torch.float64)
        X = mix @ torch.randn(self.rank, 3 * cols, generator=generator, dtype=torch.float64)
        X[[d % cols for d in self.dead]] = 0
        W = torch.randn(self.rows, cols, generator=generator, dtype=torch.float64)
        return W, self.scale * 2 * X @ X.T / X.shape[1]


problems = st.builds(
    Problem,
    channels=st.integers(1, 14),
    group=st.integers(1, 9),
    rows=st.integers(1, 6),
    rank=st.integers(1, 40),
    dead=st.lists(st.integers(0, 200), max_size=4).map(tuple),
    seed=st.integers(0, 2**31),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
)


def live(W: torch.Tensor, H: torch.Tensor) -> torch.Tensor:
    """The weights as the solver counts them: those of dead inputs are zero."""
    return W * (H.diagonal() != 0)


def columns_of(keep: torch.Tensor, group: int) -> torch.Tensor:
    return (keep[:, None] * group + torch.arange(group)).flatten()


def explicit_loss(W: torch.Tensor, H: torch.Tensor, columns: torch.Tensor, damping: float) -> float:
    """1/2 tr(dW H dW^T) with the least-squares optimum on `columns`, found without the solver's formulas."""
    Hd, W = damped(H, damping), live(W, H)
    root = torch.linalg.cholesky(Hd)  # ||dW root||^2 = tr(dW H dW^T)
    best = torch.linalg.lstsq(root[columns].T, (W @ root).T, driver="gelsd").solution.T
    delta = W.clone()
    delta[:, columns] -= best
    return 0.5 * float((delta @ Hd @ delta.T).trace())


@given(problems, st.sampled_from([1e-4, 1e-2, 1.0]), st.sampled_from([2, 64]))
@settings(max_examples=60, deadline=None)
def test_the_loss_is_that_of_the_refitted_weights_for_every_width(
    problem: Problem, damping: float, batches: int
) -> None:
    W, H = problem.make()
    order = obs_order(W, H, problem.group, damping, batches)
    scale = float(order.loss[-1]) + 1e-300
    for width in {0, problem.channels // 3, problem.channels // 2, problem.channels - 1, problem.channels}:
        columns = columns_of(order.keep(width), problem.group)
        delta = live(W, H)
        delta[:, columns] -= refit(live(W, H), H, columns, damping)
        loss = 0.5 * (delta @ damped(H, damping) @ delta.T).trace()
        assert float(order.loss[problem.channels - width]) == pytest.approx(float(loss), rel=1e-6, abs=1e-9 * scale)


@given(problems, st.sampled_from([1e-3, 1e-2]))
@settings(max_examples=40, deadline=None)
def test_the_refit_is_the_least_squares_optimum_for_its_mask(problem: Problem, damping: float) -> None:
    W, H = problem.make()
    generator = torch.Generator().manual_seed(problem.seed)
    keep = torch.randperm(problem.channels, generator=generator)[: (problem.channels + 1) // 2].sort().values
    columns = columns_of(keep, problem.group)
    Hd = damped(H, damping)
    delta = live(W, H)
    delta[:, columns] -= refit(live(W, H), H, columns, damping)
    gradient = (delta @ Hd)[:, columns]  # zero at the optimum
    assert gradient.abs().max() <= 1e-10 * (live(W, H) @ Hd).abs().max().clamp_min(1e-300)
    loss = 0.5 * float((delta @ Hd @ delta.T).trace())
    total = 0.5 * float((live(W, H) @ Hd @ live(W, H).T).trace())
    assert loss == pytest.approx(explicit_loss(W, H, columns, damping), rel=1e-8, abs=1e-12 * total)


@given(problems)
@settings(max_examples=30, deadline=None)
def test_all_channels_kept_returns_the_weights(problem: Problem) -> None:
    W, H = problem.make()
    order = obs_order(W, H, problem.group)
    assert torch.equal(order.keep(problem.channels), torch.arange(problem.channels))
    assert float(order.loss[0]) == 0
    torch.testing.assert_close(refit(W, H, torch.arange(W.shape[1])), W, rtol=1e-9, atol=1e-9)


@given(problems)
@settings(max_examples=30, deadline=None)
def test_the_first_channel_to_leave_is_the_one_that_brute_force_finds(problem: Problem) -> None:
    W, H = problem.make()
    order = obs_order(W, H, problem.group)
    losses = []
    for channel in range(problem.channels):
        others = torch.tensor([c for c in range(problem.channels) if c != channel], dtype=torch.int64)
        losses.append(explicit_loss(W, H, columns_of(others, problem.group), 1e-2))
    scale = max(losses) + 1e-300
    assert losses[int(order.removed[0])] == pytest.approx(min(losses), rel=1e-7, abs=1e-10 * scale)
    assert float(order.loss[1]) == pytest.approx(min(losses), rel=1e-7, abs=1e-10 * scale)


@given(problems, st.sampled_from([0.25, 64.0]))
@settings(max_examples=30, deadline=None)
def test_scaling_weights_or_inputs_changes_no_order(problem: Problem, factor: float) -> None:
    W, H = problem.make()  # powers of two: rounding is the same, so that ties stay ties
    order = obs_order(W, H, problem.group)
    assert torch.equal(obs_order(W, factor * H, problem.group).removed, order.removed)
    assert torch.equal(obs_order(factor * W, H, problem.group).removed, order.removed)
    torch.testing.assert_close(obs_order(W, factor * H, problem.group).loss, factor * order.loss)


@given(problems)
@settings(max_examples=30, deadline=None)
def test_inputs_stay_as_they_are_losses_never_fall_and_the_order_is_a_permutation(problem: Problem) -> None:
    W, H = problem.make()
    before = W.clone(), H.clone()
    order = obs_order(W, H, problem.group, batches=3)
    refit(W, H, columns_of(order.keep((problem.channels + 1) // 2), problem.group))
    assert torch.equal(W, before[0])
    assert torch.equal(H, before[1])
    assert all(a <= b for a, b in pairwise(order.loss.tolist()))
    assert torch.equal(order.removed.sort().values, torch.arange(problem.channels))
    assert len(order.loss) == problem.channels + 1


def test_float32_weights_give_the_same_order_as_float64() -> None:
    W, H = Problem(12, 3, 4, 30, (), 5, 1.0).make()
    W = W.float()
    assert torch.equal(obs_order(W, H, 3).removed, obs_order(W.double(), H, 3).removed)


def test_dead_inputs_leave_first_and_cost_nothing() -> None:
    W, H = Problem(10, 2, 4, 20, (0, 1, 14, 15), 1, 1e-3).make()
    W[:, [0, 1, 14, 15]] = 100.0
    order = obs_order(W, H, 2)
    assert sorted(order.removed[:2].tolist()) == [0, 7]
    assert float(order.loss[2]) == 0
    torch.testing.assert_close(refit(W, H, columns_of(order.keep(8), 2)), W[:, columns_of(order.keep(8), 2)])


def test_an_input_that_is_constant_up_to_rounding_is_dead() -> None:
    W, H = Problem(6, 1, 3, 6, (), 2, 1.0).make()
    H[4] = H[:, 4] = 0
    H[4, 4] = -1e-15  # what is left of a covariance
    W[:, 4] = 1e3
    assert int(obs_order(W, H).removed[0]) == 4


def test_everything_dead_still_gives_an_order() -> None:
    order = obs_order(torch.ones(2, 4), torch.zeros(4, 4))
    assert sorted(order.removed.tolist()) == [0, 1, 2, 3]
    assert torch.equal(order.loss, torch.zeros(5, dtype=torch.float64))


@pytest.mark.parametrize("channels", [20, 200], ids=["one by one", "in batches"])
def test_of_two_equal_channels_one_stays(channels: int) -> None:
    W, H = Problem(channels, 1, 8, 4 * channels, (), 3, 1.0).make()
    twice = torch.arange(channels).repeat_interleave(2)
    H = H[twice][:, twice]
    W = torch.randn(8, 2 * channels, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    order = obs_order(W, H, damping=1e-6)
    kept = twice[order.keep(channels)]
    assert torch.equal(kept, torch.arange(channels))  # without conditional scores both of a pair leave in one batch


def test_wide_layers_lose_little_by_the_batches() -> None:
    W, H = Problem(192, 1, 16, 100, (), 4, 1.0).make()
    exact, batched = obs_order(W, H, batches=192), obs_order(W, H)
    ratio = batched.loss[1:] / exact.loss[1:]
    assert 0.9 < float(ratio.mean()) < 1.1  # greedy itself is no optimum, so either may win


@dataclasses.dataclass(frozen=True, slots=True)
class Bad:
    """A matrix that cannot be solved, and the damping that the error has to name."""

    name: str
    H: torch.Tensor
    damping: float
    advice: str


INDEFINITE = torch.tensor([[1.0, 3.0], [3.0, 1.0]])
BAD = (
    Bad("indefinite", INDEFINITE, 1e-2, "0.1"),
    Bad("nan", torch.full((2, 2), float("nan")), 1e-2, "0.1"),
    Bad("infinite", torch.full((2, 2), float("inf")), 1e-2, "0.1"),
    Bad("singular without damping", torch.ones(2, 2), 0.0, "0.0001"),
    Bad("negative damping", torch.eye(2), -2.0, "0.0001"),
)


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_a_numerical_failure_names_a_damping_to_try(bad: Bad) -> None:
    with pytest.raises(SolverError, match="not positive definite") as caught:
        obs_order(torch.ones(1, 2), bad.H, damping=bad.damping)
    assert caught.value.todo == f"Raise the damping to {bad.advice}"
    with pytest.raises(SolverError, match="Raise the damping"):
        refit(torch.ones(1, 2), bad.H, torch.tensor([0, 1]), bad.damping)


@pytest.mark.parametrize("group", [1, 2])
def test_the_advised_damping_cures(group: int) -> None:
    H = torch.ones(4, 4)
    with pytest.raises(SolverError) as caught:
        obs_order(torch.ones(1, 4), H, group, damping=0.0)
    obs_order(torch.ones(1, 4), H, group, damping=float(caught.value.todo.split()[-1]))


def test_weights_that_are_not_finite_are_refused() -> None:
    with pytest.raises(SolverError, match="weights are not finite"):
        obs_order(torch.tensor([[1.0, float("nan")]]), torch.eye(2))


@pytest.mark.parametrize(("cols", "group"), [(5, 2), (6, 4), (6, 0)])
def test_shapes_that_do_not_fit_are_refused(cols: int, group: int) -> None:
    with pytest.raises(SolverError, match="do not fit together"):
        obs_order(torch.ones(2, cols), torch.eye(cols), group)
    with pytest.raises(SolverError, match="do not fit together"):
        obs_order(torch.ones(2, cols + 1), torch.eye(cols), 1)


@pytest.mark.parametrize("width", [-1, 4])
def test_a_width_that_there_is_not_is_refused(width: int) -> None:
    order = ChannelOrder(torch.tensor([2, 0, 1]), torch.zeros(4))
    assert order.keep(2).tolist() == [0, 1]
    assert order.keep(0).tolist() == []
    with pytest.raises(SolverError, match="of 3 channels"):
        order.keep(width)


def test_damping_is_a_multiple_of_the_mean_diagonal() -> None:
    H = torch.tensor([[1.0, 0.5, 0.0], [0.5, 3.0, 0.0], [0.0, 0.0, 0.0]])
    expected = torch.tensor([[1.2, 0.5, 0.0], [0.5, 3.2, 0.0], [0.0, 0.0, 2.2]], dtype=torch.float64)
    torch.testing.assert_close(damped(H, 0.1), expected)


def test_as_a_layer_solver_each_group_keeps_its_own_channels() -> None:
    layers = [Problem(10, 3, 4, 30, (), seed, 1.0).make() for seed in (1, 2)]
    W, H = (torch.stack(parts) for parts in zip(*layers, strict=True))
    whole = load_solver("channels").levels(W, H, [Spec.channels(width, 3) for width in (7, 2)])
    for width, solution in zip((7, 2), whole, strict=True):
        for g, (weights, moments) in enumerate(layers):
            columns = columns_of(obs_order(weights, moments, 3).keep(width), 3)
            expected = torch.zeros_like(weights)
            expected[:, columns] = refit(weights, moments, columns)
            torch.testing.assert_close(solution.weight[g], expected)
        losses = (float(obs_order(*layer, 3).loss[10 - width]) for layer in layers)
        assert solution.loss == pytest.approx(sum(losses), rel=1e-9)


@pytest.mark.parametrize("keep", [0, 1])
def test_as_a_layer_solver_nearly_all_channels_may_go(keep: int) -> None:
    W, H = Problem(4, 2, 3, 8, (0,), 1, 1.0).make()
    solution = load_solver("channels")(W[None], H[None], Spec.channels(keep, 2))
    assert int(solution.mask.sum()) == 3 * 2 * keep
