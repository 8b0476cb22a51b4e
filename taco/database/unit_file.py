"""The file of one layer: its weights at every level, packed, with the masks they were solved under; or of a unit."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch

from taco.database.index import REPAIR, ChannelEntry, UnitEntry
from taco.errors import InputError
from taco.files import write_atomically

FOLDER = "units"


def write_unit(folder: Path, layer: str, tensors: Mapping[str, torch.Tensor]) -> tuple[str, str, int]:
    """Write a layer's file under a name that tells its content, so that no other content is ever replaced.

    Returns:
        Name beside the index, sha256, bytes.

    Raises:
        TacoError: It cannot be written.
    """
    content = safetensors.torch.save({name: tensors[name] for name in sorted(tensors)})
    digest = hashlib.sha256(content).hexdigest()
    name = f"{FOLDER}/{re.sub(r'[^A-Za-z0-9_.-]', '_', layer)}-{digest[:12]}.safetensors"
    write_atomically(folder / name, content)
    return name, digest, len(content)


def read_unit(folder: Path, entry: UnitEntry | ChannelEntry) -> dict[str, torch.Tensor]:
    """Read a layer's file, every time against its hash.

    Raises:
        InputError: It is missing or damaged.
    """
    content = _content(folder, entry)
    tensors: dict[str, torch.Tensor] = safetensors.torch.load(content)
    return tensors


def is_whole(folder: Path, entry: UnitEntry | ChannelEntry) -> bool:
    """Tell whether a layer's file is there with the content that the index names."""
    try:
        _content(folder, entry)
    except InputError:
        return False
    return True


def _content(folder: Path, entry: UnitEntry | ChannelEntry) -> bytes:
    path = folder / entry.file
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", REPAIR) from error
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        raise InputError(f"{path} is damaged", REPAIR)
    return content
