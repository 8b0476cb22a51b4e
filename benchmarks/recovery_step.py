"""One distillation step: channels_last and bfloat16, stored teacher, against plain float32 with the teacher inside."""

from __future__ import annotations

import copy

import numpy as np
import timm
import torch
from torch.nn import functional as F

from benchmarks._interleave import compare
from taco.device.images import Preprocessing
from taco.recover import RecoveryOptions, _Trainer
from taco.views import as_inputs, ask_teacher, outputs

BATCH = 32


def main() -> None:
    """Compare on EfficientNet-Lite0 with random weights."""
    teacher = timm.create_model("tf_efficientnet_lite0", num_classes=8).eval()
    preprocessing = Preprocessing.from_dict(timm.data.resolve_model_data_config(teacher))
    pixels = np.random.default_rng(0).integers(0, 255, (2 * BATCH, 224, 224, 3), dtype=np.uint8)
    bank = ask_teacher(copy.deepcopy(teacher).to(memory_format=torch.channels_last), pixels, preprocessing)
    ours = _Trainer(teacher, bank, RecoveryOptions(batch=BATCH), steps=1000)
    student = copy.deepcopy(teacher)
    optimiser = torch.optim.AdamW(student.parameters(), 5e-4)

    def plain() -> None:
        x = as_inputs(pixels[:BATCH], preprocessing).contiguous()
        with torch.no_grad():
            t, answer = outputs(teacher, x)
        features, logits = outputs(student, x)
        loss = (features - t).square().sum() / t.square().sum()
        loss = loss + F.kl_div(logits.log_softmax(1), answer.log_softmax(1), log_target=True, reduction="batchmean")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    compare("recovery step, Lite0, batch 32", plain, lambda: ours.step(1), rounds=5)


if __name__ == "__main__":
    main()
