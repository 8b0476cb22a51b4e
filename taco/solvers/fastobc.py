"""FastOBC: SparseGPT's core, then the least-squares optimum on the support found (Frantar & Alistarh, ICML 2023).

All rows settle their columns in one order, so that one factor of H^-1 serves them all. Three things differ from the
paper. What leaves from a chunk of columns is what is among the cheapest of all that is still to come, by
    w_j^2 / [(H_rest)^-1]_jj,
so that the layer as a whole loses exactly its number and no chunk a fixed share. Columns that matter least come first,
so that those that matter most can still make up for them. And the support is always refitted.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
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
    masks: dict[int, torch.Tensor] = {}
    for _, alike in itertools.groupby(sorted(enumerate(specs), key=_kind), _kind):
        some = list(alike)
        ordered = _Ordered.of(problem, some[0][1])
        masks |= {number: _support(problem.W, ordered, spec) for number, spec in some}
        del ordered  # of a wide layer a tenth of the memory
    for number in range(len(specs)):
        yield refit_support(problem, masks[number]), masks.pop(number)


def _kind(numbered: tuple[int, Spec]) -> tuple[str, int, int]:
    """What levels share an order of the columns."""
    _, spec = numbered
    return spec.pattern, spec.size, spec.stride


@dataclasses.dataclass(frozen=True, eq=False)
class _Ordered:
    """The columns in the order in which they settle.

    Attributes:
        order: (groups, cols) int64, the cheapest block first.
        U: (groups, cols, cols), upper factor of H^-1 in that order.
        chunk: Columns of one chunk.
    """

    order: torch.Tensor
    U: torch.Tensor
    chunk: int

    @classmethod
    def of(cls, problem: Problem, spec: Spec) -> _Ordered:
        """Order and factor. N:M asks the inputs alone, so that each row's result is its own."""
        cols = problem.W.shape[2]
        cost = problem.H.diagonal(dim1=1, dim2=2)
        if spec.pattern != "nm":
            cost = cost * problem.W.square().sum(1)
        blocks = spec.blocks(cols)
        order = blocks[cost[:, blocks].sum(2).argsort(stable=True)].flatten(1)
        every = torch.arange(len(order))[:, None, None]
        U = upper_of_inverse(problem.H[every, order[:, :, None], order[:, None]], problem.damping)
        return cls(order, U, max(1, min(cols // _CHUNKS, _WIDEST) // spec.size) * spec.size)

    @functools.cached_property
    def left(self) -> torch.Tensor:
        """[(H_rest)^-1]_jj of every column once the chunks before are settled, (chunks, groups, cols)."""
        starts = range(0, self.U.shape[1], self.chunk)
        squares = [self.U[:, a : a + self.chunk].square().sum(1) for a in starts]
        return torch.stack(squares).flip(0).cumsum(0).flip(0)


def _support(W: torch.Tensor, ordered: _Ordered, spec: Spec) -> torch.Tensor:
    gathered = ordered.order[:, None].expand_as(W)
    leaves = _Leaving(ordered, spec, spec.removed(*W.shape) // spec.size)
    mask = torch.zeros(W.shape, dtype=torch.bool)
    settle_columns(W.gather(2, gathered), ordered.U, leaves, ordered.chunk)
    return mask.scatter_(2, gathered, torch.cat(leaves.kept, 2))


class _Leaving:
    """Decides, when a chunk's or a block's first column comes, which of its weights leave."""

    def __init__(self, ordered: _Ordered, spec: Spec, removed: int) -> None:
        self.kept: list[torch.Tensor] = []
        self._ordered, self._spec, self._removed = ordered, spec, removed
        self._every = spec.size if spec.pattern == "nm" else ordered.chunk

    def __call__(self, free: torch.Tensor, j: int) -> torch.Tensor:
        if j % self._every == 0:
            self.kept.append(self._of_block(free, j) if self._spec.pattern == "nm" else self._of_chunk(free, j))
        return free[:, :, j] * self.kept[-1][:, :, j % self._every]

    def _of_block(self, free: torch.Tensor, j: int) -> torch.Tensor:
        own = slice(j, j + self._every)
        score = free[:, :, own].square() / self._ordered.U[:, own, own].square().sum(1)[:, None]
        best = score.topk(self._spec.n, dim=2).indices
        return torch.zeros(score.shape, dtype=torch.bool).scatter_(2, best, value=True)

    def _of_chunk(self, free: torch.Tensor, j: int) -> torch.Tensor:
        size = self._spec.size
        score = free[:, :, j:].square().div_(self._ordered.left[j // self._every][:, None, j:])
        score = score.unflatten(2, (-1, size)).sum(3) if size > 1 else score
        leaves = torch.zeros(score.numel(), dtype=torch.bool)
        leaves[score.flatten().topk(self._removed, largest=False, sorted=False).indices] = True
        leaves = leaves.reshape(score.shape)[:, :, : self._every // size]
        self._removed -= int(leaves.sum())
        return (~leaves).repeat_interleave(size, 2)


SOLVER = LayerSolver("fastobc", frozenset({"unstructured", "nm", "block"}), solve)
