"""Task + generalist -> the dense specialist: the head cut to the task's classes, kept, or fitted on its pictures."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from taco.errors import TaskError
from taco.head import Linear, cut_head, fit_head, keep_head, plan_head, with_head
from taco.material import Material
from taco.model import Generalist
from taco.options import ExportOptions


@dataclasses.dataclass(frozen=True, slots=True)
class Specialist:
    """The dense specialist: what everything compressed is compared with."""

    module: nn.Module
    head: str


def make_head(generalist: Generalist, material: Material, options: ExportOptions) -> Linear:
    """Cut, keep or fit the head for the task's classes.

    Raises:
        HeadError: See `taco.head.plan_head`.
        TaskError: A head is to be fitted on fewer than two pictures of a class.
    """
    classes = material.task.classes
    choice, rows = plan_head(generalist, classes, options.head, options.class_map)
    if choice == "imagenet":
        return cut_head(generalist, [row for row in rows.values() if row is not None])
    if choice == "keep":
        return keep_head(generalist, classes)
    return _fitted(generalist, material, options.seed)


def specialise(generalist: Generalist, head: Linear) -> Specialist:
    """Return the dense specialist: the generalist ending in `head`."""
    return Specialist(with_head(generalist.module, head), head.description)


def _fitted(generalist: Generalist, material: Material, seed: int) -> Linear:
    # Without evaluation pictures the select pictures judge the result, so the head must not have seen them.
    pictures = material.shots if material.task.evaluation else material.task.fit
    features = penultimate(generalist.module, material.batches(pictures))
    labels = torch.tensor([p.label_index for p in pictures])
    if int(labels.bincount(minlength=len(material.task.classes)).min()) < 2:
        raise TaskError(
            "a new head needs at least 2 pictures of every class to fit on",
            "Add pictures, or use classes that the model already knows (--class-map)",
        )
    return fit_head(features, labels, seed)


def penultimate(module: nn.Module, batches: Iterable[torch.Tensor]) -> torch.Tensor:
    """Return the features that the classifier sees, (n, d) float32."""
    with torch.inference_mode():
        parts = [
            module.forward_head(module.forward_features(x), pre_logits=True)  # type: ignore[operator]
            for x in batches
        ]
    return torch.cat(parts).float().clone()


def predict_logits(module: nn.Module, batches: Iterable[torch.Tensor]) -> npt.NDArray[np.float32]:
    """Return the logits of a torch model, (n, classes) float32; channels_last, which halves the time on a CPU."""
    model = copy.deepcopy(module).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        parts = [model(x.contiguous(memory_format=torch.channels_last)) for x in batches]
    logits: npt.NDArray[np.float32] = torch.cat(parts).float().numpy()
    return logits
