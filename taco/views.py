"""A fixed bank of augmented views with the teacher's outputs, computed once and read by every epoch of recovery.

Few pictures over-fit fast; many crops of each do not, and a frozen teacher answers the same for each (METHOD.md 6).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torchvision.transforms import v2

from taco.device.images import Preprocessing, to_tensor
from taco.errors import TaskError

Pixels = npt.NDArray[np.uint8]
_BATCH = 32


@dataclasses.dataclass(frozen=True, slots=True)
class TeacherBank:
    """Views and what the teacher says about them.

    Attributes:
        pixels: (n, H, W, 3) uint8.
        features: (n, ...) float16 (float32 where that would overflow), the teacher's last feature map.
        logits: (n, classes) float32.
        preprocessing: Turns pixels into inputs.
    """

    pixels: Pixels
    features: torch.Tensor
    logits: torch.Tensor
    preprocessing: Preprocessing

    def inputs(self, index: npt.NDArray[np.int64]) -> torch.Tensor:
        """Return the views `index` as (n, 3, H, W) float32 in channels_last."""
        return as_inputs(self.pixels[index], self.preprocessing)


def as_inputs(pixels: Pixels, preprocessing: Preprocessing) -> torch.Tensor:
    """Normalise (n, H, W, 3) uint8 pixels into a channels_last float32 batch (n, 3, H, W)."""
    return torch.from_numpy(to_tensor(pixels, preprocessing)).contiguous(memory_format=torch.channels_last)


def augmented_views(pictures: Sequence[Pixels], views: int, preprocessing: Preprocessing, seed: int) -> Pixels:
    """Return `views` random resized crops, half of them mirrored, of every picture; the first picture's come first.

    Args:
        pictures: (h, w, 3) uint8 each, any size.
        views: Crops of each.
        preprocessing: Gives the size and the interpolation (bicubic, else bilinear).
        seed: Draws the crops.
    """
    _, height, width = preprocessing.input_size
    bicubic = preprocessing.interpolation == "bicubic"
    how = v2.InterpolationMode.BICUBIC if bicubic else v2.InterpolationMode.BILINEAR
    crop = v2.Compose(
        [
            v2.RandomResizedCrop(
                (height, width), scale=(0.35, 1.0), ratio=(0.75, 4 / 3), interpolation=how, antialias=True
            ),
            v2.RandomHorizontalFlip(),
        ]
    )
    bank = np.empty((len(pictures) * views, height, width, 3), np.uint8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for i, picture in enumerate(pictures):
            tensor = torch.from_numpy(picture.copy()).permute(2, 0, 1)
            for k in range(views):
                bank[i * views + k] = crop(tensor).permute(1, 2, 0).numpy()
    return bank


def ask_teacher(
    teacher: nn.Module,
    pixels: Pixels,
    preprocessing: Preprocessing,
    *,
    exact: bool = False,
    progress: Callable[[int], None] | None = None,
) -> TeacherBank:
    """Run the teacher once over all views.

    Args:
        teacher: The dense specialist, eval mode, channels_last.
        pixels: (n, H, W, 3) uint8.
        preprocessing: Turns pixels into inputs.
        exact: Compute in float32 even where bfloat16 is faster.
        progress: Called with the number of views of each batch when it is done.

    Raises:
        TaskError: There is no view.
    """
    if not len(pixels):
        raise TaskError("there is no picture to ask the teacher about", "Give more pictures a class")
    features: list[torch.Tensor] = []
    logits: list[torch.Tensor] = []
    for start in range(0, len(pixels), _BATCH):
        chunk = pixels[start : start + _BATCH]
        with torch.no_grad(), autocast(enabled=not exact):
            last, answer = outputs(teacher, as_inputs(chunk, preprocessing))
        features.append(_compact(last))
        logits.append(answer.float())
        if progress is not None:
            progress(len(chunk))
    return TeacherBank(pixels, torch.cat(features), torch.cat(logits), preprocessing)


def _compact(features: torch.Tensor) -> torch.Tensor:
    """Return float16 where every value fits, else float32."""
    half = features.half()
    return half if bool(half.isfinite().all()) else features.float()


def outputs(model: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a timm model's last feature map and its logits."""
    features: torch.Tensor = model.forward_features(x)  # type: ignore[operator]
    logits: torch.Tensor = model.forward_head(features)  # type: ignore[operator]
    return features, logits


def autocast(*, enabled: bool = True) -> torch.autocast:
    """Return bfloat16 autocast where this processor has bfloat16 arithmetic, a no-op elsewhere."""
    return torch.autocast("cpu", torch.bfloat16, enabled=enabled and has_bfloat16())


def has_bfloat16() -> bool:
    """Tell whether this processor computes in bfloat16 natively (AVX512_BF16, AMX or Arm's bf16)."""
    tests = ("_is_avx512_bf16_supported", "_is_amx_tile_supported", "_is_arm_bf16_supported")
    return any(bool(getattr(torch.cpu, name)()) for name in tests if hasattr(torch.cpu, name))
