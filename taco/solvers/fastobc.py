"""FastOBC: SparseGPT's core, then the least-squares optimum on the support found (Frantar & Alistarh, ICML 2023).

All rows settle their columns in one order, so that one factor of H^-1 serves them all. Three things differ from the
paper. What leaves from a chunk of columns is what is among the cheapest of all that is still to come, by
    w_j^2 / [(H_rest)^-1]_jj,
so that the layer as a whole loses exactly its number and no chunk a fixed share. Columns that matter least come first,
so that those that matter most can still make up for them. And the support is always refitted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from taco.solvers.feedback import settle_columns
from taco.solvers.problem import Problem, upper_of_inverse
from taco.solvers.refit import refit_support
from taco.solvers.solver import LayerSolver
from taco.solvers.spec import Spec

_CHUNKS, _WIDEST = 24, 128  # chunks at least, columns of one at most


def solve(problem: Problem, specs: Sequence[Spec]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the refitted weights of every level."""
    factors: dict[tuple[str, int, int], tuple[torch.Tensor, torch.Tensor]] = {}
    for spec in specs:
        key = (spec.pattern, spec.size, spec.stride)
        if key not in factors:
            order = _order(problem, spec)
            every = torch.arange(len(order))[:, None, None]
            H = problem.H[every, order[:, :, None], order[:, None]]
            factors[key] = order, upper_of_inverse(H, problem.damping)
        mask = _support(problem.W, *factors[key], spec)
        yield refit_support(problem, mask), mask


def _order(problem: Problem, spec: Spec) -> torch.Tensor:
    """Return the columns of each group, the members of a block together, the cheapest block first; (groups, cols).

    N:M asks the inputs alone, so that each row's result is its own.
    """
    cost = problem.H.diagonal(dim1=1, dim2=2)
    if spec.pattern != "nm":
        cost = cost * problem.W.square().sum(1)
    blocks = spec.blocks(problem.W.shape[2])
    return blocks[cost[:, blocks].sum(2).argsort(stable=True)].flatten(1)


def _support(W: torch.Tensor, order: torch.Tensor, U: torch.Tensor, spec: Spec) -> torch.Tensor:
    chunk = max(1, min(W.shape[2] // _CHUNKS, _WIDEST) // spec.size) * spec.size
    gathered = order[:, None].expand_as(W)
    leaves = _Leaving(U, spec, chunk, spec.removed(*W.shape) // spec.size)
    mask = torch.zeros(W.shape, dtype=torch.bool)
    settle_columns(W.gather(2, gathered), U, leaves, chunk)
    return mask.scatter_(2, gathered, torch.cat(leaves.kept, 2))


class _Leaving:
    """Decides, when a chunk's or a block's first column comes, which of its weights leave."""

    def __init__(self, U: torch.Tensor, spec: Spec, chunk: int, removed: int) -> None:
        self.kept: list[torch.Tensor] = []
        self._U, self._spec, self._removed = U, spec, removed
        self._every = spec.size if spec.pattern == "nm" else chunk

    def __call__(self, free: torch.Tensor, j: int) -> torch.Tensor:
        if j % self._every == 0:
            self.kept.append(self._of_block(free, j) if self._spec.pattern == "nm" else self._of_chunk(free, j))
        return free[:, :, j] * self.kept[-1][:, :, j % self._every]

    def _score(self, free: torch.Tensor, a: int, b: int) -> torch.Tensor:
        return free[:, :, a:b].square() / self._U[:, a:b, a:b].square().sum(1)[:, None]

    def _of_block(self, free: torch.Tensor, j: int) -> torch.Tensor:
        score = self._score(free, j, j + self._every)
        best = score.topk(self._spec.n, dim=2).indices
        return torch.zeros(score.shape, dtype=torch.bool).scatter_(2, best, value=True)

    def _of_chunk(self, free: torch.Tensor, j: int) -> torch.Tensor:
        size = self._spec.size
        score = self._score(free, j, free.shape[2]).unflatten(2, (-1, size)).sum(3)
        leaves = torch.zeros(score.numel(), dtype=torch.bool)
        leaves[score.flatten().topk(self._removed, largest=False, sorted=False).indices] = True
        leaves = leaves.reshape(score.shape)[:, :, : self._every // size]
        self._removed -= int(leaves.sum())
        return (~leaves).repeat_interleave(size, 2)


SOLVER = LayerSolver("fastobc", frozenset({"unstructured", "nm", "block"}), solve)
