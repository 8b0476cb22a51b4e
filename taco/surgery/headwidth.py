"""The width of attention heads: which dimensions of queries, keys and values leave, and how queries make up for it.

Queries q and keys k of one head meet only in q^T k. Without some dimensions of k, the best that the others can do is
k ~ R k_S with R = K_{:,S} (K_SS)^-1, K = E[k k^T]; then q^T k ~ (R^T q)^T k_S, so R^T goes into the rows that make the
queries. Which dimensions leave is decided by greedy OBS with W = Q^(1/2), Q = E[q q^T], and H = 2 K: the expected
squared change of the logits. Values are judged at `proj`, head by head, so that all heads keep as many.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from timm.layers import Attention
from torch import nn

from taco.graph.attention import heads_of
from taco.moments.sums import Moments
from taco.solvers.channels import refit
from taco.surgery.removal import Reader, Removal, greedy_removal, removal_in_order
from taco.surgery.shrink import Axis
from taco.units import Unit


def attention_of(model: nn.Module, unit: Unit) -> Attention:
    """Return the attention that a unit of heads belongs to."""
    attention = model.get_submodule(unit.name.rpartition(".")[0])
    assert isinstance(attention, Attention)  # noqa: S101 - find_units made the unit
    return attention


def head_width_removal(attention: Attention, reading: Moments, projecting: Moments, damping: float) -> Removal:
    """Return the order in which dimensions leave: lanes are queries and keys of every head, then values of every head.

    Args:
        attention: Not modified.
        reading: Moments at the input of `qkv`.
        projecting: Moments at the input of `proj`.
        damping: Multiple of mean(diag H) added to the diagonal.

    Raises:
        SolverError: A damped matrix is not positive definite.
    """
    heads, width = heads_of(attention)
    pairs = [
        greedy_removal([Reader(_root(Q), 2.0 * K, torch.arange(width)[:, None])], 1, damping)
        for Q, K in zip(*_query_key_moments(attention, reading), strict=True)
    ]
    W, H = attention.proj.weight.detach().double(), projecting.centred_H[0]
    columns = torch.arange(heads * width)[:, None]
    values = [
        greedy_removal([Reader(W, H, columns[head * width : (head + 1) * width])], 1, damping) for head in range(heads)
    ]
    turns = torch.stack([v.removed[0] + head * width for head, v in enumerate(values)], 1).flatten()
    joint = removal_in_order([Reader(W, H, columns)], turns, 1, damping)
    loss = joint.loss[::heads] + torch.stack([pair.loss for pair in pairs]).mean(0)
    return Removal(torch.cat([r.removed for r in (*pairs, *values)]), loss)


def head_width_masks(unit: Unit, attention: Attention, keep: torch.Tensor) -> dict[Axis, torch.Tensor]:
    """Return what stays of the rows of `qkv` and the columns of `proj`.

    Args:
        unit: The width of the heads.
        attention: Dense.
        keep: (2 * heads, kept) int64, from `Removal.keep`.
    """
    heads, width = heads_of(attention)
    pairs, values = (
        torch.zeros(heads, width, dtype=torch.bool).scatter_(1, lanes, value=True).flatten()
        for lanes in keep.split(heads)
    )
    return {Axis.of(unit.producers[0]): torch.cat([pairs, pairs, values]), Axis.of(unit.consumers[0]): values}


def mix_queries(attention: Attention, reading: Moments, keep: torch.Tensor, damping: float) -> None:
    """Let the queries that stay make up for the keys that go; in place, nothing is cut yet.

    Args:
        attention: It must belong to the caller.
        reading: Moments at the input of `qkv`.
        keep: (2 * heads, kept) int64, from `Removal.keep`.
        damping: Multiple of mean(diag K) added to its diagonal.
    """
    heads, width = heads_of(attention)
    _, keys = _query_key_moments(attention, reading)
    identity = torch.eye(width, dtype=torch.float64)
    with torch.no_grad():
        for head, lane in enumerate(keep[:heads]):
            R = refit(identity, 2.0 * keys[head], lane, damping)
            rows = slice(head * width, (head + 1) * width)
            for tensor in (attention.qkv.weight, attention.qkv.bias):
                if tensor is not None:
                    tensor[lane + head * width] = (R.T @ tensor[rows].double()).to(tensor.dtype)


def _query_key_moments(attention: Attention, reading: Moments) -> tuple[torch.Tensor, torch.Tensor]:
    """Return E[q q^T] and E[k k^T] of every head, each (heads, width, width) float64."""
    heads, width = heads_of(attention)
    W = attention.qkv.weight.detach().double().view(3, heads, width, -1)[:2]
    second, mean = reading.second[0], reading.mean[0]
    found = W @ second @ W.mT
    if attention.qkv.bias is not None:
        b = attention.qkv.bias.detach().double().view(3, heads, width)[:2]
        cross = (W @ mean)[..., :, None] * b[..., None, :]
        found = found + cross + cross.mT + b[..., :, None] * b[..., None, :]
    return found[0], found[1]


def _root(Q: torch.Tensor) -> torch.Tensor:
    """Return the symmetric square root of a positive semi-definite matrix."""
    values, vectors = torch.linalg.eigh(Q)
    root: torch.Tensor = vectors * values.clamp(min=0).sqrt() @ vectors.T
    return root


def reading_of(unit: Unit, moments: Mapping[str, Moments]) -> Moments:
    """Return the moments at the input of `qkv`."""
    return moments[unit.producers[0].module]
