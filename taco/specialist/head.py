"""Heads of a specialist: the generalist's cut to the task's rows, the user's own, or a new one."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from taco.errors import HeadError, UnsupportedModuleError
from taco.formats.names import canonical
from taco.model import PLAIN_HEADS, Generalist, classifier_of, imagenet_info
from taco.specialist.classmap import map_classes

HeadChoice = Literal["auto", "imagenet", "fit", "keep"]


@dataclasses.dataclass(frozen=True, slots=True)
class Candidate:
    """A head that was considered.

    Attributes:
        name: What it is, in words.
        percent: Class-balanced accuracy on shots that it did not see, cross-validated where it is fitted.
        chosen: Whether the specialist has it.
    """

    name: str
    percent: float
    chosen: bool


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Without:
    """A head of the same kind that was fitted without a part of the shots.

    Attributes:
        index: (k,) int64, places of the shots that it has not seen.
        weight: (classes, features) float32.
        bias: (classes,) float32.
    """

    index: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor


@dataclasses.dataclass(frozen=True, slots=True)
class Linear:
    """A linear head and what else of the generalist was changed with it.

    Attributes:
        weight: (classes, features) float32.
        bias: (classes,) float32.
        description: What chose it, in words.
        candidates: All that were compared; empty where there was no choice.
        tuned: Name -> value of the generalist's other parameters that were fine-tuned.
        without: Of a fitted head, the same for each part of the shots fitted without it; empty of others.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    description: str
    candidates: tuple[Candidate, ...] = ()
    tuned: Mapping[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    without: tuple[Without, ...] = ()


def plan_head(
    generalist: Generalist, classes: Sequence[str], choice: HeadChoice, class_map: Path | None
) -> tuple[HeadChoice, dict[str, int | None]]:
    """Decide between cutting the head, fitting one and keeping it; returns the decision and the rows.

    Raises:
        HeadError: Only some classes are mapped, `imagenet` or `keep` cannot be done, or the map is wrong.
    """
    if choice == "keep":
        return "keep", dict.fromkeys(classes)
    if choice == "fit":
        return "fit", dict.fromkeys(classes)
    if generalist.imagenet_subset is None:
        return _without_labels(generalist, classes, choice, class_map)
    rows = map_classes(classes, imagenet_info(generalist.imagenet_subset), class_map)
    missing = [c for c, row in rows.items() if row is None]
    if not missing:
        return "imagenet", rows
    if len(missing) == len(rows) and choice == "auto":
        return "fit", rows
    raise HeadError(
        f"{len(missing)} of {len(rows)} classes have no ImageNet label: {', '.join(missing[:5])}"
        + (", ..." if len(missing) > 5 else ""),
        "Map them with --class-map FILE, or fit a new head for all classes with --head fit",
    )


def _without_labels(
    generalist: Generalist, classes: Sequence[str], choice: HeadChoice, class_map: Path | None
) -> tuple[HeadChoice, dict[str, int | None]]:
    if choice == "imagenet" or class_map is not None:
        raise HeadError(
            f"the head of {generalist.name} does not follow ImageNet's labels, so no class can be mapped to it",
            "Use --head fit, or --head keep for a checkpoint of your own",
        )
    return "fit", dict.fromkeys(classes)


def check_classifier(generalist: Generalist) -> None:
    """Refuse a model in which exchanging one linear layer does not give a new head, before any picture is read.

    Raises:
        UnsupportedModuleError: It ends in something else, or its outputs are not what its classifier gives (VOLO).
    """
    seen: list[torch.Tensor] = []
    hook = classifier_of(generalist.module).register_forward_hook(lambda _, __, given: seen.append(given.clone()))
    try:
        with torch.inference_mode():
            outputs = generalist.module(torch.zeros(1, *generalist.preprocessing.input_size))
    finally:
        hook.remove()
    own = seen[0] if len(seen) == 1 else torch.empty(0)
    if own.shape != outputs.shape or not torch.allclose(outputs, own, rtol=0, atol=0, equal_nan=True):
        raise UnsupportedModuleError(f"the outputs of {generalist.name} are more than its classifier's", PLAIN_HEADS)


def cut_head(generalist: Generalist, rows: Sequence[int]) -> Linear:
    """Return the generalist's head restricted to `rows`."""
    head = classifier_of(generalist.module)
    index = torch.as_tensor(list(rows))
    bias = torch.zeros(len(index)) if head.bias is None else head.bias.detach()[index]
    return Linear(head.weight.detach()[index].clone(), bias.clone(), f"imagenet-rows ({len(index)} rows of the head)")


def keep_head(generalist: Generalist, classes: Sequence[str], written: Sequence[str] = ()) -> Linear:
    """Return the user's own head with its rows in the order of `classes`.

    The checkpoint's own class names are used where it carries them; otherwise its rows are taken to be the class
    folders in sorted order, as torchvision's ImageFolder numbers them.

    Args:
        generalist: With the user's head.
        classes: By their canonical names.
        written: The same as the folders are called, where `blank` is `empty`, say; nothing where just so.

    Raises:
        HeadError: The numbers or the names of the classes differ.
    """
    head = classifier_of(generalist.module)
    in_order = sorted(zip(written or classes, classes, strict=True))
    own = tuple(map(canonical, generalist.classes or ())) or tuple(name for _, name in in_order)
    if generalist.classes and (len(own) != head.out_features or len(set(own)) < len(own)):
        raise HeadError(
            f"--head keep: the checkpoint names {len(set(own))} different classes for {head.out_features} outputs",
            "Correct the names in the checkpoint, or leave them out",
        )
    absent = [c for c in classes if c not in own]
    if len(own) != head.out_features or absent:
        names = ", ".join(own[:5]) + (", ..." if len(own) > 5 else "")
        raise HeadError(
            f"--head keep: the checkpoint has {head.out_features} classes"
            + (f" ({names})" if generalist.classes else "")
            + f", the task has {len(classes)}"
            + (f"; {absent[0]!r} is not among them" if absent else ""),
            "Give the pictures of exactly the classes it was trained on, or use --head fit",
        )
    index = torch.as_tensor([own.index(c) for c in classes])
    bias = torch.zeros(len(index)) if head.bias is None else head.bias.detach()[index]
    named = "names from the checkpoint" if generalist.classes else "class folders in sorted order"
    return Linear(head.weight.detach()[index].clone(), bias.clone(), f"keep ({named})")


def with_head(module: nn.Module, head: Linear) -> nn.Module:
    """Return a copy of the model that ends in `head`; the given one is not modified."""
    specialist = copy.deepcopy(module)
    layer = classifier_of(specialist)  # changed in place: timm's reset_classifier undoes what merging did to some heads
    layer.weight = nn.Parameter(head.weight.clone())
    layer.bias = nn.Parameter(head.bias.clone())  # the original may have had none
    layer.out_features = len(head.bias)
    if "num_classes" in vars(specialist):
        vars(specialist)["num_classes"] = len(head.bias)
    with torch.no_grad():
        for name, value in head.tuned.items():
            specialist.get_parameter(name).copy_(value)
    return specialist.eval().requires_grad_(False)
