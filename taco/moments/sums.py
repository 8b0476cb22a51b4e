"""First and second moments of a layer's unfolded inputs, and the sums that they come from.

Products are float32, sums float64. A product is taken about an origin, the mean of the first inputs seen, so that a
large mean costs no precision; only the lower triangle is computed, in stripes.
"""

from __future__ import annotations

import dataclasses

import torch

from taco.errors import SolverError

#: Columns of one stripe: narrower ones waste less of the upper triangle, wider ones multiply faster.
STRIPE = 1024
#: A second moment below this part of the squared origin is what float32 products leave of zero.
ROUNDING = 1e-6


@dataclasses.dataclass(frozen=True, slots=True)
class Moments:
    """First and second moments of a layer's unfolded input.

    Attributes:
        second: (groups, cols, cols) float64, X X^T / n.
        mean: (groups, cols) float64.
        n: Number of unfolded positions summed.
        passed_over: Positions that there were besides, not summed because positions were sampled.
    """

    second: torch.Tensor
    mean: torch.Tensor
    n: int
    passed_over: int = 0

    @property
    def H(self) -> torch.Tensor:  # the paper's letter
        """Return 2 X X^T / n, (groups, cols, cols) float64."""
        return 2.0 * self.second

    @property
    def centred_H(self) -> torch.Tensor:
        """Return 2 Cov(X), (groups, cols, cols) float64: the Hessian when the bias is refitted too."""
        return 2.0 * torch.baddbmm(self.second, self.mean[:, :, None], self.mean[:, None, :], alpha=-1)

    @property
    def subsampled(self) -> bool:
        """Tell whether only some of the positions were summed."""
        return self.passed_over > 0

    @property
    def positions_seen(self) -> int:
        """Number of positions that the layer computed, summed or not."""
        return self.n + self.passed_over

    @staticmethod
    def merge(a: Moments, b: Moments) -> Moments:
        """Return the moments of two sets of pictures taken together, exact to float64 rounding."""
        n, weight = a.n + b.n, b.n / (a.n + b.n)
        second, mean = a.second.lerp(b.second, weight), a.mean.lerp(b.mean, weight)
        return Moments(second, mean, n, a.passed_over + b.passed_over)


@dataclasses.dataclass(frozen=True, slots=True)
class LayerMoments:
    """The moments of one layer on two halves of the pictures, to choose a damping by what was not fitted.

    Attributes:
        fit: The pictures with even numbers, or all of them when no halves were asked for.
        held_out: Those with odd numbers; None when no halves were asked for, or when there is only one picture.
    """

    fit: Moments
    held_out: Moments | None

    @property
    def all(self) -> Moments:
        """Return the moments on all pictures; a new float64 matrix where there are halves."""
        return self.fit if self.held_out is None else Moments.merge(self.fit, self.held_out)


class Sums:
    """Running sums of one layer's unfolded inputs, about an origin.

    Attributes:
        origin: (groups, cols) float32, what every row had subtracted; None before the first.
    """

    def __init__(self) -> None:
        self.origin: torch.Tensor | None = None
        self._second = self._total = torch.zeros(())
        self._n = self._passed_over = 0

    @staticmethod
    def size_bytes(groups: int, cols: int) -> int:
        """Return what the float64 sums of one layer occupy."""
        return 8 * groups * cols * (cols + 1)

    def start(self, origin: torch.Tensor) -> None:
        """Fix the origin, (groups, cols) float32."""
        groups, cols = origin.shape
        self.origin = origin
        self._total = origin.new_zeros((groups, cols), dtype=torch.float64)
        self._second = origin.new_zeros((groups, cols, cols), dtype=torch.float64)

    def add(self, rows: torch.Tensor, passed_over: int = 0) -> None:
        """Add unfolded inputs.

        Args:
            rows: (groups, positions, cols) float32, the origin subtracted.
            passed_over: Positions left out of them.
        """
        _, positions, cols = rows.shape
        self._total += rows.sum(1)
        for begin in range(0, cols, STRIPE):
            end = begin + STRIPE
            self._second[:, begin:end, :end] += rows[:, :, begin:end].transpose(1, 2) @ rows[:, :, :end]
        self._n += positions
        self._passed_over += passed_over

    def finish(self, name: str) -> Moments:
        """Turn the sums into moments, in their own memory; nothing can be added afterwards.

        Args:
            name: The layer's, for the message.

        Raises:
            SolverError: The inputs overflowed.
        """
        assert self.origin is not None  # noqa: S101 - whoever finishes has added
        origin, moved = self.origin.double(), self._total / self._n
        mean = origin + moved
        second = self._second.div_(self._n)
        second.baddbmm_(origin[:, :, None], mean[:, None, :]).baddbmm_(moved[:, :, None], origin[:, None, :])
        if not (second.diagonal(dim1=1, dim2=2).isfinite().all() and mean.isfinite().all()):
            raise SolverError(
                f"the inputs of {name} are not finite on these pictures", "Check the weights: the dense model overflows"
            )
        # A tap that only ever reads padding is dead; about an origin its zero would come out as rounding.
        dead = second.diagonal(dim1=1, dim2=2) < ROUNDING * origin.square()
        if dead.any():
            mean = mean.masked_fill(dead, 0.0)
            second.masked_fill_(dead[:, :, None], 0.0).masked_fill_(dead[:, None, :], 0.0)
        _mirror(second)
        return Moments(second, mean, self._n, self._passed_over)


def _mirror(second: torch.Tensor) -> None:
    """Copy the lower triangle of (groups, cols, cols) into the upper one, stripe by stripe."""
    for begin in range(0, second.shape[1], STRIPE):
        end = begin + STRIPE
        block = second[:, begin:end, begin:end]
        block.copy_(0.5 * (block + block.transpose(1, 2)))
        second[:, :begin, begin:end] = second[:, begin:end, :begin].transpose(1, 2)
