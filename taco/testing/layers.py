"""Random layers and levels for contract suites, and what a solver's answer has to be compared with.

Nothing here uses the solvers' own formulas.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import torch
from hypothesis import strategies as st

from taco.solvers.spec import Spec

MOST_COLUMNS = 256
_MOST_WEIGHTS = 6 * MOST_COLUMNS  # a suite is run often


@dataclasses.dataclass(frozen=True, slots=True)
class Layer:
    """A random layer.

    Attributes:
        groups: Groups of a convolution; one row a group is depthwise.
        rows: Rows a group.
        stride: kh * kw of a convolution.
        blocks: Blocks of four channels; there are blocks * 4 * stride columns.
        samples: Inputs behind the second moments; fewer than columns leave them rank-deficient.
        dead: Columns that are never anything but zero; taken modulo the columns, in all groups.
        scale: Of the inputs squared.
        seed: Of everything random.
        dtype: Of weights and second moments.
    """

    groups: int = 1
    rows: int = 4
    stride: int = 1
    blocks: int = 4
    samples: int = 100
    dead: tuple[int, ...] = ()
    scale: float = 1.0
    seed: int = 0
    dtype: torch.dtype = torch.float64

    @property
    def cols(self) -> int:
        """Columns a group."""
        return 4 * self.stride * self.blocks

    def make(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return W (groups, rows, cols) and H (groups, cols, cols)."""
        generator = torch.Generator().manual_seed(self.seed)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64)

        mixed = normal(self.groups, self.cols, self.cols) @ normal(self.groups, self.cols, self.samples)
        X = mixed / self.cols**0.5 + 0.3 * normal(self.groups, self.cols, self.samples)
        X[:, self.dead_columns] = 0
        W = normal(self.groups, self.rows, self.cols) * torch.exp(0.5 * normal(self.groups, 1, self.cols))
        H = self.scale * 2 * X @ X.transpose(1, 2) / self.samples
        return W.to(self.dtype), H.to(self.dtype)

    @property
    def dead_columns(self) -> list[int]:
        """The columns that are never anything but zero."""
        return sorted({column % self.cols for column in self.dead})


def layers() -> st.SearchStrategy[Layer]:
    """Draw layers of up to 256 columns: groups, depthwise, dead inputs, too few samples, both dtypes."""
    return st.builds(
        Layer,
        groups=st.sampled_from([1, 1, 2, 5]),
        rows=st.sampled_from([1, 2, 6]),
        stride=st.sampled_from([1, 1, 3, 9]),
        blocks=st.integers(1, 7) | st.sampled_from([16, 64]),
        samples=st.sampled_from([3, 20, 100, 600]),
        dead=st.lists(st.integers(0, MOST_COLUMNS), max_size=3).map(tuple),
        scale=st.sampled_from([1e-4, 1.0, 1e4]),
        seed=st.integers(0, 2**31),
        dtype=st.sampled_from([torch.float32, torch.float64]),
    ).filter(lambda layer: layer.cols <= MOST_COLUMNS and layer.groups * layer.rows * layer.cols <= _MOST_WEIGHTS)


def levels(layer: Layer, patterns: Collection[str]) -> list[Spec]:
    """Return a light and a heavy level of some patterns that fit a layer; each cuts something."""
    channels, pick = layer.cols // layer.stride, layer.seed % 2
    every = [
        Spec.unstructured((0.3, 0.5)[pick]),
        Spec.unstructured((0.77, 0.95)[pick]),
        Spec.nm((3, 2)[pick], 4, layer.stride),
        Spec.nm((2, 1)[pick], 4, layer.stride),
        Spec.block(4, (0.25, 0.6)[pick], layer.stride),
        Spec.channels((channels - 1, channels // 2)[pick], layer.stride),
        Spec.channels(1, layer.stride),
    ]
    return [spec for spec in every if spec.pattern in patterns and spec.removed(layer.groups, layer.rows, layer.cols)]


def damped(H: torch.Tensor, damping: float) -> torch.Tensor:
    """Return H + damping * mean(diag H) * I a group, dead inputs decoupled with H_ii = 1; float64."""
    A = H.double()
    dead = A.diagonal(dim1=1, dim2=2) == 0
    ridge = damping * A.diagonal(dim1=1, dim2=2).mean(1, keepdim=True)
    return A * ~(dead[:, :, None] | dead[:, None, :]) + torch.where(dead, 1.0, ridge).diag_embed()


def live(W: torch.Tensor, H: torch.Tensor) -> torch.Tensor:
    """Return W in float64 with the weights of dead inputs zero."""
    return W.double() * (H.diagonal(dim1=1, dim2=2) != 0)[:, None]


def loss(V: torch.Tensor, W: torch.Tensor, H: torch.Tensor, damping: float) -> float:
    """Return 1/2 tr((V - W) H_damped (V - W)^T), summed over the groups."""
    D = V.double() - live(W, H)
    return 0.5 * float(torch.einsum("grc,gcd,grd->", D, damped(H, damping), D))


def optimum(mask: torch.Tensor, W: torch.Tensor, H: torch.Tensor, damping: float) -> torch.Tensor:
    """Return the least-squares optimum on a mask, row by row from the normal equations."""
    V = torch.zeros(W.shape, dtype=torch.float64)
    for g, (weights, A) in enumerate(zip(live(W, H), damped(H, damping), strict=True)):
        for r, w in enumerate(weights):
            S = mask[g, r].nonzero().flatten()
            V[g, r, S] = torch.linalg.solve(A[S][:, S], (A @ w)[S])
    return V
