"""Folds of the shots for cross-validation: classes spread evenly, what has one role kept together."""

from __future__ import annotations

import torch


def stratified_folds(
    labels: torch.Tensor, seed: int, most: int = 5, groups: torch.Tensor | None = None
) -> tuple[torch.Tensor, ...]:
    """Return stratified folds as index tensors; as many as the rarest class has pictures, at most `most`.

    A head that is fitted without a frame, but on the next one of its burst, knows the frame; so what has one role (a
    place, a burst, copies) is in one fold. A class that is all of one group is divided all the same: without it
    nothing could be fitted, and of such a class nothing better can be told.

    Args:
        labels: (n,) int64.
        seed: Draws them.
        most: Folds at most.
        groups: (n,) int64, labels of what has one role; None where every picture stands for itself.
    """
    generator = torch.Generator().manual_seed(seed)
    k = max(2, min(most, int(labels.bincount().min())))
    fold_of = torch.empty_like(labels)
    totals = [0] * k
    for label in labels.unique():
        units = _units((labels == label).nonzero().flatten(), groups)
        drawn = [units[place] for place in torch.randperm(len(units), generator=generator).tolist()]
        order = sorted(range(k), key=totals.__getitem__) if len(units) < k else list(range(k))
        filled = [0] * k
        for unit in sorted(drawn, key=len, reverse=True):
            fold = min(order, key=filled.__getitem__)  # the first of equals
            fold_of[unit] = fold
            filled[fold] += len(unit)
        totals = [total + own for total, own in zip(totals, filled, strict=True)]
    found = [(fold_of == place).nonzero().flatten() for place in range(k)]
    return tuple(held for held in found if len(held))


def _units(members: torch.Tensor, groups: torch.Tensor | None) -> list[torch.Tensor]:
    """Return the places of a class's pictures, those that stay together as one."""
    if groups is not None and len(found := groups[members].unique()) > 1:
        return [members[groups[members] == group] for group in found]
    return list(members[:, None])
