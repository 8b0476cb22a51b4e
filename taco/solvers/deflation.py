"""A preconditioner for principal submatrices: the few large eigenvalues of A dealt with, the rest left as it is.

Inputs that are nearly copies of each other give A a few very large eigenvalues, and conjugate gradients as many rounds
as their ratio to the rest asks. With A = U L U^T + (the rest, at most mu), take M = mu I + U (L - mu) U^T; its
restriction to a row's columns S is inverted by the identity of Woodbury,
    mu M_SS^-1 = I - U_S (mu (L - mu)^-1 + U_S^T U_S)^-1 U_S^T,
one small system a row (Frangella, Tropp and Udell 2023, with exact leading eigenvectors in place of a sketch).
"""

from __future__ import annotations

import dataclasses

import torch

#: Eigenvectors: what forming U_S^T U_S costs grows with the square, and what it saves hardly beyond.
_RANK, _SPARE, _PASSES = 128, 16, 3
_STRIPE = 16
_LEAST = 1e-3  # of mu: an eigenvalue no larger than the rest is no use, and must not be divided by


@dataclasses.dataclass(frozen=True, eq=False)
class Deflation:
    """The leading eigenvectors of a matrix.

    Attributes:
        U: (cols, rank) float32, orthonormal.
        weight: (rank,) float32, mu / (L - mu).
    """

    U: torch.Tensor
    weight: torch.Tensor

    @classmethod
    def of(cls, A: torch.Tensor) -> Deflation:
        """Find them by subspace iteration, always the same ones.

        Args:
            A: (cols, cols) float32, positive definite.
        """
        cols = len(A)
        rank = max(1, min(_RANK, cols // 4))
        start = torch.Generator().manual_seed(cols)
        Q = torch.randn(cols, min(cols, rank + _SPARE), generator=start)
        for _ in range(_PASSES):
            Q = torch.linalg.qr(A @ Q).Q
        small = Q.T @ (A @ Q)
        L, V = torch.linalg.eigh((small + small.T) / 2)
        mu = L[-rank]
        return cls((Q @ V)[:, -rank:].contiguous(), mu / (L[-rank:] - mu).clamp_min(_LEAST * mu))

    def on(self, mask: torch.Tensor) -> Preconditioner:
        """Prepare for rows with these columns, (rows, cols) bool."""
        kept, rank = mask.to(self.U.dtype), self.U.shape[1]
        gram = torch.empty(len(mask), rank, rank)
        for i in range(0, rank, _STRIPE):
            products = self.U[:, i : i + _STRIPE, None] * self.U[:, None, :]
            gram[:, i : i + _STRIPE] = (kept @ products.flatten(1)).view(len(mask), -1, rank)
        gram.diagonal(dim1=1, dim2=2).add_(self.weight)
        return Preconditioner(self.U, torch.linalg.cholesky(gram), kept)


@dataclasses.dataclass(frozen=True, eq=False)
class Preconditioner:
    """Multiplies by mu M_SS^-1.

    Attributes:
        U: (cols, rank).
        factor: (rows, rank, rank) lower Cholesky factors.
        kept: (rows, cols), 1 on the row's columns.
    """

    U: torch.Tensor
    factor: torch.Tensor
    kept: torch.Tensor

    def __call__(self, X: torch.Tensor) -> torch.Tensor:
        """Take and return (rows, cols) float32, zero outside the rows' columns."""
        inner = torch.cholesky_solve((X @ self.U)[:, :, None], self.factor)[:, :, 0]
        return X - (inner @ self.U.T) * self.kept
