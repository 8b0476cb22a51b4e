"""From a generalist to a specialist: its head cut to the task's rows, or a new linear head fitted on cached features.

A fitted head is ridge or multinomial logistic regression in the row space of the features (X = U S V^T, so the number
of unknowns is the number of pictures, not of features). Kind and regularisation come from cross-validation on the
shots; its temperature makes the logits usable as probabilities.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from taco.classmap import map_classes
from taco.errors import HeadError
from taco.model import Generalist, classifier_of, imagenet_info

HeadChoice = Literal["auto", "imagenet", "fit", "keep"]

#: Strongest first: a tie in cross-validation goes to the simpler head. Multiples of the mean squared feature.
_STRENGTHS = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
_TEMPERATURES = tuple(2.0**k for k in range(-2, 8))


@dataclasses.dataclass(frozen=True, slots=True)
class Linear:
    """A linear head: weight (classes, features), bias (classes,), float32, and what chose it in words."""

    weight: torch.Tensor
    bias: torch.Tensor
    description: str


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


def cut_head(generalist: Generalist, rows: Sequence[int]) -> Linear:
    """Return the generalist's head restricted to `rows`."""
    head = classifier_of(generalist.module)
    index = torch.as_tensor(list(rows))
    bias = torch.zeros(len(index)) if head.bias is None else head.bias.detach()[index]
    return Linear(head.weight.detach()[index].clone(), bias.clone(), f"imagenet-rows ({len(index)} rows of the head)")


def keep_head(generalist: Generalist, classes: Sequence[str]) -> Linear:
    """Return the user's own head with its rows in the order of `classes`.

    The checkpoint's own class names are used where it carries them; otherwise its rows are taken to be the class
    folders in sorted order, as torchvision's ImageFolder numbers them.

    Raises:
        HeadError: The numbers or the names of the classes differ.
    """
    head = classifier_of(generalist.module)
    own = generalist.classes or tuple(sorted(classes))
    absent = [c for c in classes if c not in own]
    if len(own) != head.out_features or absent:
        raise HeadError(
            f"--head keep: the checkpoint has {head.out_features} classes"
            + (f" ({', '.join(own[:5])}, ...)" if generalist.classes else "")
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
    specialist.reset_classifier(len(head.bias))  # type: ignore[operator]
    layer = classifier_of(specialist)
    with torch.no_grad():
        layer.weight.copy_(head.weight)
        layer.bias.copy_(head.bias)
    return specialist.eval().requires_grad_(False)


@dataclasses.dataclass(frozen=True, slots=True)
class _Candidate:
    kind: Literal["logistic", "ridge"]
    strength: float


def fit_head(features: torch.Tensor, labels: torch.Tensor, seed: int = 0) -> Linear:
    """Fit a linear head, kind and regularisation chosen by cross-validation.

    Args:
        features: (n, d) penultimate features of the shots.
        labels: (n,) int64, every class at least twice.
        seed: Draws the folds.
    """
    X = features.double()
    centre = X.mean(0)
    X = X - centre
    folds = _folds(labels, seed)
    results = [(c, _cross_validate(X, labels, folds, c)) for c in _candidates()]
    best, held_out = max(results, key=lambda item: _accuracy(item[1], labels))  # max keeps the first of equals
    temperature = _temperature(held_out, labels)
    weight, bias = _solve(X, labels, best)
    weight, bias = weight * temperature, bias * temperature
    return Linear(
        weight.float(),
        (bias - weight @ centre).float(),
        f"fit-{best.kind} (strength {best.strength:g} and temperature by {len(folds)}-fold cross-validation on "
        f"{len(labels)} shots: {_accuracy(held_out, labels):.1f} %)",
    )


def _candidates() -> list[_Candidate]:
    return [_Candidate(kind, s) for kind in ("logistic", "ridge") for s in _STRENGTHS]


def _folds(labels: torch.Tensor, seed: int) -> list[torch.Tensor]:
    """Stratified folds as index tensors; as many as the rarest class has pictures, at most 5."""
    generator = torch.Generator().manual_seed(seed)
    count = int(labels.bincount().min())
    fold_of = torch.empty_like(labels)
    k = max(2, min(5, count))
    for c in labels.unique():
        members = (labels == c).nonzero().flatten()
        fold_of[members[torch.randperm(len(members), generator=generator)]] = torch.arange(len(members)) % k
    return [(fold_of == i).nonzero().flatten() for i in range(k)]


def _cross_validate(
    X: torch.Tensor, labels: torch.Tensor, folds: Sequence[torch.Tensor], candidate: _Candidate
) -> torch.Tensor:
    """Return the held-out logits of every shot, (n, classes)."""
    logits = torch.zeros(len(X), int(labels.max()) + 1, dtype=X.dtype)
    for held in folds:
        train = torch.ones(len(X), dtype=torch.bool)
        train[held] = False
        weight, bias = _solve(X[train], labels[train], candidate, classes=logits.shape[1])
        logits[held] = X[held] @ weight.T + bias
    return logits


def _solve(
    X: torch.Tensor, labels: torch.Tensor, candidate: _Candidate, classes: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Solve one head; returns weight (classes, d) and bias (classes,)."""
    U, S, Vh = torch.linalg.svd(X, full_matrices=False)
    Z = U * S
    penalty = candidate.strength * float(X.square().sum(1).mean()) / len(X)
    targets = F.one_hot(labels, classes or int(labels.max()) + 1).double()
    if candidate.kind == "ridge":
        bias = targets.mean(0)
        coefficients = (Z / (S.square() + penalty * len(X))).T @ (targets - bias)
    else:
        coefficients, bias = _logistic(Z, labels, targets.shape[1], penalty)
    return (Vh.T @ coefficients).T, bias


def _logistic(Z: torch.Tensor, labels: torch.Tensor, classes: int, penalty: float) -> tuple[torch.Tensor, torch.Tensor]:
    scale = Z.square().sum(1).mean().sqrt()
    parameters = torch.zeros(Z.shape[1] + 1, classes, dtype=Z.dtype, requires_grad=True)
    optimiser = torch.optim.LBFGS([parameters], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        weight = parameters[:-1]
        value: torch.Tensor = F.cross_entropy(Z / scale @ weight + parameters[-1], labels)
        value = value + 0.5 * penalty / float(scale**2) * weight.square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    return parameters[:-1].detach() / scale, parameters[-1].detach()


def _accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Class-balanced accuracy in percent."""
    hit = (logits.argmax(1) == labels).double()
    return 100.0 * float(torch.stack([hit[labels == c].mean() for c in labels.unique()]).mean())


def _temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    return min(_TEMPERATURES, key=lambda t: float(F.cross_entropy(logits * t, labels)))
