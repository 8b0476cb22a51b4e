"""Project scores onto a pattern: keep what scores highest, exactly as many as the spec says."""

from __future__ import annotations

import torch

from taco.solvers.spec import Spec


def keep_largest(score: torch.Tensor, spec: Spec) -> torch.Tensor:
    """Return the mask of the pattern that keeps the largest total score, (groups, rows, cols) bool.

    Args:
        score: (groups, rows, cols), what keeping each weight is worth; a block is worth the sum of its members.
        spec: `unstructured` and `block` compare the whole layer, `nm` each block of a row.

    Raises:
        SolverError: The columns are no multiple of a block.
    """
    groups, rows, cols = score.shape
    if spec.pattern == "unstructured":
        return _top(score, round(spec.sparsity * score.numel()))
    blocks = spec.blocks(cols)
    grouped = score[..., blocks]  # (groups, rows, blocks, size)
    if spec.pattern == "nm":
        kept = torch.zeros_like(grouped, dtype=torch.bool)
        kept.scatter_(-1, grouped.topk(spec.n, dim=-1).indices, value=True)
    else:
        worth = grouped.sum(-1)
        kept = _top(worth, round(spec.sparsity * worth.numel()))[..., None].expand(grouped.shape)
    mask = torch.empty(groups, rows, cols, dtype=torch.bool)
    mask[..., blocks] = kept
    return mask


def _top(score: torch.Tensor, removed: int) -> torch.Tensor:
    """Keep all but the `removed` smallest."""
    mask = torch.zeros(score.numel(), dtype=torch.bool)
    mask[score.flatten().topk(score.numel() - removed, sorted=False).indices] = True
    return mask.reshape(score.shape)
