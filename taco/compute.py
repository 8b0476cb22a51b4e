"""Where models are trained and asked: this processor, or an NVIDIA GPU that torch sees (`--compute`)."""

from __future__ import annotations

import copy
import itertools

import torch
from torch import nn

from taco.errors import MeasurementError

CPU = torch.device("cpu")


def choose_device(asked: str) -> torch.device:
    """Return where torch computes.

    On a GPU cuDNN is told to compute in full float32 and always by the same algorithms, so that one seed repeats there
    (attention's gradients in all but the last digits) and losses compare with a processor's. What training gains by
    fewer bits, bfloat16 gives where it is faster.

    Args:
        asked: `auto` (a GPU where torch sees one), `cpu`, `cuda` or `cuda:N`.

    Raises:
        MeasurementError: A GPU is asked for, and torch sees none of that number.
    """
    seen = torch.cuda.device_count() if asked != "cpu" and torch.cuda.is_available() else 0
    if asked == "cpu" or (asked == "auto" and not seen):
        return CPU
    device = torch.device("cuda", 0 if asked in ("auto", "cuda") else int(asked.partition(":")[2]))
    if device.index >= seen:
        found = f"{seen} of them" if seen else "none"
        raise MeasurementError(
            f"--compute {asked}: torch needs an NVIDIA GPU for that and sees {found}",
            "Look at nvidia-smi, and whether this torch was built for CUDA (`python -m torch.utils.collect_env`); "
            "--compute cpu does without",
        )
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = False, True
    return device


def device_of(model: nn.Module) -> torch.device:
    """Return where a model's tensors lie."""
    first = next(itertools.chain(model.parameters(), model.buffers()), None)
    return CPU if first is None else first.device


def moved(model: nn.Module, device: torch.device) -> nn.Module:
    """Return the model where it lies on that device already, else a copy there."""
    return model if device_of(model) == device else copy.deepcopy(model).to(device)


def finished(device: torch.device) -> None:
    """Wait until a GPU has done what it was given; a processor has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def name_of(device: torch.device) -> str:
    """Return a device's name for people."""
    return "this processor" if device.type == "cpu" else torch.cuda.get_device_name(device)
