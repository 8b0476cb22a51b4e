"""Size of a torch module: parameters, non-zero parameters, multiply-accumulates, memory of activations."""

from __future__ import annotations

import copy
import dataclasses
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


@dataclasses.dataclass(frozen=True, slots=True)
class ModuleSize:
    """Parameters, those that are not zero, and multiply-accumulates for one picture."""

    params: int
    nonzero: int
    macs: int


def measure_size(module: nn.Module, input_size: tuple[int, int, int]) -> ModuleSize:
    """Count a module; `input_size` is (channels, height, width)."""
    parameters = list(module.parameters())
    return ModuleSize(
        params=sum(p.numel() for p in parameters),
        nonzero=sum(int(torch.count_nonzero(p)) for p in parameters),
        macs=count_macs(module, input_size),
    )


def count_macs(module: nn.Module, input_size: tuple[int, int, int]) -> int:
    """Count multiply-accumulates of one forward pass: convolutions, matrix products and attention, as torch counts."""
    counter = FlopCounterMode(display=False)
    # a copy: in training mode BatchNorm would note the picture of zeros, and the counter trips over expanded parameters
    copied = copy.deepcopy(module).eval().requires_grad_(False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:  # torch counts no fused attention on a processor
        copied(torch.zeros(1, *input_size))
    return int(counter.get_total_flops()) // 2


def peak_activation_bytes(module: nn.Module, input_size: tuple[int, int, int]) -> int:
    """Return the most memory that activations of one picture take at a time, the picture included.

    Weights do not count. Every tensor that an operation makes counts from then on until nothing refers to it any
    more, as torch runs the model; a runtime that works in place needs less.
    """
    picture, copied = torch.zeros(1, *input_size), copy.deepcopy(module).eval()
    memory = _Memory([*copied.parameters(), *copied.buffers()])
    memory.see(picture)
    with torch.no_grad(), memory:
        copied(picture)
    return memory.peak


class _Memory(TorchDispatchMode):
    """Follows every storage that operations make, from its first tensor to its end."""

    def __init__(self, weights: Sequence[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._alive = {weight.untyped_storage()._cdata for weight in weights}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, torch.Tensor):
                self.see(tensor)
        return found

    def see(self, tensor: torch.Tensor) -> None:
        """Count a tensor's storage, once."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._alive:
            return
        self._alive.add(key)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._end, key, storage.nbytes())

    def _end(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self.now -= size
