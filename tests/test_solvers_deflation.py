"""The preconditioner against the matrix that it stands for, and what it saves where inputs are nearly copies."""

from __future__ import annotations

import pytest
import torch

from taco.solvers import refit
from taco.solvers.deflation import Deflation, Preconditioner
from taco.solvers.problem import Problem


def _copies(cols: int, seed: int) -> torch.Tensor:
    """Return second moments of inputs that are nearly copies of a few, (cols, cols) float64, unit diagonal."""
    generator = torch.Generator().manual_seed(seed)
    few = torch.randn(cols, 6, generator=generator, dtype=torch.float64)
    noise = torch.randn(cols, 2 * cols, generator=generator, dtype=torch.float64)
    H = few @ few.T + 0.02 * noise @ noise.T / cols
    root = H.diagonal().sqrt()
    return H / (root[:, None] * root)


@pytest.mark.parametrize("cols", [1, 3, 8, 40, 300])
def test_it_is_the_inverse_of_what_the_eigenvectors_say(cols: int) -> None:
    """mu M_SS^-1 times M_SS / mu is the identity on every row's columns, and nothing leaves them."""
    A = _copies(cols, cols).float()
    deflation = Deflation.of(A)
    mask = torch.rand(4, cols, generator=torch.Generator().manual_seed(1)) < 0.5
    mask[0] = True
    precondition = deflation.on(mask)
    shape = torch.eye(cols, dtype=torch.float64)
    shape += (deflation.U.double() / deflation.weight.double()) @ deflation.U.double().T
    for i, row in enumerate(mask):
        kept = row.nonzero()[:, 0]
        for j in kept[:3].tolist():
            X = torch.zeros(len(mask), cols)
            X[i] = torch.where(row, shape[j].float(), 0.0)
            found = precondition(X)[i]
            expected = torch.nn.functional.one_hot(torch.tensor(j), cols).float()
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
            assert not found[~row].any()


def test_it_saves_most_products_where_inputs_are_nearly_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products with H until the same residual, with it and without: less than half; and as good a solution."""
    generator = torch.Generator().manual_seed(5)
    W = torch.randn(1, 8, 300, generator=generator, dtype=torch.float64)
    mask = torch.rand(W.shape, generator=generator) < 0.5
    problem = Problem.of(W, _copies(300, 7)[None], 1e-3)
    used = []
    plain = refit._conjugate

    def counted(*arguments: object) -> tuple[torch.Tensor, int]:
        x, count = plain(*arguments)  # type: ignore[arg-type]
        used.append(count)
        return x, count

    monkeypatch.setattr(refit, "_conjugate", counted)
    deflated = refit.refit_support(problem, mask, widest=1)
    with_it, used[:] = sum(used), []
    monkeypatch.setattr(Preconditioner, "__call__", lambda self, X: X)
    refit.refit_support(problem, mask, widest=1)
    assert 2 * with_it < sum(used)
    assert problem.loss(deflated) <= 1.01 * problem.loss(refit.refit_support(problem, mask))
