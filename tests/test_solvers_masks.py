"""Masks: exact counts, the best of every pattern, ties, and what is refused."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from taco.errors import SolverError
from taco.solvers.masks import keep_largest
from taco.solvers.spec import Spec


@dataclasses.dataclass(frozen=True, slots=True)
class Scores:
    """Random scores; few distinct values make ties."""

    groups: int
    rows: int
    blocks: int
    size: int
    stride: int
    values: int
    seed: int
    dtype: torch.dtype

    def make(self) -> torch.Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        shape = (self.groups, self.rows, self.blocks * self.size * self.stride)
        return torch.randint(self.values, shape, generator=generator).to(self.dtype)


scores = st.builds(
    Scores,
    groups=st.integers(1, 4),
    rows=st.integers(1, 5),
    blocks=st.integers(1, 4),
    size=st.integers(1, 11),
    stride=st.sampled_from([1, 3, 9]),
    values=st.sampled_from([1, 2, 5, 1_000_000]),
    seed=st.integers(0, 2**31),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)


def by_block(x: torch.Tensor, spec: Spec) -> torch.Tensor:
    """(groups, rows, blocks, size), by the indices that the spec itself gives."""
    return x[..., spec.blocks(x.shape[2])]


@given(scores, st.floats(0, 0.99))
def test_unstructured_removes_the_smallest_of_the_layer_and_exactly_as_many_as_asked(
    scores: Scores, sparsity: float
) -> None:
    score, spec = scores.make(), Spec.unstructured(sparsity)
    mask = keep_largest(score, spec)
    assert mask.shape == score.shape
    assert int((~mask).sum()) == spec.removed(*score.shape)
    if mask.any() and not mask.all():
        assert score[mask].min() >= score[~mask].max()


@given(scores, st.data())
def test_nm_keeps_the_n_largest_of_every_block_along_the_stride(scores: Scores, data: st.DataObject) -> None:
    spec = Spec.nm(data.draw(st.integers(1, scores.size)), scores.size, scores.stride)
    score = scores.make()
    mask = keep_largest(score, spec)
    kept, grouped = by_block(mask, spec), by_block(score, spec)
    assert (kept.sum(-1) == spec.n).all()
    worst_kept = grouped.masked_fill(~kept, torch.inf).amin(-1)
    best_gone = grouped.masked_fill(kept, -torch.inf).amax(-1)
    assert (worst_kept >= best_gone).all()


@given(scores, st.floats(0, 0.99))
def test_blocks_go_together_and_those_worth_least_in_sum(scores: Scores, sparsity: float) -> None:
    spec = Spec.block(scores.size, sparsity, scores.stride)
    score = scores.make()
    mask = keep_largest(score, spec)
    kept = by_block(mask, spec)
    assert (kept.all(-1) == kept.any(-1)).all()
    assert int((~mask).sum()) == spec.removed(*score.shape)
    worth, whole = by_block(score, spec).sum(-1), kept.all(-1)
    if whole.any() and not whole.all():
        assert worth[whole].min() >= worth[~whole].max()


@given(scores)
def test_nm_does_not_depend_on_which_rows_come_along(scores: Scores) -> None:
    spec = Spec.nm(max(1, scores.size // 2), scores.size, scores.stride)
    score = scores.make()
    alone = torch.cat([keep_largest(score[:, r : r + 1], spec) for r in range(scores.rows)], 1)
    assert torch.equal(keep_largest(score, spec), alone)


@dataclasses.dataclass(frozen=True, slots=True)
class Tie:
    """Equal scores and which of them stay."""

    name: str
    score: tuple[float, ...]
    spec: Spec
    kept: tuple[int, ...]


TIES = (
    Tie("unstructured", (1, 1, 1, 1), Spec.unstructured(0.5), (1, 1, 0, 0)),
    Tie("unstructured beside a larger", (1, 1, 1, 2), Spec.unstructured(0.5), (1, 0, 0, 1)),
    Tie("nm", (3, 3, 3, 3), Spec.nm(1, 4), (1, 0, 0, 0)),
    Tie("nm wide", (0, *[7] * 11), Spec.nm(3, 12), (0, 1, 1, 1, *[0] * 8)),
    Tie("nm strided", (5, 1, 5, 1), Spec.nm(1, 2, stride=2), (1, 1, 0, 0)),
    Tie("block", (2, 0, 1, 1, 0, 2), Spec.block(2, 1 / 3), (1, 1, 1, 1, 0, 0)),
)


@pytest.mark.parametrize("tie", TIES, ids=lambda tie: tie.name)
def test_of_equals_the_first_stay(tie: Tie) -> None:
    mask = keep_largest(torch.tensor(tie.score)[None, None], tie.spec)
    assert mask.flatten().int().tolist() == list(tie.kept)


def test_an_unstructured_mask_compares_across_groups_and_rows() -> None:
    score = torch.arange(24.0).reshape(2, 3, 4)
    assert torch.equal(keep_largest(score, Spec.unstructured(0.75)), score >= 18)


@settings(max_examples=20)
@given(st.sampled_from([Spec.nm(2, 4), Spec.nm(2, 4, 9), Spec.block(4, 0.5), Spec.block(4, 0.5, 9)]))
def test_columns_that_are_no_multiple_of_a_block_are_refused(spec: Spec) -> None:
    with pytest.raises(SolverError, match=r"10 columns are no multiple"):
        keep_largest(torch.ones(1, 2, 10), spec)


def test_scores_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(SolverError, match="not a number"):
        keep_largest(torch.full((1, 2, 4), torch.nan), Spec.unstructured(0.5))


def test_scores_are_not_modified() -> None:
    score = torch.rand(2, 3, 8)
    before = score.clone()
    for spec in (Spec.unstructured(0.5), Spec.nm(2, 4), Spec.block(4, 0.5)):
        keep_largest(score, spec)
    assert torch.equal(score, before)
