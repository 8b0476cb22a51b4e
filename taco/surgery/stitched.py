"""Compressed models on disk: what differs from timm's architecture as JSON, and all tensors as safetensors.

Nothing is unpickled and no code is stored. A model is read back by building timm's, leaving out blocks, giving tensors
their new shapes and writing down the sizes that modules keep of themselves; only sizes that this file names are set.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import timm
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from torch import nn

from taco.errors import BundleError
from taco.files import write_atomically
from taco.model import reparameterised

ARCHITECTURE, TENSORS = "architecture.json", "model.safetensors"
_SIZES = (
    *("in_channels", "out_channels", "groups", "in_features", "out_features", "num_features", "channels"),
    *("normalized_shape", "num_heads", "head_dim", "attn_dim", "scale", "head_hidden_size", "embed_dim", "num_classes"),
)
Size = int | float | list[int]


class Architecture(BaseModel):
    """How a compressed model differs from one that timm builds.

    Attributes:
        model: timm's name.
        arguments: For `timm.create_model`.
        dropped: Blocks that were left out.
        shapes: Tensor -> shape, where it differs or where timm's model has no such tensor.
        sizes: Module -> sizes that it keeps of itself, where they differ.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    model: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    shapes: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    sizes: dict[str, dict[str, Size]] = Field(default_factory=dict)


def skeleton(model: str, arguments: dict[str, Any]) -> nn.Module:
    """Build timm's model with random weights, reparameterised, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        return reparameterised(timm.create_model(model, **arguments)).eval().requires_grad_(False)


def describe(module: nn.Module, model: str, arguments: dict[str, Any]) -> Architecture:
    """Compare a compressed model with the one that timm builds.

    Args:
        module: The compressed model.
        model: timm's name of what it was made from.
        arguments: For `timm.create_model`.

    Raises:
        BundleError: It differs in a way that cannot be written down.
    """
    dense = skeleton(model, arguments)
    dropped = tuple(
        name
        for name, block in dense.named_modules()
        if _there(module, name) and isinstance(module.get_submodule(name), nn.Identity) and _learns(block)
    )
    _drop(dense, dropped)
    before, now = dict(_tensors(dense)), dict(_tensors(module))
    if missing := sorted(before.keys() - now.keys()):
        raise BundleError(f"{missing[0]} is missing in the compressed {model}", "Report this")
    shapes = {n: tuple(t.shape) for n, t in now.items() if n not in before or t.shape != before[n].shape}
    sizes = {}
    for name, part in module.named_modules():
        kept = vars(dense.get_submodule(name))
        changed = {k: _plain(v) for k, v in vars(part).items() if k in _SIZES and v != kept.get(k) and v is not None}
        if changed:
            sizes[name] = changed
    return Architecture(model=model, arguments=arguments, dropped=dropped, shapes=shapes, sizes=sizes)


def save_model(module: nn.Module, architecture: Architecture, folder: Path) -> None:
    """Write a compressed model; non-persistent buffers are written too.

    Args:
        module: The compressed model.
        architecture: From `describe`.
        folder: Must exist.
    """
    tensors = {name: tensor.detach().contiguous().clone() for name, tensor in _tensors(module)}
    write_atomically(folder / TENSORS, safetensors.torch.save(tensors))
    write_atomically(folder / ARCHITECTURE, (architecture.model_dump_json(indent=2) + "\n").encode())


def load_model(folder: Path) -> nn.Module:
    """Read a compressed model back, in eval mode, frozen.

    Raises:
        BundleError: A file is missing or damaged, or they do not fit each other.
    """
    try:
        architecture = Architecture.model_validate(json.loads((folder / ARCHITECTURE).read_bytes()))
        tensors = safetensors.torch.load((folder / TENSORS).read_bytes())
    except (OSError, ValueError, ValidationError, SafetensorError) as error:
        raise BundleError(f"the model in {folder} cannot be read: {error}", "Export it again") from error
    return rebuild(architecture, tensors)


def rebuild(architecture: Architecture, tensors: dict[str, torch.Tensor]) -> nn.Module:
    """Build a compressed model from its description and its tensors.

    Raises:
        BundleError: The description does not fit timm's model or the tensors.
    """
    if not timm.is_model(architecture.model):
        raise BundleError(f"timm has no model named {architecture.model!r}", "Install the timm that it was made with")
    module = skeleton(architecture.model, dict(architecture.arguments))
    try:
        _drop(module, architecture.dropped)
        for name, sizes in architecture.sizes.items():
            for key, value in sizes.items():
                if key not in _SIZES:
                    raise BundleError(f"{key!r} of {name} is not a size", "The file may have been tampered with")
                setattr(module.get_submodule(name), key, tuple(value) if isinstance(value, list) else value)
        expected = {name: tuple(tensor.shape) for name, tensor in _tensors(module)} | architecture.shapes
        found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if wrong := sorted(set(expected.items()) ^ set(found.items())):
            raise BundleError(f"{wrong[0][0]} does not fit {architecture.model}", "Export it again")
        for name, tensor in tensors.items():
            _place(module, name, tensor)
    except AttributeError as error:
        raise BundleError(f"{architecture.model} has changed: {error}", "Install the timm it was made with") from error
    return module


def _tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _place(module: nn.Module, name: str, tensor: torch.Tensor) -> None:
    owner_name, _, key = name.rpartition(".")
    owner = module.get_submodule(owner_name)
    if key in owner._buffers:
        owner._buffers[key] = tensor
    elif key in owner._parameters:
        setattr(owner, key, nn.Parameter(tensor, requires_grad=False))
    else:
        raise AttributeError(f"{owner_name} has no {key}")


def _drop(module: nn.Module, names: tuple[str, ...]) -> None:
    for name in names:
        module.get_submodule(name)  # a name that is not there is an error; setting would add it
        module.set_submodule(name, nn.Identity())


def _learns(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())


def _there(module: nn.Module, name: str) -> bool:
    try:
        module.get_submodule(name)
    except AttributeError:
        return False
    return bool(name)


def _plain(value: Any) -> Size:
    if isinstance(value, tuple | list):
        return [int(v) for v in value]
    assert isinstance(value, int | float)  # noqa: S101 - _SIZES are numbers
    return value
