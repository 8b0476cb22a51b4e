"""Which input channels of a layer to remove, and the best weights for those that stay.

Greedy Optimal Brain Surgeon over column groups (Hassibi & Stork 1993; group form as in OBC, Frantar & Alistarh 2022,
eq. 7): removing group q with the best compensation of all others costs
    1/2 tr( W_q [ (H^-1)_qq ]^-1 W_q^T ),
after which W and H^-1 are updated by a block elimination. One run gives the order of all groups, hence every width.
The refit is the exact ridge solution on the kept columns
    W_S = W H_{:,S} (H_SS)^-1,  H damped by lambda = damping * mean(diag H).
Inputs that never vary get no say: their own H_ii becomes the mean of the others and their weights count as zero.
`SOLVER` does the same on a `Problem`, where a dead H_ii becomes 1 and the damping is a multiple of the mean over all
inputs, dead ones included.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import torch

from taco.errors import SolverError
from taco.solvers.problem import Problem, cholesky, indefinite
from taco.solvers.solver import LayerSolver
from taco.solvers.spec import Spec

_DEAD = 1e-12  # of the largest diagonal element


@dataclasses.dataclass(frozen=True, slots=True)
class ChannelOrder:
    """The order in which channels leave.

    Attributes:
        removed: (channels,) int64, the first to leave first.
        loss: (channels + 1,) float64, 1/2 tr(dW H dW^T) on the damped H after that many removals and the refit.
    """

    removed: torch.Tensor
    loss: torch.Tensor

    def keep(self, width: int) -> torch.Tensor:
        """Return the sorted indices of the `width` channels that stay longest, (width,) int64.

        Raises:
            SolverError: There are not that many channels.
        """
        channels = len(self.removed)
        if not 0 <= width <= channels:
            raise SolverError(f"{width} of {channels} channels cannot be kept", f"Keep 1 to {channels}")
        return self.removed[channels - width :].sort().values


def damped(H: torch.Tensor, damping: float) -> torch.Tensor:
    """Return H + damping * mean(diag H) * I, dead inputs decoupled; (cols, cols) float64."""
    H = H.double().clone()
    diagonal = H.diagonal()
    dead = dead_columns(H)
    if dead.any():
        H[dead] = 0.0
        H[:, dead] = 0.0
        diagonal[dead] = 1.0 if dead.all() else diagonal[~dead].mean()
    diagonal += damping * float(diagonal.mean())
    return H


def obs_order(
    W: torch.Tensor, H: torch.Tensor, group: int = 1, damping: float = 1e-2, batches: int = 64
) -> ChannelOrder:
    """Return the order in which greedy OBS removes the channels of one layer.

    Args:
        W: (rows, channels * group) weights.
        H: (channels * group, channels * group) second moments of the input, 2 X X^T / n or its centred version.
        group: Columns a channel (kh * kw of a convolution), adjacent.
        damping: Multiple of mean(diag H) added to the diagonal.
        batches: Channels leave one after the other up to this many; wider layers are scored anew only about this many
            times, and the greedy choice in between is among the twice as many cheapest. The losses stay exact.

    Raises:
        SolverError: The shapes do not fit, a weight is not finite, or the damped H is not positive definite.
    """
    if W.ndim != 2 or H.shape != (W.shape[1], W.shape[1]) or group < 1 or W.shape[1] % group:
        raise SolverError(f"W {tuple(W.shape)}, H {tuple(H.shape)} and {group} columns a channel do not fit together")
    if not W.isfinite().all():
        raise SolverError("the weights are not finite", "Check the weight file")
    W, P = W.double().clone(), torch.cholesky_inverse(cholesky(damped(H, damping), damping))
    W[:, dead_columns(H)] = 0.0
    return _order(W, P, group, damping, batches)


def _order(W: torch.Tensor, P: torch.Tensor, group: int, damping: float, batches: int = 64) -> ChannelOrder:
    """Return the order for live weights and the inverse of the damped moments."""
    channels = W.shape[1] // group
    alive = torch.arange(channels)
    removed = [alive[:0]]
    losses = [torch.zeros(1, dtype=torch.float64)]
    while len(alive):
        size = max(1, min(len(alive), channels // batches))
        pool = scores(W, P, group, damping).argsort(stable=True)[: 2 * size]
        columns = _columns(pool, group)
        picked, costs = _greedy(W[:, columns], P[columns][:, columns], group, size, damping)
        out = pool[picked]
        removed.append(alive[out])
        losses.append(costs)
        stay = torch.ones(len(alive), dtype=torch.bool).index_fill_(0, out, value=False).nonzero().flatten()
        W, P = eliminate(W, P, _columns(out, group), _columns(stay, group), damping)
        alive = alive[stay]
    return ChannelOrder(torch.cat(removed), torch.cat(losses).cumsum(0))


def refit(W: torch.Tensor, H: torch.Tensor, keep: torch.Tensor, damping: float = 1e-2) -> torch.Tensor:
    """Return the ridge-optimal weights on the kept columns, (rows, len(keep)) float64.

    The ridge pulls towards the weights as they are, not towards zero: with all columns kept it returns W.

    Args:
        W: (rows, cols) weights.
        H: (cols, cols) second moments of the input.
        keep: (kept,) int64 column indices.
        damping: Multiple of mean(diag H) added to the diagonal.

    Raises:
        SolverError: The damped H_SS is not positive definite.
    """
    Hd = damped(H, damping)
    factor = cholesky(Hd[keep][:, keep], damping)
    return torch.cholesky_solve(Hd[keep] @ W.double().T, factor).T


def dead_columns(H: torch.Tensor) -> torch.Tensor:
    """Tell which inputs never vary, (cols,) bool."""
    diagonal = H.diagonal().abs()
    if not len(diagonal):
        return diagonal > 0
    return diagonal.isfinite() & (diagonal <= _DEAD * diagonal.max())


def _positive(values: torch.Tensor, damping: float) -> torch.Tensor:
    if not (values > 0).all():
        raise indefinite(len(values), damping)
    return values


def scores(W: torch.Tensor, P: torch.Tensor, group: int, damping: float) -> torch.Tensor:
    """Return 1/2 tr(W_q [P_qq]^-1 W_q^T) for every remaining channel, (channels,) float64."""
    if group == 1:
        return 0.5 * W.square().sum(0) / _positive(P.diagonal(), damping)
    channels = len(P) // group
    blocks = P.unflatten(0, (channels, group)).unflatten(2, (channels, group)).diagonal(dim1=0, dim2=2)
    factor = cholesky(blocks.permute(2, 0, 1), damping)
    Wq: torch.Tensor = W.unflatten(1, (channels, group)).permute(1, 2, 0)
    whitened: torch.Tensor = torch.linalg.solve_triangular(factor, Wq, upper=False)
    return 0.5 * whitened.square().sum((1, 2))


def _greedy(
    W: torch.Tensor, P: torch.Tensor, group: int, size: int, damping: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pick `size` channels of a small set one by one; returns their indices and what each costs after the earlier."""
    alive = torch.arange(len(P) // group)
    picked, costs = [], []
    for _ in range(size):
        score = scores(W, P, group, damping)
        cheapest = int(score.argmin())
        picked.append(int(alive[cheapest]))
        costs.append(score[cheapest])
        out = torch.tensor([cheapest])
        stay = torch.cat([torch.arange(cheapest), torch.arange(cheapest + 1, len(alive))])
        W, P = eliminate(W, P, _columns(out, group), _columns(stay, group), damping)
        alive = alive[stay]
    return torch.tensor(picked), torch.stack(costs)


def _columns(channels: torch.Tensor, group: int) -> torch.Tensor:
    return (channels[:, None] * group + torch.arange(group)).flatten()


def eliminate(
    W: torch.Tensor, P: torch.Tensor, out: torch.Tensor, stay: torch.Tensor, damping: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Remove columns `out`: compensate W and condition H^-1 on them being zero."""
    across = P[out][:, stay]
    if len(out) == 1:
        inner = across / _positive(P[out, out], damping)
    else:
        inner = torch.cholesky_solve(across, cholesky(P[out][:, out], damping))
    return W[:, stay] - W[:, out] @ inner, P[stay][:, stay] - across.T @ inner


def solve(problem: Problem, specs: Sequence[Spec]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the refitted weights of every level; each group of the layer has its own order, good for all widths."""
    orders: dict[int, list[ChannelOrder]] = {}
    for spec in specs:
        if spec.size not in orders:
            layers = zip(problem.W, problem.inverse, strict=True)
            orders[spec.size] = [_order(W, P, spec.size, problem.damping) for W, P in layers]
        kept = torch.stack([_columns(order.keep(spec.keep), spec.size) for order in orders[spec.size]])
        yield _refitted(problem, kept)


def _refitted(problem: Problem, kept: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the optimum on columns (groups, kept) that all rows of a group share, and its mask."""
    across = kept[:, None].expand(-1, problem.W.shape[1], -1)
    mask = torch.zeros(problem.W.shape, dtype=torch.bool).scatter_(2, across, value=True)
    every = torch.arange(len(kept))[:, None, None]
    factor = cholesky(problem.H[every, kept[:, :, None], kept[:, None]], problem.damping)
    solved = torch.cholesky_solve(problem.WH.gather(2, across).mT, factor).mT
    return torch.zeros_like(problem.W).scatter_(2, across, solved), mask


SOLVER = LayerSolver("channels", frozenset({"channels"}), solve)
