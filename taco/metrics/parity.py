"""Whether the exported file computes what the torch model computes (ARCHITECTURE section 8; numpy only).

fp32: the largest difference of a logit is at most 1e-3 of the logits' largest magnitude, and the answers agree on every
picture whose two best logits lie more than ten tolerances apart.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from taco.errors import GateError

RELATIVE_TOLERANCE = 1e-3
CLEAR_MARGIN = 10.0


@dataclasses.dataclass(frozen=True, slots=True)
class ParityResult:
    """Differences between two sets of logits.

    Attributes:
        max_abs: Largest absolute difference.
        tolerance: What is allowed.
        argmax_agreement: Percent, over the pictures with a clear margin.
        counted: How many have one.
        images: How many were compared.
    """

    max_abs: float
    tolerance: float
    argmax_agreement: float
    counted: int
    images: int

    @property
    def passed(self) -> bool:
        """Whether both conditions hold."""
        return self.max_abs <= self.tolerance and self.argmax_agreement >= 100.0


def compare(expected: npt.NDArray[np.float32], got: npt.NDArray[np.float32]) -> ParityResult:
    """Compare logits, both (n, classes) float32.

    Raises:
        GateError: The shapes differ, a value is not finite, or no picture has a clear margin.
    """
    if expected.shape != got.shape or expected.ndim != 2 or expected.size == 0:
        raise GateError(f"the exported model gave logits of shape {got.shape}, torch gave {expected.shape}")
    if not np.isfinite(expected).all() or not np.isfinite(got).all():
        raise GateError("a logit is not a finite number", "Check the weights; a shorter recovery may also help")
    tolerance = RELATIVE_TOLERANCE * float(np.abs(expected).max())
    clear = _margins(expected) > CLEAR_MARGIN * tolerance
    if not clear.any():
        raise GateError(
            f"no picture of {len(expected)} is clearly one class for the torch model: answers cannot be compared",
            "Its head separates nothing: check the weights and the classes",
        )
    same = (expected.argmax(1) == got.argmax(1))[clear]
    worst = float(np.abs(expected - got).max())
    return ParityResult(worst, tolerance, 100.0 * float(same.mean()), int(clear.sum()), len(expected))


def require(result: ParityResult) -> None:
    """Pass, or say why not.

    Raises:
        GateError: Beyond the tolerance, or a clear answer changed.
    """
    if not result.passed:
        raise GateError(
            f"the exported model differs from torch by {result.max_abs:.3g} (allowed {result.tolerance:.3g}); "
            f"{result.argmax_agreement:.1f} % of {result.counted} clear answers agree",
            "Nothing was shipped. Please report this with `--debug` and the versions of torch, onnx and onnxruntime",
        )


def _margins(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the distance of the two best logits of every picture; infinite for a single class."""
    if logits.shape[1] < 2:
        return np.full(len(logits), np.inf, np.float32)
    top = np.partition(logits, -2, axis=1)[:, -2:]
    margins: npt.NDArray[np.float32] = top[:, 1] - top[:, 0]
    return margins
