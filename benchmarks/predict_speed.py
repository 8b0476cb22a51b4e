"""Answers of a torch model to many pictures: as `predict_logits` computes them, against a plain channels_last pass.

Probes, candidates and evaluation ask torch models about hundreds of pictures, each of which is cut once and forgotten:
that their norms go inside their convolutions (`taco.surgery.fused`) has to pay for itself every time.
"""

from __future__ import annotations

import copy
import functools

import timm
import torch
from torch import nn

from benchmarks._interleave import compare
from taco.specialist.specialise import predict_logits

_MODELS = ("tf_efficientnet_lite0", "mobilenetv3_small_100", "resnet50")
#: Batches of 32: what the select pictures of a small task are, and looks at all of its shots.
_BATCHES = (1, 6)


def plain(module: nn.Module, batches: list[torch.Tensor]) -> torch.Tensor:
    """Return the logits of a channels_last copy, layer by layer."""
    model = copy.deepcopy(module).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        return torch.cat([model(batch) for batch in batches])


def main() -> None:
    """Compare each model on few and on many pictures."""
    for name in _MODELS:
        model = timm.create_model(name).eval().requires_grad_(False)
        batch = torch.randn(32, 3, 224, 224, generator=torch.Generator().manual_seed(0))
        batch = batch.contiguous(memory_format=torch.channels_last)
        for count in _BATCHES:
            batches = [batch] * count
            compare(
                f"{name}, {32 * count} pictures",
                functools.partial(plain, model, batches),
                functools.partial(predict_logits, model, batches),
                rounds=5,
            )


if __name__ == "__main__":
    main()
