"""Packed sparse tensors come back bit for bit, and are as small as they should be."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from taco.errors import TacoError
from taco.sparse.stored import pack, packed_bytes, support, unpack

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int8)


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def sparse(shape: tuple[int, ...], sparsity: float, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = 20 * torch.randn(shape, generator=generator)
    return (values * (torch.rand(shape, generator=generator) >= sparsity)).to(dtype) + 0  # -0 becomes 0


def through_a_file(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return safetensors.torch.load(safetensors.torch.save(tensors))


@given(
    shape=st.lists(st.integers(0, 7), max_size=4).map(tuple),
    sparsity=st.sampled_from([0.0, 0.5, 0.9, 0.99, 1.0]),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 99),
)
def test_every_tensor_comes_back_bit_for_bit(
    shape: tuple[int, ...], sparsity: float, dtype: torch.dtype, seed: int
) -> None:
    tensor = sparse(shape, sparsity, dtype, seed)
    back = unpack("a.b", through_a_file(pack("a.b", tensor)))
    assert back.dtype == tensor.dtype
    assert back.shape == tensor.shape
    assert bits(back) == bits(tensor)


@given(seed=st.integers(0, 99), sparsity=st.floats(0, 1), kept=st.floats(0, 1), dtype=st.sampled_from(DTYPES))
def test_the_mask_comes_back_where_a_kept_weight_is_zero(
    seed: int, sparsity: float, kept: float, dtype: torch.dtype
) -> None:
    tensor = sparse((5, 3, 4), sparsity, dtype, seed)
    mask = (torch.rand(tensor.shape, generator=torch.Generator().manual_seed(seed)) < kept) | (tensor != 0)
    packed = through_a_file(pack("w", tensor, mask))
    assert torch.equal(support("w", packed), mask)
    assert bits(unpack("w", packed)) == bits(tensor)


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d.is_floating_point], ids=str)
def test_negative_zeros_and_what_is_no_number_survive(dtype: torch.dtype) -> None:
    tensor = torch.zeros(40, 50, dtype=dtype)
    tensor[3, 4], tensor[5, 6], tensor[7, 8] = -0.0, float("nan"), float("-inf")
    back = unpack("w", pack("w", tensor))
    assert bits(back) == bits(tensor)
    assert torch.signbit(back[3, 4])
    assert not torch.signbit(back[0, 0])


@pytest.mark.parametrize(
    ("sparsity", "low", "high", "form"),
    [
        (0.5, 0.52, 0.54, "bitmap"),
        (0.95, 0.07, 0.085, "rows"),
        (0.99, 0.014, 0.016, "rows"),
        (0.0, 1.0, 1.001, "dense"),
    ],
)
def test_the_smallest_form_is_taken(sparsity: float, low: float, high: float, form: str) -> None:
    tensor = sparse((256, 1152), sparsity)
    packed = pack("w", tensor)
    share = packed_bytes(packed) / (4 * tensor.numel())
    assert low <= share <= high
    assert f"w|{form}" in packed


def test_columns_of_a_wide_matrix_take_four_bytes_and_of_a_narrow_one_two() -> None:
    wide, narrow = torch.zeros(2, 70_000), torch.zeros(2, 65_536)
    wide[1, 69_999] = narrow[1, 65_535] = 3.0
    assert pack("w", wide)["w|columns"].dtype == torch.uint32
    assert pack("w", narrow)["w|columns"].dtype == torch.uint16
    assert torch.equal(unpack("w", pack("w", wide)), wide)
    assert torch.equal(unpack("w", pack("w", narrow)), narrow)


def test_many_stored_values_need_wide_row_ends() -> None:
    tensor = sparse((300, 4000), 0.94)
    packed = pack("w", tensor)
    assert packed["w|rows"].dtype == torch.uint32
    assert torch.equal(unpack("w", packed), tensor)


def test_several_tensors_share_a_file_and_the_original_stays() -> None:
    one, other = sparse((4, 9), 0.5), sparse((3, 3), 0.9, torch.float64)
    before = one.clone()
    packed = {**pack("one", one), **pack("other", other)}
    unpack("one", packed).fill_(7.0)
    assert torch.equal(unpack("other", packed), other)
    assert torch.equal(one, before)
    full = torch.ones(2, 2)
    unpack("full", stored := pack("full", full)).fill_(7.0)
    assert torch.equal(unpack("full", stored), full)


def test_what_is_missing_or_does_not_fit_is_said() -> None:
    packed = pack("w", sparse((40, 50), 0.99))
    with pytest.raises(TacoError, match="no packed tensor 'v'"):
        unpack("v", packed)
    with pytest.raises(TacoError, match="do not fit together"):
        unpack("w", {**packed, "w|values": packed["w|values"][:-1]})
    rows = torch.from_numpy(packed["w|rows"].numpy()[:-1].copy())
    with pytest.raises(TacoError, match="do not fit together"):
        support("w", {**packed, "w|rows": rows})
    assert unpack("w", packed).shape == (40, 50)
