"""Weights that are mostly zero, as few bytes: which positions are stored, and the values there.

Positions are a bitmap (one bit a weight) or compressed sparse rows (a column a value, 2 bytes up to 65,536 columns),
whichever is smaller; nothing is gained on a full tensor, which stays as it is. A mask may ask for positions whose value
happens to be zero, so that what is stored tells which weights were kept, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from taco.errors import TacoError

Array = npt.NDArray[Any]
_BITS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
_SHORT = 2**16
_PARTS = ("shape", "dense", "bitmap", "columns", "rows", "values")


def pack(name: str, tensor: torch.Tensor, mask: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    """Return the tensors that `unpack` makes `tensor` of, bit for bit.

    Args:
        name: Prefix of the keys, which are "name|part".
        tensor: Any shape, any real dtype.
        mask: Of the tensor's shape, bool: positions to store whatever their value. What is not +0 is always stored.

    Returns:
        The smallest of the three forms, ready for safetensors.
    """
    shape = torch.tensor(tensor.shape, dtype=torch.int64)
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    stored = _stored(flat)
    if mask is not None:
        stored |= mask.detach().cpu().contiguous().reshape(-1).numpy()
    values = flat[torch.from_numpy(stored)]
    forms = [{"dense": flat}] if stored.all() else []
    forms.append({"bitmap": torch.from_numpy(np.packbits(stored)), "values": values})
    if tensor.ndim and tensor.numel():
        columns, rows = _compressed_rows(stored.reshape(tensor.shape[0], -1))
        forms.append({"columns": torch.from_numpy(columns), "rows": torch.from_numpy(rows), "values": values})
    best = min(forms, key=packed_bytes)
    return {f"{name}|{part}": value for part, value in {"shape": shape, **best}.items()}


def unpack(name: str, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return the tensor that `pack(name, ...)` was given.

    Raises:
        TacoError: There is none of that name, or its parts do not fit together.
    """
    parts = _parts(name, tensors)
    shape = tuple(parts["shape"].tolist())
    if "dense" in parts:
        return parts["dense"].clone().reshape(shape)
    stored = _support(name, parts)
    flat = torch.zeros(len(stored), dtype=parts["values"].dtype)
    flat[torch.from_numpy(stored)] = parts["values"]
    return flat.reshape(shape)


def support(name: str, tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return the positions that are stored, bool of the tensor's shape: the mask it was packed with and all but +0.

    Raises:
        TacoError: As `unpack`.
    """
    parts = _parts(name, tensors)
    return torch.from_numpy(_support(name, parts)).reshape(tuple(parts["shape"].tolist()))


def packed_bytes(tensors: Mapping[str, torch.Tensor]) -> int:
    """Return how many bytes tensors take, without the file's header."""
    return sum(t.numel() * t.element_size() for t in tensors.values())


def _stored(flat: torch.Tensor) -> npt.NDArray[np.bool_]:
    """Every value whose bits are not all zero: -0 counts, so that nothing is lost."""
    size = flat.element_size()
    bits = flat.view(torch.uint8).numpy().view(_BITS[size]) if flat.numel() else np.zeros(0, _BITS[size])
    return np.asarray(bits != 0)


def _compressed_rows(stored: npt.NDArray[np.bool_]) -> tuple[Array, Array]:
    """Columns of the stored values, row by row, and how many values precede each row's end."""
    columns = np.nonzero(stored)[1]
    ends = stored.sum(1).cumsum()
    return columns.astype(_index(stored.shape[1])), ends.astype(_index(len(columns) + 1))


def _index(below: int) -> type[np.uint16] | type[np.uint32]:
    return np.uint16 if below <= _SHORT else np.uint32


def _parts(name: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    parts = {part: tensors[f"{name}|{part}"] for part in _PARTS if f"{name}|{part}" in tensors}
    if "shape" not in parts or not ("dense" in parts or {"bitmap", "values"} <= parts.keys() or "rows" in parts):
        raise TacoError(f"no packed tensor {name!r} is there")
    return parts


def _support(name: str, parts: Mapping[str, torch.Tensor]) -> npt.NDArray[np.bool_]:
    """Which of the flattened positions are stored."""
    shape = parts["shape"].tolist()
    size = int(np.prod(shape, dtype=np.int64))
    if "dense" in parts:
        return np.ones(size, np.bool_)
    try:
        if "bitmap" in parts:
            stored = np.unpackbits(parts["bitmap"].numpy(), count=size).astype(np.bool_)
        else:
            stored = np.zeros(size, np.bool_)
            counts: Array = np.diff(parts["rows"].numpy().astype(np.int64), prepend=0)
            first = np.arange(shape[0], dtype=np.int64) * (size // shape[0])
            stored[np.repeat(first, counts) + parts["columns"].numpy()] = True
        fits = int(stored.sum()) == len(parts["values"])
    except (ValueError, IndexError):
        fits = False
    if not fits:
        raise TacoError(f"the parts of the packed tensor {name!r} do not fit together")
    return stored
