"""Channel selection: batched block elimination against removing one channel at a time."""

from __future__ import annotations

import torch

from benchmarks._interleave import compare
from taco.solvers.channels import obs_order

ROWS, CHANNELS = 192, 1152


def main() -> None:
    """Compare on the widest layer of EfficientNet-Lite0; prints the loss at half width of both, too."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(CHANNELS, 200, generator=generator, dtype=torch.float64)
    X = torch.relu(mixing @ torch.randn(200, 4000, generator=generator, dtype=torch.float64) / 14)  # noqa: N806
    H = 2 * X @ X.T / X.shape[1]  # noqa: N806
    W = torch.randn(ROWS, CHANNELS, generator=generator, dtype=torch.float64)  # noqa: N806
    compare(
        "channel order, 1152 channels",
        lambda: obs_order(W, H, batches=CHANNELS),
        lambda: obs_order(W, H),
        rounds=3,
    )
    half = CHANNELS // 2
    one, many = obs_order(W, H, batches=CHANNELS).loss[half], obs_order(W, H).loss[half]
    print(f"loss at half width: batched {float(many / one):.4f} times that of one at a time")


if __name__ == "__main__":
    main()
