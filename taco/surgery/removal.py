"""In which order the channels of a unit leave, when several layers read them.

Greedy Optimal Brain Surgeon as in `taco.solvers.channels`, with the scores of all consumers summed. A consumer's loss
1/2 tr(dW H dW^T) is taken as a share of 1/2 tr(W H W^T), what it would lose with all its inputs, so that layers of
different scale count alike and losses of different units can be compared.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from taco.errors import InputError, SolverError
from taco.solvers.channels import damped, dead_columns, eliminate, scores
from taco.solvers.problem import cholesky

#: Wider units are scored anew only about this many times; in between the choice is among the cheapest.
_BATCHES = 64


@dataclasses.dataclass(frozen=True, slots=True)
class Removal:
    """The order in which the channels of a unit leave.

    Attributes:
        removed: (lanes, width) int64, the first to leave first. One lane, except for the width of heads: there queries
            and keys of every head, then values of every head, leave in an order of their own.
        loss: (width + 1,) float64, the share of their outputs that the consumers lose after that many left, summed over
            consumers, each refitted.
        multiple: Channels leave so many at a time.
    """

    removed: torch.Tensor
    loss: torch.Tensor
    multiple: int = 1

    def keep(self, width: int) -> torch.Tensor:
        """Return the sorted channels that stay longest, (lanes, width) int64.

        Raises:
            InputError: There are not that many, or they do not come in such numbers.
        """
        total = self.removed.shape[1]
        if not 0 <= width <= total or width % self.multiple:
            raise InputError(
                f"{width} of {total} channels cannot be kept", f"Keep a multiple of {self.multiple} up to {total}"
            )
        return self.removed[:, total - width :].sort(1).values


@dataclasses.dataclass(frozen=True, slots=True)
class Reader:
    """A consumer, seen from one unit.

    Attributes:
        W: (rows, cols) weights.
        H: (cols, cols) second moments of its input, 2 X X^T / n or the centred version.
        columns: (width, group) int64, the columns of each channel.
    """

    W: torch.Tensor
    H: torch.Tensor
    columns: torch.Tensor


class _State:
    """Weights and conditioned inverse of one reader, on the unit's columns that are left."""

    def __init__(self, reader: Reader, damping: float, multiple: int) -> None:
        if not reader.W.isfinite().all():
            raise SolverError("the weights are not finite", "Check the weight file")
        H = damped(reader.H, damping)
        W = reader.W.double().clone()
        W[:, dead_columns(reader.H)] = 0.0
        energy = 0.5 * float((W @ H).mul(W).sum())
        self.weight = 1.0 / energy if energy > 0 else 0.0
        flat = reader.columns.flatten()
        inverse = torch.cholesky_inverse(cholesky(H, damping))
        self.W, self.P = W[:, flat], inverse[flat][:, flat]
        self.group, self.damping = reader.columns.shape[1] * multiple, damping

    def scores(self) -> torch.Tensor:
        return self.weight * scores(self.W, self.P, self.group, self.damping)

    def part(self, atoms: torch.Tensor) -> _State:
        """Return the state of a few atoms, the others as they are."""
        part = object.__new__(_State)
        columns = _columns(atoms, self.group)
        part.W, part.P = self.W[:, columns], self.P[columns][:, columns]
        part.weight, part.group, part.damping = self.weight, self.group, self.damping
        return part

    def remove(self, out: torch.Tensor, stay: torch.Tensor) -> None:
        args = (_columns(out, self.group), _columns(stay, self.group))
        self.W, self.P = eliminate(self.W, self.P, *args, self.damping)


def greedy_removal(readers: Sequence[Reader], multiple: int = 1, damping: float = 1e-2) -> Removal:
    """Return the order in which greedy OBS removes a unit's channels.

    Args:
        readers: All consumers; at least one.
        multiple: Neighbouring channels that leave together.
        damping: Multiple of mean(diag H) added to the diagonal.

    Raises:
        SolverError: A weight is not finite, or a damped H is not positive definite.
    """
    states = [_State(reader, damping, multiple) for reader in readers]
    atoms = len(readers[0].columns) // multiple
    alive, removed, costs = torch.arange(atoms), [], []
    while len(alive):
        size = max(1, min(len(alive), atoms // _BATCHES))
        pool = _summed(states).argsort(stable=True)[: 2 * size]
        picked, cost = _pick([state.part(pool) for state in states], size)
        out = pool[picked]
        removed.append(alive[out])
        costs.append(cost)
        stay = _without(len(alive), out)
        for state in states:
            state.remove(out, stay)
        alive = alive[stay]
    return _removal(torch.cat(removed), torch.cat(costs), multiple)


def removal_in_order(
    readers: Sequence[Reader], atoms: torch.Tensor, multiple: int = 1, damping: float = 1e-2
) -> Removal:
    """Return the losses along an order that is given.

    Args:
        readers: All consumers.
        atoms: (width / multiple,) int64, what leaves, the first first.
        multiple: Channels of an atom.
        damping: Multiple of mean(diag H) added to the diagonal.
    """
    states = [_State(reader, damping, multiple) for reader in readers]
    alive, costs = torch.arange(len(atoms)), []
    for begin in range(0, len(atoms), _BATCHES):
        few = torch.stack([(alive == atom).nonzero()[0, 0] for atom in atoms[begin : begin + _BATCHES]])
        parts = [state.part(few) for state in states]
        for number in range(len(few)):
            left = torch.arange(1, len(few) - number)
            costs.append(_summed(parts)[:1])
            for part in parts:
                part.remove(torch.zeros(1, dtype=torch.int64), left)
        stay = _without(len(alive), few)
        for state in states:
            state.remove(few, stay)
        alive = alive[stay]
    return _removal(atoms, torch.cat(costs), multiple)


def _pick(parts: Sequence[_State], size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pick atoms of a small set one by one; returns their places in it and what each costs after the earlier."""
    left = torch.arange(parts[0].W.shape[1] // parts[0].group)
    picked, costs = [], []
    for _ in range(size):
        summed = _summed(parts)
        cheapest = int(summed.argmin())
        picked.append(int(left[cheapest]))
        costs.append(summed[cheapest])
        out = torch.tensor([cheapest])
        stay = _without(len(left), out)
        for part in parts:
            part.remove(out, stay)
        left = left[stay]
    return torch.tensor(picked), torch.stack(costs)


def _removal(atoms: torch.Tensor, costs: torch.Tensor, multiple: int) -> Removal:
    """Turn an order of atoms into one of channels; a channel that leaves alone costs what its atom costs."""
    loss = torch.cat([torch.zeros(1, dtype=torch.float64), costs.double().cumsum(0).repeat_interleave(multiple)])
    return Removal(_columns(atoms, multiple)[None], loss, multiple)


def _summed(states: Sequence[_State]) -> torch.Tensor:
    return torch.stack([state.scores() for state in states]).sum(0)


def _without(total: int, out: torch.Tensor) -> torch.Tensor:
    return torch.ones(total, dtype=torch.bool).index_fill_(0, out, value=False).nonzero().flatten()


def _columns(atoms: torch.Tensor, group: int) -> torch.Tensor:
    return (atoms[:, None] * group + torch.arange(group)).flatten()
