"""What a compressed layer must look like: which weights may stay, and on which grid."""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch

from taco.errors import SolverError

Pattern = Literal["dense", "unstructured", "nm", "block", "channels"]


@dataclasses.dataclass(frozen=True, slots=True)
class Quantization:
    """A uniform integer grid.

    Attributes:
        bits: 2 to 16.
        symmetric: Zero point 0 and as many steps on either side; else the range is that of the weights.
        per_channel: One scale a row; else one for the layer.
    """

    bits: int
    symmetric: bool = True
    per_channel: bool = True


@dataclasses.dataclass(frozen=True, slots=True)
class Spec:
    """One compression level of one layer. Make it with the class methods.

    Attributes:
        pattern: What kind of mask.
        sparsity: Share of the weights (`unstructured`) or blocks (`block`) of the whole layer that go, rounded.
        n: Weights of each m that stay (`nm`).
        size: Columns a block: m of `nm`, the size of a `block`, the columns a channel of `channels`.
        stride: The members of a block stand that many columns apart: kh * kw makes blocks run along the input channels
            of a convolution.
        keep: Channels that stay (`channels`).
        quantization: The grid of what stays; None is none.
    """

    pattern: Pattern = "dense"
    sparsity: float = 0.0
    n: int = 0
    size: int = 1
    stride: int = 1
    keep: int = 0
    quantization: Quantization | None = None

    @classmethod
    def unstructured(cls, sparsity: float) -> Spec:
        """Single weights go, the cheapest of the whole layer."""
        return cls("unstructured", _share(sparsity))

    @classmethod
    def nm(cls, n: int, m: int, stride: int = 1) -> Spec:
        """Exactly n of every m weights stay."""
        if not 0 < n <= m or stride < 1:
            raise SolverError(f"{n}:{m} with stride {stride} is no N:M pattern", "Keep 1 to m of m, as in 2:4")
        return cls("nm", 1.0 - n / m, n=n, size=m, stride=stride)

    @classmethod
    def block(cls, size: int, sparsity: float, stride: int = 1) -> Spec:
        """Blocks of `size` weights of one row go together."""
        if size < 1 or stride < 1:
            raise SolverError(f"blocks of {size} with stride {stride} do not exist", "Give whole numbers from 1")
        return cls("block", _share(sparsity), size=size, stride=stride)

    @classmethod
    def channels(cls, keep: int, group: int = 1) -> Spec:
        """All but `keep` input channels of `group` adjacent columns go, in each group of a grouped layer."""
        if keep < 0 or group < 1:
            raise SolverError(f"{keep} channels of {group} columns cannot be kept", "Give whole numbers from 1")
        return cls("channels", size=group, keep=keep)

    @classmethod
    def quantize(cls, bits: int, symmetric: bool = True, per_channel: bool = True) -> Spec:
        """All weights stay, on an integer grid."""
        if not 2 <= bits <= 16:
            raise SolverError(f"{bits} bits are not supported", "Give 2 to 16 bits")
        return cls(quantization=Quantization(bits, symmetric, per_channel))

    def then(self, after: Spec) -> Spec:
        """Return this pattern followed by the quantisation of `after`.

        Raises:
            SolverError: `after` is no bare quantisation, or this one is quantised already.
        """
        if after.pattern != "dense" or after.quantization is None or self.quantization is not None:
            raise SolverError("only a quantisation can follow a pattern", "Write Spec.nm(2, 4).then(Spec.quantize(8))")
        return dataclasses.replace(self, quantization=after.quantization)

    def blocks(self, cols: int) -> torch.Tensor:
        """Return the columns of every block of a row, (blocks, size) int64.

        Raises:
            SolverError: The columns are no multiple of a block.
        """
        width = self.size * self.stride
        if cols % width:
            raise SolverError(
                f"{cols} columns are no multiple of {width}, as blocks of {self.size} with stride {self.stride} need",
                "Leave this layer dense, or take unstructured sparsity",
            )
        return torch.arange(cols).reshape(-1, self.size, self.stride).transpose(1, 2).reshape(-1, self.size)

    def removed(self, groups: int, rows: int, cols: int) -> int:
        """Return how many weights of a layer the mask removes exactly."""
        blocks = groups * rows * len(self.blocks(cols))
        if self.pattern == "channels":
            return max(0, blocks - groups * rows * self.keep) * self.size
        if self.pattern == "nm":
            return blocks * (self.size - self.n)
        return round(self.sparsity * blocks) * self.size


def _share(sparsity: float) -> float:
    if not 0.0 <= sparsity < 1.0:
        raise SolverError(f"a sparsity of {sparsity} does not exist", "Give the share that goes, from 0 to below 1")
    return sparsity
