"""An ONNX file whose weights are mostly zero, as few bytes to send: `taco unpack` makes the very same file of it.

The packed file is safetensors: the ONNX file without the bytes of its sparse weights, those weights packed
(`taco.sparse.stored`), where they belong, and the sha256 that the result must have.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from taco.errors import BundleError, TacoError
from taco.sparse.stored import pack, packed_bytes, unpack

PACKED_NAME = "model.sparse.safetensors"
_FORMAT = "taco-sparse-onnx-1"
_LEAST_BYTES = 1024
_REST, _OFFSETS = "rest", "offsets"


def pack_model(file: Path) -> bytes:
    """Return an ONNX file in packed form; no larger than the file but for a few hundred bytes.

    Args:
        file: Weights inside the file, float32.
    """
    content = file.read_bytes()
    tensors: dict[str, torch.Tensor] = {}
    offsets: list[int] = []
    rest, done = [], 0
    for offset, raw, rows in _weights(content):
        weight = torch.from_numpy(np.frombuffer(raw, np.float32).copy()).reshape(rows, -1)
        packed = pack(str(len(offsets)), weight)
        if packed_bytes(packed) >= len(raw):
            continue
        tensors |= packed
        offsets.append(offset)
        rest.append(content[done:offset])
        done = offset + len(raw)
    rest.append(content[done:])
    tensors[_REST] = torch.frombuffer(bytearray(b"".join(rest)), dtype=torch.uint8)
    tensors[_OFFSETS] = torch.tensor(offsets, dtype=torch.int64)
    facts = {"format": _FORMAT, "sha256": hashlib.sha256(content).hexdigest()}
    return safetensors.torch.save(tensors, facts)


def unpack_model(file: Path) -> bytes:
    """Return the ONNX file that was packed, byte for byte.

    Raises:
        BundleError: The file is no packed model, or it is damaged.
    """
    try:
        with safe_open(file, "pt") as opened:
            facts = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (it is no dictionary)
    except (OSError, SafetensorError) as error:
        raise BundleError(f"{file} cannot be read: {error}", "Copy it again") from error
    if facts.get("format") != _FORMAT or not {_REST, _OFFSETS} <= tensors.keys():
        raise BundleError(f"{file} is no packed model of this version", f"Give a bundle's {PACKED_NAME}")
    try:
        content = _join(tensors)
    except (TacoError, ValueError, RuntimeError, IndexError, TypeError) as error:
        raise BundleError(f"{file} is damaged: {error}", "Copy it again") from error
    if hashlib.sha256(content).hexdigest() != facts.get("sha256"):
        raise BundleError(f"{file} is damaged: the model inside has another hash", "Copy it again")
    return content


def _join(tensors: dict[str, torch.Tensor]) -> bytes:
    rest = tensors[_REST].numpy().tobytes()
    parts, taken, length = [], 0, 0
    for number, offset in enumerate(tensors[_OFFSETS].tolist()):
        gap = offset - length
        parts += [rest[taken : taken + gap], unpack(str(number), tensors).numpy().tobytes()]
        taken += gap
        length = offset + len(parts[-1])
    return b"".join([*parts, rest[taken:]])


def _weights(content: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Yield where each large float32 weight lies in the file, its bytes, and its rows."""
    import onnx

    start = 0
    for tensor in onnx.load_model_from_string(content).graph.initializer:
        raw = tensor.raw_data
        if tensor.data_type != onnx.TensorProto.FLOAT or len(raw) < _LEAST_BYTES or not tensor.dims[0]:
            continue
        found = content.find(raw, start)
        if found >= 0:  # written in another order than it is read: left as it is
            yield found, raw, int(tensor.dims[0])
            start = found + len(raw)
