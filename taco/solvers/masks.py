"""Project scores onto a pattern: keep what scores highest, exactly as many as the spec says; of equals, the first."""

from __future__ import annotations

import numpy as np
import torch

from taco.errors import SolverError
from taco.solvers.spec import Spec

_PAIRWISE = 8  # columns a block up to which comparing all pairs beats sorting


def keep_largest(score: torch.Tensor, spec: Spec) -> torch.Tensor:
    """Return the mask of the pattern that keeps the largest total score, (groups, rows, cols) bool.

    Args:
        score: (groups, rows, cols) float, what keeping each weight is worth; a block is worth the sum of its members.
        spec: `unstructured` and `block` compare the whole layer, `nm` each block of a row.

    Raises:
        SolverError: The columns are no multiple of a block, or a score is not a number.
    """
    if spec.pattern == "unstructured":
        return _top(score, round(spec.sparsity * score.numel()))
    spec.blocks(score.shape[2])  # raises where they do not fit
    grouped = score.unflatten(2, (-1, spec.size, spec.stride))
    if spec.pattern == "nm":
        kept = _ranks(grouped) < spec.n
    else:
        worth = grouped.sum(3)
        kept = _top(worth, round(spec.sparsity * worth.numel()))[:, :, :, None].expand(grouped.shape)
    return kept.reshape(score.shape)


def _top(score: torch.Tensor, removed: int) -> torch.Tensor:
    """Keep all but the `removed` smallest; numpy's partition is several times faster than `topk` and `kthvalue`."""
    if not removed:
        return torch.ones_like(score, dtype=torch.bool)
    flat = score.detach().flatten()
    threshold = float(np.partition(flat.numpy(), removed - 1)[removed - 1])
    mask = flat > threshold
    missing = len(flat) - removed - int(mask.sum())
    if missing:
        equal = (flat == threshold).nonzero()[:missing, 0]
        if len(equal) < missing:
            raise SolverError("a weight's score is not a number", "Check the weights and the second moments")
        mask[equal] = True
    return mask.reshape(score.shape)


def _ranks(grouped: torch.Tensor) -> torch.Tensor:
    """Return how many members of its own block (dimension 3) beat each score."""
    size = grouped.shape[3]
    if size > _PAIRWISE:
        return grouped.argsort(dim=3, descending=True, stable=True).argsort(dim=3)
    members = grouped.unbind(3)
    ranks = [torch.zeros_like(member, dtype=torch.uint8) for member in members]
    for later in range(size):
        for earlier in range(later):
            beats = members[later] > members[earlier]
            ranks[earlier] += beats
            ranks[later] += ~beats
    return torch.stack(ranks, 3)
